// One message beside the list: its facts, what can be done to it, and its time line. The page's address names it
// (`#message=…`), so that the browser's back closes it and a link to it can be sent.
import { get } from './api.js';
import { actionsFor, actOnOne, labelOf } from './confirm.js';
import { whyItWaits } from './destinations.js';
import { badge, byId, fill, h, setText } from './dom.js';
import { duration, plural, sender, size } from './format.js';
import { repeat } from './live.js';
import { changed } from './queue.js';
import { mayOperate, mayRead } from './session.js';
import { timeline, whyHeld } from './timeline.js';

const REFRESH = 4000; // milliseconds
const PREFIX = '#message=';

let id = null;
let last = '';
let again = () => {};
let opener = null;

// Each part is made anew only when what it shows has changed, so that a refresh takes no focus away.
const parts = { head: h('div'), actions: h('div', { class: 'row actions', role: 'group', 'aria-label': 'Actions' }), facts: h('dl', { class: 'facts' }), line: h('div'), people: h('div') };

/** Follows the page's address. */
export function begin() {
  byId('story-close').addEventListener('click', close);
  addEventListener('keydown', (event) => {
    if (event.key === 'Escape' && id && !byId('ask').open) close();
  });
  addEventListener('hashchange', follow);
  again = repeat(REFRESH, load);
  follow();
}

/** The address of a message's story on this page. */
export const addressOf = (message) => `${PREFIX}${encodeURIComponent(message)}`;

function follow() {
  const named = location.hash.startsWith(PREFIX) ? decode(location.hash.slice(PREFIX.length)) : null;
  if (named === id) return;
  if (named && !id) opener = document.activeElement;
  id = named;
  last = '';
  byId('story').hidden = !id;
  document.body.classList.toggle('with-story', Boolean(id));
  if (id) {
    setText(byId('story-title'), `Message ${id}`);
    fill(byId('story-body'), h('p', { class: 'quiet' }, 'Reading …'));
    byId('story-title').focus();
    again();
  } else if (opener?.isConnected) opener.focus();
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function close() {
  // Replaced, not gone back: the page may have been opened with the story.
  history.replaceState(null, '', location.pathname + location.search);
  follow();
}

async function load() {
  const wanted = id;
  if (!wanted) return;
  try {
    const story = await get(`/api/v1/messages/${encodeURIComponent(wanted)}`);
    // Why it waits changes without the story.
    const text = JSON.stringify([story, story.state === 'active' && whyItWaits(story)]);
    if (wanted !== id || text === last) return;
    last = text;
    show(story);
  } catch (problem) {
    if (wanted !== id) return;
    last = '';
    const words = problem.status === 404 ? 'Neither the queue nor the history knows this message (any more).' : problem.message;
    fill(byId('story-body'), h('p', { class: 'trouble' }, words));
  }
}

function show(story) {
  const body = byId('story-body');
  if (parts.head.parentElement !== body) {
    fill(body, Object.values(parts));
    delete parts.actions.dataset.state;
  }
  fill(parts.head, h('p', { class: 'lead' }, badge(story.state), ' ', h('b', {}, sender(story.from)), ' → ', h('b', {}, story.to.join(', ')),
    story.recipients > story.to.length && ` and ${story.recipients - story.to.length} more`),
  story.subject !== undefined && h('p', { class: 'subject' }, story.subject));
  actions(story);
  fill(parts.facts, facts(story).map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));
  fill(parts.line, h('h3', {}, 'Time line'), timeline(story));
  const several = story.recipients > 1;
  fill(parts.people, several && h('h3', {}, 'Recipients'), several && h('ul', { class: 'people' }, story.recipient_stories.map(person)));
}

function actions(story) {
  const state = `${story.id} ${story.state}`;
  if (parts.actions.dataset.state === state) return;
  parts.actions.dataset.state = state;
  const buttons = mayOperate() ? actionsFor(story.state).map((action) => h('button', { type: 'button', onclick: () => act(action, story) }, labelOf(action))) : [];
  const queued = !story.finished_at;
  fill(parts.actions, buttons, mayRead() && queued && h('a', { class: 'button', href: `/api/v1/messages/${encodeURIComponent(story.id)}/content`, download: `${story.id}.eml` }, 'Download'));
}

async function act(action, story) {
  if (!await actOnOne(action, story)) return;
  again();
  changed();
}

function facts(story) {
  return [
    ['Route', story.route],
    ['Key', story.key && h('a', { href: '#find', 'data-key': story.key, 'data-scope': story.key_scope ?? '' }, story.key)],
    ['Scope', story.key && (story.key_scope ?? 'without login')],
    ['User', story.user],
    ['Client', story.client],
    ['Message-ID', story.message_id],
    ['Size', size(story.size)],
    ['Age', duration(story.age_seconds)],
    ['Attempts', String(story.attempts)],
    ['Replays', story.replay_count ? String(story.replay_count) : null],
    ['Priority', story.priority ? String(story.priority) : null],
    ['Not before', story.release_at],
    ['Warned', story.warned ? 'the sender was told that it takes long' : null],
    ['Trace', story.traceparent],
  ].filter(([, value]) => value);
}

const person = (one) => h('li', {}, badge(one.state), ' ', h('b', {}, one.address), h('span', { class: 'quiet' }, ` ${more(one)}`));

const more = ({ attempts, route, ...one }) => [whyHeld([one]), attempts && plural(attempts, 'try', 'tries'), route && `route ${route}`].filter(Boolean).join(', ');
