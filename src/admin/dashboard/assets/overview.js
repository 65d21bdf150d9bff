// The state of things in one look: whether the relay is ready, and the numbers that say so.
import { byId, h, setText } from './dom.js';
import { count, duration, latency, rate } from './format.js';

const WINDOW = 10_000; // milliseconds over which rates are taken
const seen = []; // of the last WINDOW, oldest first
const values = new Map();

// Name, tone when it is not zero, label, what it shows of (overview, rate of a counter a second).
const TILES = [
  ['accepted', '', 'Accepted', (_, per) => [`${rate(per('accepted'))}`, '/s']],
  ['replayed', 'replayed', 'Replayed', (_, per) => [`${rate(per('replayed'))}`, '/s']],
  ['delivered', '', 'Delivered', (_, per) => [`${rate(per('delivered'))}`, '/s']],
  ['deferred', '', 'Deferred', (_, per) => [`${rate(per('deferred'))}`, '/s']],
  ['queued', '', 'In the queue', (now) => [count(now.queued), now.queued ? `oldest ${duration(now.oldest_seconds)}` : '']],
  ['held', 'held', 'Held', (now) => [count(now.held), '']],
  ['open_breakers', 'bad', 'Open breakers', (now) => [count(now.open_breakers), '']],
  ['accept', '', 'Time to accept', (now) => [latency(now.accept_p50_seconds), `p99 ${latency(now.accept_p99_seconds)}`]],
  ['deliver', '', 'Time to deliver', (now) => [latency(now.deliver_p50_seconds), `p99 ${latency(now.deliver_p99_seconds)}`]],
  ['connections', '', 'Connections', (now) => [`${count(now.clients)} in`, `${count(now.connections)} out`]],
];

/** Takes one overview; gives the rates a second of all counters, once two are known. */
export function show(overview) {
  const per = rates(overview);
  const tiles = byId('tiles');
  for (const [name, tone, label, read] of TILES) {
    if (!values.has(name)) {
      const [value, more] = [h('span', { class: 'value' }), h('span', { class: 'more' })];
      values.set(name, { value, more, tile: h('div', { class: 'tile', id: `tile-${name}` }, h('dt', {}, label), h('dd', {}, value, ' ', more)) });
      tiles.append(values.get(name).tile);
    }
    const { value, more, tile } = values.get(name);
    const [main, second] = read(overview, per);
    setText(value, main);
    setText(more, second);
    tile.dataset.tone = tone && overview[name] > 0 ? tone : '';
  }
  setText(byId('hostname'), overview.hostname);
  setText(byId('uptime'), `– running for ${duration(overview.uptime_seconds)}${overview.events ? `, ${count(overview.events)} events wait` : ''}`);
  document.title = `${overview.ready ? '' : '⚠ '}${overview.hostname} – oncemail`;
  readiness(overview);
  return per;
}

function rates(overview) {
  const at = Date.parse(overview.at);
  const last = seen.at(-1);
  // A process that began anew counts from zero.
  if (last && (overview.uptime_seconds < last.overview.uptime_seconds || overview.accepted < last.overview.accepted)) seen.length = 0;
  seen.push({ at, overview });
  while (seen.length > 2 && at - seen[0].at > WINDOW) seen.shift();
  const [first] = seen;
  const seconds = (at - first.at) / 1000;
  return (counter) => (seconds > 0 ? Math.max(0, (overview[counter] - first.overview[counter]) / seconds) : 0);
}

function readiness({ ready, reasons }) {
  const standing = byId('standing');
  const word = ready ? 'ready' : 'not ready';
  if (standing.textContent !== word) {
    standing.textContent = word;
    standing.dataset.tone = ready ? 'good' : 'bad';
  }
  banner('readiness', reasons.length || !ready ? [ready ? 'To be known' : 'This relay is not ready', reasons] : null, ready ? 'warn' : 'bad');
}

/** Shows, changes or takes away one banner: a headline and a list. */
export function banner(name, says, tone) {
  const banners = byId('banners');
  const old = banners.querySelector(`[data-name="${name}"]`);
  if (!says) {
    old?.remove();
    return;
  }
  const [headline, reasons] = says;
  const whole = JSON.stringify([headline, reasons, tone]);
  if (old?.dataset.whole === whole) return;
  const entry = h('div', { class: 'banner', 'data-name': name, 'data-whole': whole, 'data-tone': tone },
    h('strong', {}, headline), reasons.length > 0 && h('ul', {}, reasons.map((reason) => h('li', {}, reason))));
  if (old) old.replaceWith(entry);
  else banners.append(entry);
}

const STATES = {
  live: ['live', 'good'],
  asking: ['asking every 5 s', 'warn'],
  lost: ['connection lost', 'bad'],
};

/** Says how this page hears of news. */
export function connection(state) {
  const [words, tone] = STATES[state];
  const element = byId('connection');
  setText(element, words);
  element.dataset.tone = tone;
  banner('connection', state === 'lost' ? ['No connection to the relay: what is shown is old', ['The page tries again by itself.']] : null, 'bad');
}
