// Everything that can be clicked, and what the relay is asked for when it is.
import assert from 'node:assert/strict';
import { HOSTILE } from './mock_mail.mjs';
import { asked, says, stage } from './stage.mjs';

const yes = (page) => page.locator('#ask-yes').click();
const notice = (page, text) => says(page.locator('.notice'), text);

async function openStory(page, mock, { id }) {
  await page.goto(`${mock.url}/#message=${id}`);
  await page.locator('.timeline li').first().waitFor();
  return id;
}

async function oneAction(action, label, state, effect) {
  await stage({}, async ({ page, mock, visit }) => {
    await visit();
    const id = await openStory(page, mock, mock.state.stories.find((message) => message.state === state));
    await page.locator('.actions').getByRole('button', { name: label, exact: true }).click();
    await page.locator('#ask-reason input').fill(`because ${HOSTILE}`);
    await yes(page);
    await notice(page, effect);
    const { path, body } = asked(mock, 'POST', `/api/v1/messages/${id}/actions`);
    assert.equal(path, `/api/v1/messages/${id}/actions`);
    assert.deepEqual(body, { action, reason: `because ${HOSTILE}` });
    if (effect.includes('done')) await says(page.locator('.timeline .said'), `because ${HOSTILE}`);
  });
}

async function allActions(action, label) {
  await stage({}, async ({ page, mock, visit }) => {
    await visit('/?to_domain=firma.example');
    await page.locator('#bulk').getByRole('button', { name: label, exact: true }).click();
    await says(page.locator('#ask-title'), `${label} `);
    const trial = asked(mock, 'POST', '/api/v1/messages/actions');
    assert.deepEqual(trial.body, { action, filter: { to_domain: 'firma.example' }, dry_run: true });
    await page.locator('#ask-no').click();
    assert.equal(mock.state.log.filter(({ method }) => method === 'POST').length, 1, 'no means no');
    await page.locator('#bulk').getByRole('button', { name: label, exact: true }).click();
    await page.locator('#ask-yes').filter({ hasText: /^\w+ \d+ messages?$/ }).waitFor();
    await yes(page);
    await notice(page, `${label}: `);
    assert.deepEqual(asked(mock, 'POST', '/api/v1/messages/actions').body, { action, filter: { to_domain: 'firma.example' }, dry_run: false });
  });
}

