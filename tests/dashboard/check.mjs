// Runs the dashboard's tests one after the other: check.mjs [--update] [NAME].
import { acts } from './acts.mjs';
import { looks } from './looks.mjs';
import { pictures } from './pictures.mjs';
import { rare } from './rare.mjs';
import { steering } from './steering.mjs';
import { open, shut, stopRelay } from './stage.mjs';

const words = process.argv.slice(2);
const update = words.includes('--update');
const only = words.find((word) => !word.startsWith('--')) ?? '';
let failed = 0;

await open();
for (const [name, test] of Object.entries({ ...steering, ...acts, ...rare, ...looks, ...(update ? pictures : {}) })) {
  if (!name.includes(only)) continue;
  const began = performance.now();
  try {
    await test({ update });
    console.log(`ok    ${name} (${Math.round(performance.now() - began)} ms)`);
  } catch (error) {
    failed += 1;
    console.error(`FAIL  ${name}\n${error.stack}`);
  }
}
await shut();
await stopRelay();
if (failed) console.error(`${failed} of the dashboard's tests failed`);
process.exit(failed ? 1 : 0);
