// One message's story in the order in which it happened.
import { whyItWaits } from './destinations.js';
import { h } from './dom.js';
import { plural, relative, size, time } from './format.js';

/** An ordered list of everything that is known to have happened to a message, and of what comes next. */
export function timeline(story) {
  const past = [accepted(story), ...replies(story), ...story.replays.map(replayed)];
  past.sort((a, b) => Date.parse(a.at) - Date.parse(b.at));
  const forgotten = story.replay_count - story.replays.length;
  if (forgotten > 0) past.push({ tone: 'replayed', title: `${plural(forgotten, 'more replay')}, of which the times are not remembered` });
  return h('ol', { class: 'timeline' }, [...past, ...coming(story)].map(entry));
}

const entry = ({ at, tone, title, by, lines = [], note }) => h('li', { 'data-tone': tone },
  h('p', { class: 'what' }, at && [time(at), ' '], h('strong', {}, title), by && h('span', { class: 'quiet' }, ` ${by}`)),
  lines.map((line) => h('p', { class: 'said' }, line)),
  note && h('p', { class: 'quiet' }, note));

function accepted(story) {
  const from = [
    story.user && `from ${story.user}`, story.client && `at ${story.client}`, story.listener && `by listener ${story.listener}`,
  ].filter(Boolean).join(' ');
  return {
    at: story.accepted_at, tone: 'accepted', title: story.listener ? 'Accepted' : 'Made here', by: from,
    note: `${size(story.size)}, ${plural(story.recipients, 'recipient')}${story.key ? `, key ${story.key}` : ', without a key'}`,
  };
}

const replayed = ({ at, client }) => ({
  at, tone: 'replayed', title: 'Retry answered with this id', by: client && `to ${client}`, note: 'Nothing was queued a second time.',
});

/** What was said of several recipients in one breath is one entry. */
function replies(story) {
  const entries = new Map();
  for (const { address, replies: said } of story.recipient_stories) {
    for (const reply of said) {
      const key = JSON.stringify([reply.at, reply.route, reply.host, reply.code, reply.text, reply.times]);
      if (entries.has(key)) entries.get(key).addresses.push(address);
      else entries.set(key, { reply, addresses: [address] });
    }
  }
  return [...entries.values()].map(({ reply, addresses }) => said(reply, addresses, story.recipients));
}

function said({ at, times, route, host, code, text, tls }, addresses, recipients) {
  const whom = recipients > 1 ? `for ${addresses.slice(0, 3).join(', ')}${addresses.length > 3 ? ` and ${addresses.length - 3} more` : ''}` : '';
  // Whoever has no route has had no attempt either: an operator, unless it says that there is none.
  if (route === '' && !decided(text)) return { at, tone: 'operator', title: 'Operator', by: whom, lines: [text] };
  const [title, tone] = verdict(code, text);
  return {
    at, tone, title: times > 1 ? `${title}, ${times} times in a row` : title, by: [host && `by ${host}`, whom].filter(Boolean).join(' '),
    lines: [code ? `${code} ${text}` : text],
    // Where nobody spoke SMTP there is nothing to say about TLS.
    note: [route && `route ${route}`, tls || (code ? 'without TLS' : '')].filter(Boolean).join(', '),
  };
}

const REPLIES = { 2: ['Delivered', 'delivered'], 4: ['Deferred', 'deferred'], 5: ['Refused', 'bounced'] };
// What the relay has decided itself, such as that a file is written: the class of the enhanced code in its text.
const DECISIONS = { 2: ['Delivered', 'delivered'], 4: ['Not sent', 'deferred'], 5: ['Not sent', 'bounced'] };

const decided = (text) => DECISIONS[/^([245])\.\d{1,3}\.\d{1,3} /.exec(text)?.[1]];

const verdict = (code, text) => (code ? REPLIES[Math.floor(code / 100)] : decided(text)) ?? ['No reply', 'deferred'];

const CAUSES = { failed: 'it failed', expired: 'it expired', in_doubt: 'nobody knows whether it was delivered: released, it may arrive twice', operator: 'an operator said so' };

/** Why these recipients are held; nothing when none is. */
export function whyHeld(people) {
  const causes = new Set(people.map(({ hold_cause: cause }) => cause).filter(Boolean));
  return causes.size > 0 && `held because ${[...causes].map((cause) => CAUSES[cause] ?? cause).join('; ')}`;
}

function coming(story) {
  if (story.finished_at) return [{ at: story.finished_at, tone: story.state, title: `Finished: ${story.state}` }];
  const next = [];
  if (story.state === 'active') next.push({ tone: 'active', title: 'Waits for its turn, or is being sent', note: whyItWaits(story) });
  if (story.state === 'held') next.push({ tone: 'held', title: 'Held until an operator releases it', note: whyHeld(story.recipient_stories) });
  if (story.state === 'queued' && story.next_attempt) {
    next.push({ at: story.next_attempt, tone: 'queued', title: 'Next attempt', by: relative(story.next_attempt) });
  }
  if (story.state !== 'held' && story.expires_at) next.push({ at: story.expires_at, tone: 'quiet', title: 'Expires', by: relative(story.expires_at) });
  return next;
}
