// "What happened to order 123?": a key, what became of its message, and how many retries it has answered.
import { get, remove } from './api.js';
import { ask } from './confirm.js';
import { badge, byId, fill, h, notice } from './dom.js';
import { plural, relative, sender, time } from './format.js';
import { mayOperate } from './session.js';
import { addressOf } from './story.js';
import { timeline } from './timeline.js';

const KINDS = ['header', 'message-id', 'content'];

let turn = 0;

/** Answers the box, and links that name a key. */
export function begin() {
  const form = byId('key-form');
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const { key, scope, kind } = form.elements;
    look({ key: key.value, scope: scope.value, kind: kind.value });
  });
  document.addEventListener('click', ({ target }) => {
    const link = target.closest?.('[data-key]');
    if (!link) return;
    form.elements.key.value = link.dataset.key;
    form.elements.scope.value = link.dataset.scope;
    // A story does not say what its key was made of.
    look({ key: link.dataset.key, scope: link.dataset.scope }, KINDS);
  });
}

/** Asks for a key of these kinds, one after the other, until one is known. */
async function look(asked, kinds = [asked.kind]) {
  const mine = ++turn;
  const place = byId('key-answer');
  fill(place, h('p', { class: 'quiet' }, 'Looking …'));
  let answer;
  for (const kind of kinds) {
    const question = { ...asked, kind };
    try {
      answer = story(await get('/api/v1/keys', question), question);
      if (mine === turn) byId('key-form').elements.kind.value = kind;
      break;
    } catch (problem) {
      answer = problem.status === 404 ? unknown(question) : h('p', { class: 'trouble' }, problem.message);
      if (problem.status !== 404) break;
    }
  }
  if (mine === turn) fill(place, answer);
}

const unknown = ({ key, scope, kind }) => h('p', {}, 'No submission is known under the key ', h('b', {}, key),
  scope ? [' in the scope ', h('b', {}, scope)] : ' of clients without login',
  '. It never came, or it is longer ago than keys are kept; or its scope is another one.',
  kind !== 'header' && ' A key that was made of a Message-ID or a content is the 64 digits that the log and the message have as its key.');

function story(found, question) {
  const { message } = found;
  return h('article', { class: 'key-story' },
    h('p', { class: 'lead' }, message && [badge(message.state), ' '], h('b', {}, found.key), ' was accepted ', h('b', {}, relative(found.accepted_at)),
      message && [', from ', sender(message.from), ' to ', message.to.join(', ')], '.'),
    h('p', {}, found.replays
      ? [h('b', {}, plural(found.replays, 'retry', 'retries')), found.replays === 1 ? ' was' : ' were', ' answered with the same id',
        found.last_replay_at && [', the last one ', relative(found.last_replay_at)], '; the mail was queued once.']
      : 'No retry has come.', ' The key is kept until ', time(found.expires_at), ' at least.'),
    h('p', { class: 'row' }, h('a', { class: 'button', href: addressOf(found.id) }, 'Whole story'),
      mayOperate() && h('button', { type: 'button', onclick: () => forget(question) }, 'Forget this key'), h('code', {}, found.id)),
    message ? timeline(message) : h('p', { class: 'quiet' }, 'Neither the queue nor the history has its message any more.'));
}

async function forget(question) {
  const answer = await ask({
    title: 'Forget this key?', yes: 'Forget', danger: true,
    body: h('p', {}, 'A retry under ', h('b', {}, question.key), ' will be a new message then, and may be delivered a second time.'),
  });
  if (!answer) return;
  try {
    await remove('/api/v1/keys', question);
    notice('The key is forgotten.');
    look(question);
  } catch (problem) {
    notice(`The key is as it was: ${problem.message}`, 'bad');
  }
}
