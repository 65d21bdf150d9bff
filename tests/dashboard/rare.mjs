// What seldom happens: nobody is signed in, or only to look; the relay is unwell, gone, or says no; hostile mail.
import assert from 'node:assert/strict';
import { HOSTILE } from './mock_mail.mjs';
import { asked, says, stage } from './stage.mjs';

/** Whatever an attacker wrote is on the page as text, and has become no element. */
async function harmless(page, place) {
  await says(page.locator(place), HOSTILE);
  assert.equal(await page.locator('img[src=x], main script, #story script, dialog script').count(), 0);
}

export const rare = {
  hostile_texts_stay_texts: () => stage({}, async ({ page, mock, visit }) => {
    await visit();
    await harmless(page, '#messages tbody');
    await harmless(page, '#destination-table tbody');
    await harmless(page, '#suppression-table tbody');
    await page.goto(`${mock.url}/#message=${mock.hostile().id}`);
    for (const place of ['.lead', '.subject', '.facts', '.timeline', '.timeline .said']) await harmless(page, `#story ${place}`);
    await page.locator('.actions').getByRole('button', { name: 'Hold' }).click();
    await harmless(page, '#ask-body');
    await page.locator('#ask-no').click();
    await page.keyboard.press('Escape');
    await page.locator('#reload').click();
    await harmless(page, '#reload-answer');
    mock.state.reasons = [HOSTILE];
    await harmless(page, '#banners');
  }),

  a_hostile_key_stays_text: () => stage({}, async ({ page, mock, visit }) => {
    mock.hostile().key_scope = undefined;
    await visit();
    await page.locator('#key-form [name=key]').fill(HOSTILE);
    await page.locator('#key-form button').click();
    await harmless(page, '#key-answer .lead');
  }),

  mail_without_a_route_is_no_deed_of_an_operator: () => stage({}, async ({ page, mock, visit }) => {
    mock.known().recipient_stories[0].replies = [{ at: mock.known().accepted_at, times: 1, route: '', host: '', code: 0, text: '5.4.4 no route matches this recipient', tls: '' }];
    await visit();
    await page.goto(`${mock.url}/#message=${mock.known().id}`);
    await says(page.locator('#story .timeline li').filter({ hasText: 'no route matches' }), 'Not sent');
    assert.equal(await page.locator('#story .timeline').getByText('Operator').count(), 0);
  }),

  an_unknown_message_is_said_to_be_unknown: () => stage({ refusals: [404] }, async ({ page, mock, visit }) => {
    await visit();
    await page.goto(`${mock.url}/#message=${encodeURIComponent(HOSTILE)}`);
    await says(page.locator('#story'), 'Neither the queue nor the history knows this message');
  }),

  nobody_sees_anything_before_signing_in: () => stage({ refusals: [401, 429], prepare: (state) => { state.askToken = true; } }, async ({ page, mock }) => {
    await page.goto(mock.url);
    await page.locator('#sign-in').waitFor();
    assert.equal(await page.locator('main').isVisible(), false);
    assert.deepEqual(mock.state.log.map(({ path }) => path), ['/session'], 'nothing else is asked for');
    await page.getByLabel('Token').fill('wrong');
    await page.locator('#sign-in button').click();
    await says(page.locator('#sign-in .trouble'), 'does not know this token');
    mock.state.limited = true;
    await page.locator('#sign-in button').click();
    await says(page.locator('#sign-in .trouble'), 'Try again in 42 s.');
    mock.state.limited = false;
    await page.getByLabel('Token').fill(mock.token);
    await page.getByLabel('Token').press('Enter');
    await page.locator('#messages tbody tr').first().waitFor();
    assert.equal(await page.locator('#sign-in').isVisible(), false);
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.locator('#sign-in').waitFor();
    assert.equal(mock.state.sessions.size, 0);
  }),

  a_session_that_ends_leads_to_the_sign_in_form: () => stage({ refusals: [401, 0] }, async ({ page, mock, visit }) => {
    await visit();
    await page.locator('#bulk').getByRole('button', { name: 'Hold' }).click();
    await page.locator('#ask .sample').waitFor();
    mock.state.askToken = true;
    mock.drop();
    await page.locator('#sign-in').waitFor();
    assert.equal(await page.locator('#ask').isVisible(), false);
    assert.equal(await page.locator('main').isVisible(), false);
  }),

  who_may_only_read_sees_no_button_that_changes_anything: () => stage({ prepare: (state) => { state.role = 'read'; state.contents = false; } }, async ({ page, mock, visit }) => {
    await visit();
    await says(page.locator('#who'), 'read only');
    await page.locator('#destination-table tbody tr').first().waitFor();
    await page.locator('#key-form [name=key]').fill('order-123');
    await page.locator('#key-form button').click();
    await page.locator('#key-answer .timeline').waitFor();
    await page.goto(`${mock.url}/#message=${mock.known().id}`);
    await page.locator('#story .timeline').waitFor();
    const words = /^(Retry|Hold|Release|Bounce|Discard|Reset|Suppress|Allow again|Forget this key|Reload from the file)$/;
    assert.deepEqual((await page.getByRole('button').allTextContents()).filter((text) => words.test(text)), []);
    assert.equal(await page.locator('#story .subject, #story [download]').count(), 0);
  }),

  a_relay_that_is_not_ready_says_why: () => stage({}, async ({ page, mock, visit }) => {
    await visit();
    assert.equal(await page.locator('#standing').textContent(), 'ready');
    Object.assign(mock.state, { ready: false, reasons: ['the disk is full', 'no route is usable'] });
    await says(page.locator('#banners'), 'This relay is not ready');
    await says(page.locator('#banners li'), 'no route is usable');
    assert.equal(await page.locator('#standing').textContent(), 'not ready');
    Object.assign(mock.state, { ready: true, reasons: [] });
    await page.locator('#banners .banner').waitFor({ state: 'detached' });
  }),

  without_a_stream_the_page_asks: () => stage({ refusals: [503], prepare: (state) => { state.stream = false; } }, async ({ page, mock, visit }) => {
    await visit();
    await says(page.locator('#connection'), 'asking every 5 s');
    mock.state.stream = true;
    await says(page.locator('#connection'), 'live');
  }),

  a_lost_connection_is_said_and_comes_back: () => stage({ refusals: [0, 500] }, async ({ page, mock, visit }) => {
    await visit();
    await says(page.locator('#connection'), 'live');
    await page.context().setOffline(true);
    mock.drop();
    await says(page.locator('#banners'), 'No connection to the relay');
    await page.context().setOffline(false);
    await says(page.locator('#connection'), 'live');
    await page.locator('#banners .banner').waitFor({ state: 'detached' });
  }),

  a_relay_that_has_just_started_shows_empty_charts: () => stage({ prepare: (state) => { state.young = true; } }, async ({ page, visit }) => {
    await visit();
    await page.locator('.chart .u-wrap').nth(3).waitFor();
    assert.equal(await page.locator('#charts-trouble').textContent(), '');
  }),

  a_relay_that_lets_nobody_in_says_so: () => stage({ refusals: [429], prepare: (state) => { state.limited = true; } }, async ({ page, mock }) => {
    await page.goto(mock.url);
    await says(page.locator('#banners'), 'Too many wrong tokens from this address.');
  }),

  a_refused_action_is_said_and_changes_nothing: () => stage({ refusals: [403] }, async ({ page, mock, visit }) => {
    await visit();
    mock.state.role = 'read';
    await page.locator('#bulk').getByRole('button', { name: 'Retry' }).click();
    await says(page.locator('.notice'), 'Retry: This token may only read.');
    assert.equal(asked(mock, 'POST', '/api/v1/messages/actions').body.dry_run, true);
  }),

  many_requests_are_answered_with_patience: () => stage({ refusals: [429] }, async ({ page, mock, visit }) => {
    await visit();
    mock.state.limited = true;
    await page.locator('#filter [name=user]').fill('shop');
    await page.locator('#filter [name=user]').press('Enter');
    await says(page.locator('#filter .trouble'), 'Try again in 42 s.');
    mock.state.limited = false;
    await page.locator('#filter .trouble').filter({ hasText: /^$/ }).waitFor({ state: 'attached' });
  }),
};
