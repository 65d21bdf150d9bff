// Addresses that no mail is taken for: listed, added, taken out.
import { get, post, remove } from './api.js';
import { ask } from './confirm.js';
import { byId, h, notice, setText } from './dom.js';
import { plural, time } from './format.js';
import { repeat } from './live.js';
import { mayOperate } from './session.js';
import { table } from './table.js';

const PAGE = 50;
const REFRESH = 30_000; // milliseconds

let shown = [];
let next;
let pages = 1;
let update = () => {};
let again = () => {};

const columns = () => [
  { label: 'Address', class: 'wide', shows: ({ address }) => address },
  { label: 'Since', shows: ({ since }) => since ?? '–', cell: ({ since }) => (since ? time(since) : '–') },
  { label: 'Reason', class: 'wide', shows: ({ reason }) => reason || '–' },
  ...(mayOperate() ? [{ label: 'Allow', shows: ({ address }) => address, cell: (entry) => h('button', { type: 'button', onclick: () => allow(entry), 'aria-label': `Allow again: ${entry.address}` }, 'Allow again') }] : []),
];

/** Builds the list and keeps it fresh. */
export function begin() {
  update = table(byId('suppression-table'), {
    caption: 'Suppressed addresses', columns: columns(), keyOf: ({ address }) => address, empty: 'No address is suppressed.',
  });
  byId('suppress')?.addEventListener('submit', add);
  byId('more-suppressions').addEventListener('click', () => {
    pages += 1;
    return load(next);
  });
  again = repeat(REFRESH, () => (pages > 1 ? undefined : load()));
}

const trouble = (text) => setText(byId('suppressions').querySelector('.trouble'), text);

/** The relay keeps no such list: nothing can be put on it. */
function off(why) {
  byId('suppress')?.remove();
  byId('suppression-table').replaceChildren(h('p', { class: 'quiet' }, why));
}

function fresh() {
  pages = 1;
  again();
}

async function load(after) {
  try {
    const page = await get('/api/v1/suppressions', { limit: PAGE, after });
    trouble('');
    const known = new Set(after ? shown.map(({ address }) => address) : []);
    shown = [...(after ? shown : []), ...page.suppressions.filter(({ address }) => !known.has(address))];
    next = page.next;
    update(shown);
    byId('more-suppressions').hidden = next === undefined;
    setText(byId('suppressions-count'), plural(page.total, 'address', 'addresses'));
  } catch (problem) {
    if (problem.status === 404) off(problem.message);
    else if (problem.status !== 401) trouble(problem.message);
  }
}

async function add(event) {
  event.preventDefault();
  const form = event.currentTarget;
  const { address, reason } = form.elements;
  try {
    await post('/api/v1/suppressions', { address: address.value.trim(), reason: reason.value.trim() });
    notice(`No mail is taken for ${address.value.trim()} from now on.`);
    form.reset();
    trouble('');
    fresh();
  } catch (problem) {
    trouble(problem.message);
  }
}

async function allow({ address }) {
  const answer = await ask({ title: 'Allow this address again?', yes: 'Allow', body: h('p', {}, 'Mail for ', h('b', {}, address), ' is taken again.') });
  if (!answer) return;
  try {
    await remove('/api/v1/suppressions', { address });
    notice(`Mail for ${address} is taken again.`);
    fresh();
  } catch (problem) {
    notice(problem.message, 'bad');
  }
}