export const acts = {
  one_message_is_retried: () => oneAction('retry', 'Retry', 'queued', 'Retry: done'),
  one_message_is_held: () => oneAction('hold', 'Hold', 'queued', 'Hold: done'),
  one_message_is_released: () => oneAction('release', 'Release', 'held', 'Release: done'),
  one_message_is_bounced: () => oneAction('bounce', 'Bounce', 'held', 'Bounce: done'),
  one_message_is_discarded: () => oneAction('discard', 'Discard', 'queued', 'Discard: done'),
  an_attempt_under_way_is_not_cut_off: () => oneAction('hold', 'Hold', 'active', 'an attempt is under way'),

  all_that_match_are_retried_after_a_dry_run: () => allActions('retry', 'Retry'),
  all_that_match_are_held_after_a_dry_run: () => allActions('hold', 'Hold'),
  all_that_match_are_released_after_a_dry_run: () => allActions('release', 'Release'),
  all_that_match_are_bounced_after_a_dry_run: () => allActions('bounce', 'Bounce'),
  all_that_match_are_discarded_after_a_dry_run: () => allActions('discard', 'Discard'),

  nothing_matches_and_nothing_is_asked: () => stage({}, async ({ page, mock, visit }) => {
    await visit();
    await page.locator('#filter [name=user]').fill('nobody');
    await page.locator('#filter').getByRole('button', { name: 'Search' }).click();
    await says(page.locator('#messages .empty'), 'No message matches.');
    await page.locator('#bulk').getByRole('button', { name: 'Discard' }).click();
    await notice(page, 'no message matches');
    assert.equal(asked(mock, 'POST', '/api/v1/messages/actions').body.dry_run, true);
  }),

  the_search_asks_for_each_condition_and_stands_in_the_address: () => stage({}, async ({ page, mock, visit }) => {
    await visit();
    await page.getByLabel('held', { exact: true }).check();
    for (const [name, value] of Object.entries({ to: '*.example', from: '@shop.example', user: 'shop', route: 'provider', older: '1m', newer: '3d' })) {
      await page.locator(`#filter [name=${name}]`).fill(value);
    }
    await page.locator('#filter [name=newer]').press('Enter');
    await page.waitForURL(/newer=3d/);
    await page.locator('#queue-count').filter({ hasText: /^\d+ messages? of the queue/ }).waitFor();
    const expected = { state: 'held', to_domain: '*.example', from: '@shop.example', user: 'shop', route: 'provider', older: '1m', newer: '3d' };
    assert.deepEqual(Object.fromEntries(new URL(page.url()).searchParams), expected);
    const { ask } = asked(mock, 'GET', '/api/v1/messages');
    assert.deepEqual(ask, { ...expected, limit: '25' });
    await page.reload();
    await page.locator('#messages tbody tr').first().waitFor();
    assert.deepEqual(asked(mock, 'GET', '/api/v1/messages').ask, { ...expected, limit: '25' });
    assert.equal(await page.locator('#filter [name=to]').inputValue(), '*.example');
    await page.locator('#filter').getByRole('button', { name: 'Clear' }).click();
    await page.waitForURL((url) => url.search === '');
  }),

  a_wrong_age_is_said_beside_the_search: () => stage({ refusals: [400] }, async ({ page, visit }) => {
    await visit();
    await page.locator('#filter [name=older]').fill('yesterday');
    await page.locator('#filter [name=older]').press('Enter');
    await says(page.locator('#filter .trouble'), 'older is "yesterday"');
  }),

  a_long_queue_comes_page_by_page: () => stage({}, async ({ page, mock, visit }) => {
    await visit();
    await page.locator('#more').click();
    await page.locator('#messages tbody tr').nth(49).waitFor();
    assert.equal(asked(mock, 'GET', '/api/v1/messages').ask.after, '25');
  }),

  a_key_is_looked_up_and_forgotten: () => stage({ refusals: [404] }, async ({ page, mock, visit }) => {
    await visit();
    await page.locator('#key-form [name=key]').fill('order-123');
    await page.locator('#key-form [name=key]').press('Enter');
    const answer = page.locator('#key-answer');
    await says(answer, '3 retries were answered with the same id');
    await says(answer, 'orders@shop.example');
    assert.equal(await answer.locator('.timeline li[data-tone=replayed]').count(), 3);
    await answer.getByRole('link', { name: 'Whole story' }).click();
    await says(page.locator('#story .timeline'), 'customer is on the phone');
    await page.locator('#story-close').click();
    await answer.getByRole('button', { name: 'Forget this key' }).click();
    await yes(page);
    await notice(page, 'The key is forgotten');
    assert.deepEqual(asked(mock, 'DELETE', '/api/v1/keys').ask, { key: 'order-123', kind: 'header' });
    await says(answer, 'No submission is known under the key');
  }),

  a_key_of_a_scope_and_kind_is_asked_for_as_such: () => stage({ refusals: [404] }, async ({ page, mock, visit }) => {
    await visit();
    await page.locator('#key-form [name=key]').fill(HOSTILE);
    await page.locator('#key-form [name=scope]').fill(HOSTILE);
    await page.getByLabel('Kind').selectOption('message-id');
    await page.locator('#key-form button').click();
    await says(page.locator('#key-answer'), `No submission is known under the key ${HOSTILE}`);
    assert.deepEqual(asked(mock, 'GET', '/api/v1/keys').ask, { key: HOSTILE, scope: HOSTILE, kind: 'message-id' });
  }),

  a_message_leads_to_its_key: () => stage({}, async ({ page, mock, visit }) => {
    await visit();
    await openStory(page, mock, mock.known());
    await page.locator('#story .facts a').click();
    await says(page.locator('#key-answer'), 'order-123 was accepted');
  }),

  a_message_is_downloaded: () => stage({ acceptDownloads: true }, async ({ page, mock, visit }) => {
    await visit();
    const id = await openStory(page, mock, mock.known());
    const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('link', { name: 'Download' }).click()]);
    assert.equal(download.suggestedFilename(), `${id}.eml`);
  }),

  a_breaker_is_reset: () => stage({}, async ({ page, mock, visit }) => {
    await visit();
    await page.getByRole('button', { name: 'Reset direct / kunde.example' }).click();
    await yes(page);
    await notice(page, 'Reset: 1 breaker closed');
    assert.deepEqual(asked(mock, 'POST', '/api/v1/destinations/reset').body, { route: 'direct', destination: 'kunde.example' });
    await page.getByRole('button', { name: 'Reset direct / kunde.example' }).waitFor({ state: 'detached' });
  }),

  an_address_is_suppressed_and_allowed_again: () => stage({ refusals: [400] }, async ({ page, mock, visit }) => {
    await visit();
    const section = page.locator('#suppressions');
    await section.locator('[name=address]').fill('nonsense');
    await section.getByRole('button', { name: 'Suppress', exact: true }).click();
    await says(section.locator('.trouble'), 'address is "nonsense"');
    await section.locator('[name=address]').fill('left@firma.example');
    await section.locator('[name=reason]').fill(HOSTILE);
    await section.getByRole('button', { name: 'Suppress', exact: true }).click();
    await says(section.locator('tbody'), 'left@firma.example');
    assert.deepEqual(asked(mock, 'POST', '/api/v1/suppressions').body, { address: 'left@firma.example', reason: HOSTILE });
    await section.getByRole('button', { name: 'Allow again: left@firma.example' }).click();
    await yes(page);
    await notice(page, 'is taken again');
    assert.deepEqual(asked(mock, 'DELETE', '/api/v1/suppressions').ask, { address: 'left@firma.example' });
  }),

  a_reload_says_what_has_changed_or_each_error: () => stage({ refusals: [422] }, async ({ page, mock, visit }) => {
    await visit();
    await page.locator('#reload').click();
    await says(page.locator('#reload-answer'), 'route "provider"');
    await says(page.locator('#reload-answer'), 'Only a restart brings into force');
    mock.state.reload = 'errors';
    await page.locator('#reload').click();
    await says(page.locator('#reload-answer'), 'Nothing has changed: the configuration has errors.');
    await says(page.locator('#reload-answer li'), 'retry.base is "soon"');
    await page.locator('#in-force summary').click();
    await says(page.locator('#in-force pre'), '(secret)');
  }),

  the_last_day_is_shown: () => stage({}, async ({ page, mock, visit }) => {
    await visit();
    await page.getByLabel('last day').check();
    await says(page.locator('.chart .visually-hidden'), 'last day');
    assert.equal(asked(mock, 'GET', '/api/v1/series').ask.range, '24h');
  }),
};
