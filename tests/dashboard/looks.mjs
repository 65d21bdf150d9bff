// How the page looks, how fast it is there, and that it can be used by keyboard and screen reader.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { says, stage } from './stage.mjs';

const IMAGES = new URL('../../docs/images/', import.meta.url).pathname;
const AXE = readFileSync(`${process.env.PLACE}/node_modules/axe-core/axe.min.js`, 'utf8');
const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };

/** Rules of WCAG 2.2 AA and good practice, colours included, judged by axe; of the whole page or of a part. */
async function judge(page, part = 'html') {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate((place) => globalThis.axe.run(place, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }), part);
  assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 4).map(({ html, failureSummary }) => `${html.slice(0, 160)} (${failureSummary})`).join('; ')}`), []);
}

async function settled(page) {
  await page.locator('#destination-table tbody tr').first().waitFor();
  await page.locator('#suppression-table tbody tr').first().waitFor();
  await says(page.locator('.chart .visually-hidden'), 'last hour');
  await says(page.locator('#connection'), 'live');
  // Rates need two overviews.
  await page.locator('#tile-accepted .value').filter({ hasNotText: /^0$/ }).waitFor();
}

const picture = (page, update, name, options = {}) => update && page.screenshot({ path: `${IMAGES}${name}.png`, ...options });

/** Pictures show mail as it mostly is. */
function tame(state) {
  state.stories = state.stories.filter(({ user }) => user !== 'attacker');
  state.suppressions.pop();
  state.destinations[1].last_trouble = '451 4.3.0 Temporarily out of space';
}

/** The whole page is judged once in each theme, with a key's answer and a story; then only what opens. */
function looksIn(colorScheme) {
  return ({ update }) => stage({ colorScheme, prepare: tame }, async ({ page, mock, visit }) => {
    await visit();
    await settled(page);
    await page.locator('#key-form [name=key]').fill('order-123');
    await page.locator('#key-form button').click();
    await page.locator('#key-answer .timeline').waitFor();
    await page.goto(`${mock.url}/#message=${mock.known().id}`);
    await page.locator('#story .timeline li').first().waitFor();
    await judge(page);
    await page.locator('.actions').getByRole('button', { name: 'Discard' }).click();
    await judge(page, '#ask');
    await page.locator('#ask-no').click();
    await page.locator('#story-close').click();
    await page.locator('#bulk').getByRole('button', { name: 'Release' }).click();
    await says(page.locator('#ask-yes'), 'Release ');
    await judge(page, '#ask');
    await page.locator('#ask-no').click();
    Object.assign(mock.state, { ready: false, reasons: ['the store is latched: the last write did not reach the disk; restart once it is well'] });
    await says(page.locator('#banners'), 'This relay is not ready');
    await judge(page, '#banners');
    await page.evaluate(() => scrollTo(0, 0));
    await picture(page, update && colorScheme === 'light', 'dashboard-not-ready', { clip: { x: 0, y: 0, width: 1360, height: 420 } });
  });
}

export const looks = {
  light: looksIn('light'),
  dark: looksIn('dark'),

  a_phone_shows_all_of_it: () => stage({ ...PHONE, prepare: tame }, async ({ page, mock, visit }) => {
    await visit();
    await settled(page);
    assert.deepEqual(await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]), [390, 390], 'nothing sticks out');
    await page.locator('#queue').scrollIntoViewIfNeeded();
    await page.goto(`${mock.url}/#message=${mock.known().id}`);
    await page.locator('#story .timeline li').first().waitFor();
    assert.ok(await page.evaluate(() => document.getElementById('story').scrollWidth <= 390));
    await judge(page);
  }),

  the_theme_is_chosen_and_kept: () => stage({ colorScheme: 'light' }, async ({ page, visit }) => {
    await visit();
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await ground();
    await page.getByLabel('Theme').selectOption('dark');
    const dark = await ground();
    assert.notEqual(dark, light);
    await page.reload();
    assert.equal(await ground(), dark);
    await page.getByLabel('Theme').selectOption('');
    assert.equal(await ground(), light);
    await page.emulateMedia({ colorScheme: 'dark' });
    assert.equal(await ground(), dark);
  }),

  everything_is_done_with_the_keyboard_alone: () => stage({}, async ({ page, mock, visit }) => {
    await visit();
    await settled(page);
    const press = (key) => page.keyboard.press(key);
    const focused = () => page.evaluate(() => {
      const { activeElement: at } = document;
      const box = at.getBoundingClientRect();
      const { outlineStyle } = getComputedStyle(at);
      return { id: at.id, tag: at.tagName, name: at.name ?? '', text: at.textContent.slice(0, 60), seen: box.width > 0 && box.height > 0, ringed: outlineStyle !== 'none' };
    });
    const tabTo = async (wanted) => {
      for (let n = 0; n < 120; n += 1) {
        await press('Tab');
        const at = await focused();
        assert.ok(at.seen && at.ringed, `the focus is on nothing that is seen: ${JSON.stringify(at)}`);
        if (wanted(at)) return at;
      }
      throw new Error('the Tab key does not lead there');
    };
    await press('Tab');
    assert.equal((await focused()).text, 'Skip to the contents');
    await press('Enter');
    await tabTo(({ name }) => name === 'key');
    await page.keyboard.type('order-123');
    await press('Enter');
    await says(page.locator('#key-answer'), '3 retries');
    await tabTo(({ tag, text }) => tag === 'A' && text.includes('orders@shop.example → greta@kunde.example'));
    await press('Enter');
    await page.locator('#story .timeline li').first().waitFor();
    assert.equal((await focused()).id, 'story-title');
    await tabTo(({ text }) => text === 'Hold');
    await press('Enter');
    await page.keyboard.type('by keyboard');
    await press('Enter');
    await says(page.locator('.notice'), 'Hold: done');
    assert.equal(mock.known().state, 'held');
    await press('Escape');
    await page.locator('#story').waitFor({ state: 'hidden' });
    assert.match((await focused()).text, /orders@shop\.example → greta@kunde\.example/);
  }),

  a_refresh_takes_no_focus_away: () => stage({}, async ({ page, mock, visit }) => {
    await visit();
    const reset = page.getByRole('button', { name: 'Reset direct / kunde.example' });
    await reset.focus();
    mock.state.destinations[0].waiting = 413;
    mock.state.destinations.unshift({ ...mock.state.destinations[2], route: 'first', waiting: 9000 });
    await says(page.locator('#destination-table'), '413');
    assert.equal(await reset.evaluate((element) => element === document.activeElement), true);
  }),
};
