// What the relay is asked for when something is clicked, and what comes of it in cases that the real one seldom has;
// every action itself is clicked over the real relay (steering.mjs).
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
  an_attempt_under_way_is_not_cut_off: () => oneAction('hold', 'Hold', 'active', 'an attempt is under way'),

  all_that_match_are_discarded_after_a_dry_run: () => allActions('discard', 'Discard'),

  an_order_without_an_answer_may_have_been_carried_out: () => stage({ refusals: [0] }, async ({ page, visit }) => {
    await visit('/?to_domain=firma.example');
    let seen;
    await page.route('**/api/v1/messages/actions', async (route) => {
      if (route.request().postDataJSON().dry_run) return route.continue();
      seen = notice(page, 'under way …');
      await seen;
      return route.abort();
    });
    await page.locator('#bulk').getByRole('button', { name: 'Hold', exact: true }).click();
    await yes(page);
    await notice(page, 'The relay does not answer. What was asked for may be done, or still be under way.');
    await seen;
    assert.equal(await page.locator('.notice').count(), 1, 'nothing is under way any more');
  }),

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

  a_key_of_a_scope_and_kind_is_asked_for_as_such: () => stage({ refusals: [404] }, async ({ page, mock, visit }) => {
    await visit();
    await page.locator('#key-form [name=key]').fill(HOSTILE);
    await page.locator('#key-form [name=scope]').fill(HOSTILE);
    await page.getByLabel('Kind').selectOption('message-id');
    await page.locator('#key-form button').click();
    await says(page.locator('#key-answer'), `No submission is known under the key ${HOSTILE}`);
    assert.deepEqual(asked(mock, 'GET', '/api/v1/keys').ask, { key: HOSTILE, scope: HOSTILE, kind: 'message-id' });
  }),

  the_last_day_is_shown: () => stage({}, async ({ page, mock, visit }) => {
    await visit();
    await page.getByLabel('last day').check();
    await says(page.locator('.chart .visually-hidden'), 'last day');
    assert.equal(asked(mock, 'GET', '/api/v1/series').ask.range, '24h');
  }),
};
