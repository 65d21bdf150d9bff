// The page over the real relay: what is clicked happens to mail, and what the relay says is understood.
import assert from 'node:assert/strict';
import { HOSTILE } from './mock_mail.mjs';
import { TOKENS, until } from './relay.mjs';
import { real, says } from './stage.mjs';

const yes = (page) => page.locator('#ask-yes').click();
const notice = (page, text) => says(page.locator('.notice'), text);
const button = (page, place, name) => page.locator(place).getByRole('button', { name, exact: true });
const people = (domain, n) => Array.from({ length: n }, (_, i) => ({ to: `customer${i}@${domain}` }));

/** One message of the queue on the page; gives its id. */
async function story(page, relay, domain, { state = 'queued', mail = {} } = {}) {
  await relay.submit([{ to: `greta@${domain}`, subject: HOSTILE, ...mail }]);
  const [{ id }] = await relay.settled(domain, state);
  await page.goto(`${relay.url}/#message=${id}`);
  await page.locator('#story .timeline li').first().waitFor();
  return id;
}

async function act(page, label, said = `${label}: done`) {
  await button(page, '.actions', label).click();
  await page.locator('#ask-reason input').fill(`because ${HOSTILE}`);
  await yes(page);
  await notice(page, said);
  await page.locator('.notice').first().getByRole('button').click();
}

/** Does something to all that match, after the number and the messages have been shown. */
async function actOnAll(page, label, n) {
  await button(page, '#bulk', label).click();
  await says(page.locator('#ask-title'), `${label} ${n} message`);
  assert.equal(await page.locator('#ask .sample li').count(), n);
  await yes(page);
  await notice(page, `${label}: ${n} done.`);
  await page.locator('.notice').first().getByRole('button').click();
}

