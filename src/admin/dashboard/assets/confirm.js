// What an operator does to mail, on one message or on all that match: it is said in words, asked for, done, and its
// result told. On many messages the relay first says how many, and which (a dry run).
import { post, postAndWait } from './api.js';
import { badge, byId, fill, h, notice, setText } from './dom.js';
import { count, duration, plural, sender } from './format.js';

const ACTIONS = {
  retry: ['Retry', 'Queued recipients are tried now.'],
  hold: ['Hold', 'Queued recipients are kept, and not tried until they are released.'],
  release: ['Release', 'Held recipients are queued again; their time starts anew.'],
  bounce: ['Bounce', 'Queued and held recipients fail for good, and the sender is told.'],
  discard: ['Discard', 'Queued and held recipients are forgotten, and nobody is told.'],
};
const FOR_GOOD = ['bounce', 'discard'];

/** Actions that make sense for a message in this state. */
export const actionsFor = (state) => ({
  queued: ['retry', 'hold', 'bounce', 'discard'],
  active: ['retry', 'hold', 'bounce', 'discard'],
  held: ['release', 'bounce', 'discard'],
}[state] ?? []);

export const labelOf = (action) => ACTIONS[action][0];

/** Asks; gives `{ reason }`, or null when the answer is no. */
export function ask({ title, body, yes, danger = false, reason = false }) {
  const dialog = byId('ask');
  setText(byId('ask-title'), title);
  fill(byId('ask-body'), body);
  setText(byId('ask-yes'), yes);
  byId('ask-yes').className = danger ? 'danger' : 'primary';
  byId('ask-reason').hidden = !reason;
  const input = dialog.querySelector('input');
  input.value = '';
  dialog.returnValue = 'cancel';
  byId('ask-no').onclick = () => dialog.close('cancel');
  dialog.showModal();
  // What cannot be undone is not one Enter away.
  if (danger) byId('ask-no').focus();
  else if (reason) input.focus();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => {
      resolve(dialog.returnValue === 'yes' ? { reason: input.value.trim() || undefined } : null);
    }, { once: true });
  });
}

/** One message. True: something may have changed. */
export async function actOnOne(action, message) {
  const [label, meaning] = ACTIONS[action];
  const answer = await ask({
    title: `${label} this message?`,
    body: [h('p', {}, meaning), sample([message])],
    yes: label, danger: FOR_GOOD.includes(action), reason: true,
  });
  if (!answer) return false;
  try {
    const { effect, detail } = await post(`/api/v1/messages/${encodeURIComponent(message.id)}/actions`, { action, ...answer });
    const words = {
      done: `${label}: done.`,
      pending: `${label}: an attempt is under way and is not cut off; it happens with its outcome.`,
      unchanged: `${label}: nothing to do.`,
      gone: `${label}: the message is not in the queue any more.`,
      failed: `${label}: it could not be made durable; the message stands as it was.`,
    };
    const asWished = effect === 'done' || effect === 'pending';
    notice(asWished ? words[effect] : [words[effect] ?? effect, detail].filter(Boolean).join(' '), asWished ? 'good' : 'warn');
    return true;
  } catch (problem) {
    notice(`${label}: ${problem.message}`, 'bad');
    return problem.status === 404; // it is over meanwhile, which the page should show
  }
}

/** All that match. True: something may have changed. */
export async function actOnAll(action, filter) {
  const [label, meaning] = ACTIONS[action];
  try {
    const trial = await postAndWait('/api/v1/messages/actions', { action, filter, dry_run: true });
    if (trial.matched === 0) {
      notice(`${label}: no message matches.`, 'warn');
      return false;
    }
    const more = trial.matched - trial.sample.length;
    const answer = await ask({
      title: `${label} ${plural(trial.matched, 'message')}?`,
      body: [h('p', {}, meaning), Object.keys(filter).length === 0 && h('p', { class: 'trouble' }, 'Nothing was searched for: these are messages of the whole queue.'), sample(trial.sample), more > 0 && h('p', { class: 'quiet' }, `… and ${count(more)} more.`)],
      yes: `${label} ${plural(trial.matched, 'message')}`, danger: FOR_GOOD.includes(action), reason: true,
    });
    if (!answer) return false;
    const working = notice(`${label}: ${plural(trial.matched, 'message')}, under way …`, 'quiet');
    const result = await postAndWait('/api/v1/messages/actions', { action, filter, dry_run: false, ...answer }).finally(() => working.remove());
    notice(`${label}: ${outcome(result)}.`, result.failed ? 'bad' : 'good');
    return true;
  } catch (problem) {
    notice(`${label}: ${problem.message}`, 'bad');
    return false;
  }
}

function outcome({ done, pending, unchanged, failed }) {
  return [
    `${count(done)} done`,
    pending && `${count(pending)} with the attempt that is under way`,
    unchanged && `${count(unchanged)} unchanged`,
    failed && `${count(failed)} could not be made durable`,
  ].filter(Boolean).join(', ');
}

const sample = (messages) => h('ul', { class: 'sample', tabindex: '0', 'aria-label': 'Messages' }, messages.map((message) => h('li', {},
  badge(message.state), ' ', sender(message.from), ' → ', message.to.join(', '),
  message.recipients > message.to.length && ` and ${message.recipients - message.to.length} more`,
  h('span', { class: 'quiet' }, ` ${duration(message.age_seconds)} old`))));
