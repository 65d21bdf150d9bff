// A browser over the mock or the real relay, and what no test may see: an error, a breach of the page's policy, a request
// to anybody else, or a script of an attacker that has run.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { start } from './mock.mjs';
import { Relay, TOKENS } from './relay.mjs';

const { chromium } = createRequire(`${process.env.PLACE}/`)('playwright-core');
export const PATIENCE = 10_000; // milliseconds

let browser;

export async function open() {
  // Only our own page is loaded, from this machine; in a container root has no sandbox to give.
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: process.getuid() === 0 ? ['--no-sandbox'] : [] });
}

export const shut = () => browser?.close();

/**
 * Runs `play({ page, mock, visit })` with a browser context and a mock of its own.
 * `refusals`: statuses that the mock is meant to answer with, which the browser writes to its console.
 */
export async function stage({ prepare = () => {}, ...options }, play) {
  const mock = await start();
  prepare(mock.state);
  try {
    await watched(mock.url, options, async (page) => {
      const visit = async (path = '/') => {
        await page.goto(mock.url + path);
        await page.locator('#messages tbody tr').first().waitFor();
        await page.locator('#tile-queued').waitFor();
      };
      await play({ page, mock, visit });
    });
  } finally {
    await mock.close();
  }
}

let relay;

/**
 * Runs `play({ page, relay, visit })` over the real relay, which all of these tests share: each has mail of its own.
 * `who`: whose token the browser has signed in with; null for nobody's.
 */
export async function real({ who = 'admin', ...options }, play) {
  relay ??= await Relay.start();
  await watched(relay.url, options, async (page) => {
    const signIn = (token) => page.context().request.post(`${relay.url}/session`, { data: { token } });
    if (who) assert.equal((await signIn(TOKENS[who])).status(), 200);
    const visit = async (path = '/') => {
      await page.goto(relay.url + path);
      await page.locator('#tile-queued').waitFor();
    };
    await play({ page, relay, visit, signIn });
  });
}

export const stopRelay = () => relay?.stop();

/** A page in a context of its own; fails when something has happened that no test may see. */
export async function watched(url, { refusals = [], ...options }, play) {
  const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, locale: 'en-GB', timezoneId: 'UTC', reducedMotion: 'reduce', ...options });
  const faults = [];
  await context.addInitScript(() => {
    addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) => console.error(`policy: ${violatedDirective} ${blockedURI}`));
  });
  context.on('request', (request) => {
    const { origin, protocol } = new URL(request.url());
    if (origin !== url && protocol !== 'data:') faults.push(`a request to ${request.url()}`);
  });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  page.on('pageerror', (error) => faults.push(error.stack));
  page.on('dialog', (dialog) => {
    faults.push(`a script of an attacker has run: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on('console', (message) => {
    const expected = refusals.some((status) => (status === 0 ? /ERR_|interrupted/.test(message.text()) : message.text().includes(`status of ${status}`)));
    if (['error', 'warning'].includes(message.type()) && !expected) faults.push(`console: ${message.text()}`);
  });
  try {
    await play(page);
    assert.deepEqual(faults, []);
  } finally {
    await context.close();
  }
}

/** The last request of this kind that the mock has seen. */
export const asked = (mock, method, path) => mock.state.log.findLast((entry) => entry.method === method && entry.path.startsWith(path));

/** Waits for a text that this element has. */
export const says = (locator, text) => locator.filter({ hasText: text }).first().waitFor();