export const steering = {
  real_retry_tries_now: () => real({}, async ({ page, relay }) => {
    const id = await story(page, relay, 'retry.later.example');
    await says(page.locator('#story .timeline'), '451 4.7.1 Greylisted');
    await says(page.locator('#story .timeline'), 'Expires');
    relay.open.add('retry.later.example');
    await act(page, 'Retry');
    await relay.settled('retry.later.example', 'delivered');
    await says(page.locator('#story .timeline'), 'Finished: delivered');
    assert.equal(await page.locator('.actions button').count(), 0, `${id} is over`);
  }),

  real_hold_and_release_with_the_reason: () => real({}, async ({ page, relay }) => {
    const id = await story(page, relay, 'hold.later.example');
    await says(page.locator('#story .subject'), HOSTILE);
    await act(page, 'Hold');
    await says(page.locator('#story .lead .badge'), 'held');
    await says(page.locator('#story .timeline'), 'held because an operator said so');
    await says(page.locator('#story .timeline .said'), `because ${HOSTILE}`);
    const held = await relay.api(`/api/v1/messages/${id}`);
    assert.deepEqual([held.state, held.recipient_stories[0].hold_cause], ['held', 'operator']);
    relay.open.add('hold.later.example');
    await act(page, 'Release');
    await relay.settled('hold.later.example', 'delivered');
    assert.equal(relay.later.taken.filter((to) => to === 'greta@hold.later.example').length, 1);
  }),

  real_bounce_tells_the_sender: () => real({}, async ({ page, relay }) => {
    await story(page, relay, 'bounce.later.example', { mail: { from: 'bounced@shop.example' } });
    await act(page, 'Bounce');
    await relay.settled('bounce.later.example', 'bounced');
    await says(page.locator('#story .timeline'), 'Finished: bounced');
    await until(() => relay.provider.taken.includes('bounced@shop.example'), 'the report to the sender');
  }),

  real_discard_of_what_was_refused: () => real({}, async ({ page, relay }) => {
    await story(page, relay, 'refused.example', { state: 'held', mail: { from: 'untold@shop.example' } });
    await says(page.locator('#story .timeline'), 'Refused');
    await says(page.locator('#story .timeline'), 'held because it failed');
    await act(page, 'Discard');
    await relay.settled('refused.example', 'discarded');
    await says(page.locator('#story .timeline'), 'Finished: discarded');
    assert.equal(relay.provider.taken.includes('untold@shop.example'), false);
  }),

  real_all_that_match_and_nothing_else: () => real({}, async ({ page, relay, visit }) => {
    await relay.submit([...people('all.later.example', 3), ...people('others.later.example', 1)]);
    await relay.settled('all.later.example', 'queued');
    await relay.settled('others.later.example', 'queued');
    await visit();
    await button(page, '#bulk', 'Discard').click();
    await says(page.locator('#ask'), 'these are messages of the whole queue');
    await page.locator('#ask-no').click();
    await visit('/?to_domain=all.later.example');
    await says(page.locator('#queue-count'), '3 messages of the queue match');
    await actOnAll(page, 'Hold', 3);
    await relay.settled('all.later.example', 'held');
    await actOnAll(page, 'Release', 3);
    await relay.settled('all.later.example', 'queued', 2);
    await actOnAll(page, 'Retry', 3);
    await relay.settled('all.later.example', 'queued', 3);
    await page.locator('#filter [name=to]').fill('customer0@all.later.example');
    await page.locator('#filter [name=to]').press('Enter');
    await says(page.locator('#queue-count'), '1 message of the queue matches');
    await actOnAll(page, 'Bounce', 1);
    await page.locator('#filter [name=to]').fill('all.later.example');
    await page.locator('#filter [name=to]').press('Enter');
    await says(page.locator('#queue-count'), '2 messages of the queue match');
    await actOnAll(page, 'Discard', 2);
    await until(async () => (await relay.list('all.later.example')).map(({ state }) => state).sort().join() === 'bounced,discarded,discarded', 'two are discarded, one is bounced');
    assert.equal((await relay.list('others.later.example'))[0].attempts, 1, 'the others are left alone');
  }),

  real_search_by_each_condition: () => real({}, async ({ page, relay, visit }) => {
    await relay.submit([{ to: 'ann@search.later.example', from: 'ceo@search.example' }], { login: true });
    await relay.submit([{ to: 'ben@search.later.example', from: '' }]);
    await relay.settled('search.later.example', 'queued');
    for (const [query, n] of [
      ['to=ann@search.later.example', 1], ['to_domain=search.later.example', 2], ['to_domain=*.later.example&from=ceo@search.example', 1],
      ['from=@search.example', 1], ['from=<>&to_domain=search.later.example', 1], ['user=shop&to_domain=search.later.example', 1],
      ['route=partner&to_domain=search.later.example', 2], ['older=1h&to_domain=search.later.example', 0],
      ['newer=1h&state=queued,active&to_domain=search.later.example', 2], ['state=held&to_domain=search.later.example', 0],
    ]) {
      await visit(`/?${query}`);
      await says(page.locator('#queue-count'), n === 1 ? '1 message of the queue matches' : `${n} messages of the queue match`);
      assert.equal(await page.locator('#messages tbody tr').count(), n, query);
    }
  }),

  real_key_is_looked_up_and_forgotten: () => real({ refusals: [404] }, async ({ page, relay, visit }) => {
    const mail = { to: 'greta@keyed.later.example', key: 'order-123' };
    const [first, ...others] = await relay.submit([mail, mail, mail], { login: true });
    assert.match(first, /queued as/);
    for (const reply of others) assert.match(reply, /idempotent replay/);
    await relay.settled('keyed.later.example', 'queued');
    await visit();
    await page.locator('#key-form [name=key]').fill('order-123');
    await page.locator('#key-form [name=scope]').fill('shop');
    await page.locator('#key-form [name=scope]').press('Enter');
    const answer = page.locator('#key-answer');
    await says(answer, '2 retries were answered with the same id');
    assert.equal(await answer.locator('.timeline li[data-tone=replayed]').count(), 2);
    await answer.getByRole('button', { name: 'Forget this key' }).click();
    await yes(page);
    await notice(page, 'The key is forgotten');
    await says(answer, 'No submission is known under the key');
    assert.match((await relay.submit([mail], { login: true }))[0], /queued as/, 'a retry is a new message now');
  }),

  real_story_leads_to_its_key_of_any_kind: () => real({ refusals: [404] }, async ({ page, relay }) => {
    const text = { text: 'Dear customer' };
    for (const [domain, mail, scope] of [
      ['header.later.example', { key: HOSTILE, ...text }, 'without login'],
      ['fallback.later.example', { subject: 'Yours\r\nMessage-ID: <order-124@shop.example>', ...text }, 'without login'],
    ]) {
      await story(page, relay, domain, { mail });
      await says(page.locator('#story .facts'), scope);
      await page.locator('#story .facts a').click();
      await says(page.locator('#key-answer .lead'), 'was accepted');
    }
  }),

  real_hostile_texts_stay_texts: () => real({}, async ({ page, relay, visit }) => {
    const odd = `"${HOSTILE}"@hostile.example`;
    await relay.submit([{ to: odd, from: odd, subject: HOSTILE, key: HOSTILE + HOSTILE }]);
    const [{ id }] = await relay.settled('hostile.example', 'queued');
    await visit('/?to_domain=hostile.example');
    await says(page.locator('#messages tbody'), odd);
    await says(page.locator('#destination-table tbody'), HOSTILE);
    await page.goto(`${relay.url}/?to_domain=hostile.example#message=${id}`);
    for (const place of ['.lead', '.subject', '.facts', '.timeline .said']) await says(page.locator(`#story ${place}`), HOSTILE);
    await page.locator('#story-close').click();
    await button(page, '#bulk', 'Hold').click();
    await says(page.locator('#ask .sample'), odd);
    await page.locator('#ask-no').click();
    await says(page.locator('#messages tbody'), HOSTILE);
    assert.equal(await page.locator('img[src=x]').count(), 0);
  }),

  real_delivery_to_a_directory_is_a_delivery: () => real({}, async ({ page, relay }) => {
    await story(page, relay, 'archive.example', { state: 'delivered' });
    await says(page.locator('#story .timeline li[data-tone=delivered]'), 'saved as');
    assert.equal(await page.locator('#story .timeline').getByText('No reply').count(), 0);
  }),

  real_content_is_downloaded_by_who_may: () => real({ acceptDownloads: true }, async ({ page, relay }) => {
    const id = await story(page, relay, 'download.later.example');
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: 'Download', exact: true }).click()]);
    assert.equal(download.suggestedFilename(), `${id}.eml`);
  }),

  real_breaker_opens_and_is_reset: () => real({}, async ({ page, relay, visit }) => {
    await relay.submit(people('warehouse.example', 8));
    await visit();
    await says(page.locator('#tile-open_breakers .value'), '1');
    const row = page.locator('#destination-table tbody tr').filter({ hasText: 'warehouse' });
    await says(row, 'open');
    await says(row, 'Connection refused');
    // Those that wait behind it say so.
    const [{ id }] = await until(async () => {
      const waiting = await relay.list('warehouse.example', 'active');
      return waiting.length && waiting;
    }, 'mail waits for the breaker');
    await page.goto(`${relay.url}/#message=${id}`);
    await says(page.locator('#story .timeline'), 'Waits for its turn, or is being sent');
    await says(page.locator('#story .timeline'), 'warehouse has a breaker that is open, and is asked again in');
    await page.locator('#story-close').click();
    await relay.gone.listen(relay.gone.port);
    await button(page, '#destinations', 'Reset warehouse').click();
    await yes(page);
    await notice(page, 'Reset: 1 breaker closed');
    await until(() => relay.gone.taken.length >= 3, 'what waited is sent');
    await button(page, '#destinations', 'Reset warehouse').waitFor({ state: 'detached' });
    await relay.gone.close();
  }),

  real_address_is_suppressed_and_allowed_again: () => real({ refusals: [400, 422] }, async ({ page, relay, visit }) => {
    await visit();
    const section = page.locator('#suppressions');
    await section.locator('[name=address]').fill('nonsense');
    await button(page, '#suppressions', 'Suppress').click();
    await says(section.locator('.trouble'), 'is no address');
    await section.locator('[name=address]').fill('left@firma.example');
    await section.locator('[name=reason]').fill(HOSTILE);
    await button(page, '#suppressions', 'Suppress').click();
    await says(section.locator('tbody'), 'left@firma.example');
    await says(section.locator('tbody'), HOSTILE);
    assert.match((await relay.submit([{ to: 'left@firma.example' }]))[0], /^550 5\.1\.1/);
    await button(page, '#suppressions', 'Allow again: left@firma.example').click();
    await yes(page);
    await notice(page, 'is taken again');
    assert.match((await relay.submit([{ to: 'left@firma.example' }]))[0], /^250/);
  }),

  real_reload_takes_all_or_nothing: () => real({ refusals: [422] }, async ({ page, relay, visit }) => {
    await visit();
    relay.configure({ retry: 'soon', more: '[[route]]\nname = "more"\n' });
    await button(page, '#configuration', 'Reload from the file').click();
    await says(page.locator('#reload-answer'), 'Nothing has changed: the configuration has errors.');
    await says(page.locator('#reload-answer li'), 'soon');
    assert.ok(await page.locator('#reload-answer li').count() > 1, 'every error is named');
    relay.configure({ retry: '59m' });
    await button(page, '#configuration', 'Reload from the file').click();
    await says(page.locator('#reload-answer'), 'retry');
    await page.locator('#in-force summary').click();
    await says(page.locator('#in-force pre'), '59m');
    assert.equal((await page.locator('#in-force pre').textContent()).includes(TOKENS.duty), false);
    relay.configure();
    await button(page, '#configuration', 'Reload from the file').click();
    await says(page.locator('#reload-answer'), 'in force');
  }),

  real_sign_in_and_out: () => real({ who: null, refusals: [401] }, async ({ page, relay }) => {
    await page.goto(relay.url);
    await page.getByLabel('Token').fill('some other token, and a wrong one');
    await button(page, '#sign-in', 'Sign in').click();
    await says(page.locator('#sign-in .trouble'), 'does not know this token');
    await page.getByLabel('Token').fill(TOKENS.admin);
    await page.getByLabel('Token').press('Enter');
    await says(page.locator('#connection'), 'live');
    await button(page, 'header', 'Sign out').click();
    await page.locator('#sign-in').waitFor();
    assert.equal(await page.locator('main').isVisible(), false);
    assert.equal(await page.evaluate(() => fetch('/api/v1/overview').then(({ status }) => status)), 401);
  }),

  real_who_may_only_read_can_do_nothing: () => real({ who: 'duty' }, async ({ page, relay, visit }) => {
    await visit();
    await says(page.locator('#who'), 'duty (read only)');
    await story(page, relay, 'readonly.later.example');
    const words = /^(Retry|Hold|Release|Bounce|Discard|Reset|Suppress|Allow again|Forget this key|Reload from the file)$/;
    assert.deepEqual((await page.getByRole('button').allTextContents()).filter((text) => words.test(text)), []);
    assert.equal(await page.locator('#story .subject, #story [download]').count(), 0);
  }),

  real_restart_is_said_and_leads_to_the_form: () => real({ refusals: [0, 401] }, async ({ page, relay, visit }) => {
    await visit();
    await says(page.locator('#connection'), 'live');
    await relay.kill();
    await says(page.locator('#banners'), 'No connection to the relay');
    await relay.run();
    // Sessions do not outlive the relay: the page asks for the token again, and goes on.
    await page.locator('#sign-in').waitFor({ timeout: 30_000 });
    await page.getByLabel('Token').fill(TOKENS.admin);
    await page.getByLabel('Token').press('Enter');
    await says(page.locator('#connection'), 'live');
  }),

  real_first_paint_is_cheap_and_quick: () => real({}, async ({ page, relay }) => {
    const tries = [];
    for (let n = 0; n < 5; n += 1) {
      await page.goto(relay.url);
      await page.locator('#tile-queued').waitFor();
      tries.push(await page.evaluate(() => {
        const own = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')].filter(({ name }) => !/\/(api|session)\b/.test(new URL(name).pathname));
        return {
          paint: performance.getEntriesByName('first-contentful-paint')[0].startTime,
          bytes: own.reduce((sum, { transferSize }) => sum + transferSize, 0), requests: own.length,
        };
      }));
    }
    const [{ bytes, requests, paint: cold }] = tries;
    const paints = tries.map(({ paint }) => paint).sort((a, b) => a - b);
    console.log(`      first paint after ${Math.round(cold)} ms with nothing in the browser's cache, ${Math.round(paints[2])} ms in the median; ${bytes} bytes in ${requests} requests`);
    assert.ok(requests > 15, `${requests} requests: something is not counted`);
    assert.ok(bytes < 100_000, `${bytes} bytes`);
    assert.ok(paints[0] < 300, `first paint after ${paints[0]} ms`);
  }),
};
