// Where mail waits, with each line's breaker, and the button that closes it.
import { get, post } from './api.js';
import { ask } from './confirm.js';
import { badge, byId, fill, h, notice, setText } from './dom.js';
import { count, plural, rate, relative } from './format.js';
import { repeat } from './live.js';
import { mayOperate } from './session.js';
import { table } from './table.js';

const REFRESH = 5000; // milliseconds
const AT_FIRST = 15; // rows
const BREAKERS = { closed: ['closed', 'good'], half_open: ['probing', 'warn'], open: ['open', 'bad'] };

let all = false;
let known = []; // as they were heard of last
let again = () => {};

const nameOf = ({ route, destination }) => (destination ? `${route} / ${destination}` : route);
const resettable = ({ breaker, paused_until: paused }) => breaker !== 'closed' || Boolean(paused);

const columns = () => [
  { label: 'Destination', class: 'wide', shows: nameOf, cell: ({ route, destination, transport }) => [h('b', {}, destination || route), h('span', { class: 'quiet' }, ` ${destination ? `${route}, ` : ''}${transport}`)] },
  { label: 'Breaker', shows: ({ breaker, hosts, paused_until: paused }) => [breaker, hosts, paused && relative(paused)], cell: breakers },
  { label: 'Waiting', class: 'number', shows: ({ waiting }) => count(waiting) },
  { label: 'Connections', class: 'number', shows: ({ connections, connection_limit: most }) => `${count(connections)} of ${count(most)}` },
  { label: 'Per minute', class: 'number', shows: (line) => rate(line.rate_per_minute) },
  { label: 'Delivered', class: 'number', shows: ({ delivered }) => count(delivered) },
  { label: 'Deferred', class: 'number', shows: ({ deferred }) => count(deferred) },
  { label: 'Failed', class: 'number', shows: ({ failed }) => count(failed) },
  { label: 'Last trouble', class: 'wide reply', shows: ({ last_trouble: trouble }) => trouble ?? '–' },
  ...(mayOperate() ? [{ label: 'Reset', shows: resettable, cell: (line) => resettable(line) && h('button', { type: 'button', onclick: () => reset(line), 'aria-label': `Reset ${nameOf(line)}` }, 'Reset') }] : []),
];

/** Builds the table and keeps it fresh. */
export function begin() {
  const section = byId('destinations');
  const update = table(byId('destination-table'), {
    caption: 'Destinations, those with most waiting first', columns: columns(), keyOf: ({ route, destination }) => JSON.stringify([route, destination]),
    empty: 'No mail has gone anywhere yet.',
  });
  const load = async () => {
    const trouble = section.querySelector('.trouble');
    try {
      const { destinations, total } = await get('/api/v1/destinations');
      known = destinations;
      setText(trouble, '');
      update(all ? destinations : destinations.slice(0, AT_FIRST));
      byId('more-destinations').hidden = all || destinations.length <= AT_FIRST;
      setText(byId('destinations-count'), plural(total, 'destination'));
      suggest(destinations);
    } catch (problem) {
      if (problem.status !== 401) setText(trouble, problem.message);
    }
  };
  byId('more-destinations').addEventListener('click', () => {
    all = true;
    again();
  });
  again = repeat(REFRESH, load);
}

/** Why a message in the hands of the relay does not leave, where its destination is left alone; else nothing. */
export function whyItWaits({ route, recipient_stories: people }) {
  const domains = people.map(({ address }) => address.slice(address.lastIndexOf('@') + 1).toLowerCase());
  const line = known.find((one) => one.route === route && resettable(one) && (one.destination === '' || domains.includes(one.destination)));
  if (!line) return undefined;
  const what = line.breaker === 'closed' ? 'is paused' : `has a breaker that is ${BREAKERS[line.breaker]?.[0] ?? line.breaker}`;
  return `${nameOf(line)} ${what}${line.paused_until ? `, and is asked again ${relative(line.paused_until)}` : ''}`;
}

/** Names of routes, offered where one is asked for. */
function suggest(destinations) {
  const names = [...new Set(destinations.map(({ route }) => route))].sort().slice(0, 100);
  const list = byId('routes');
  if (list.dataset.names === names.join()) return;
  list.dataset.names = names.join();
  fill(list, names.map((name) => h('option', { value: name })));
}

function breakers({ breaker, hosts, paused_until: paused }) {
  const [word, tone] = BREAKERS[breaker] ?? [breaker, 'quiet'];
  const troubled = hosts.filter((host) => host.breaker !== 'closed');
  return [badge(word, tone), paused && h('div', { class: 'quiet' }, `paused, goes on ${relative(paused)}`),
    troubled.length > 0 && h('ul', { class: 'hosts' }, troubled.map((host) => h('li', {}, host.host, ' ', (BREAKERS[host.breaker] ?? [host.breaker])[0], host.open_until && `, asked again ${relative(host.open_until)}`)))];
}

async function reset(line) {
  const answer = await ask({
    title: `Reset ${nameOf(line)}?`, yes: 'Reset',
    body: h('p', {}, `Its breakers are closed, and what waits (${plural(line.waiting, 'message')}) is tried now.`),
  });
  if (!answer) return;
  try {
    const { breakers: closed, destinations } = await post('/api/v1/destinations/reset', { route: line.route, ...(line.destination ? { destination: line.destination } : {}) });
    notice(`Reset: ${plural(closed, 'breaker')} closed, ${plural(destinations, 'pause')} ended.`);
    again();
  } catch (problem) {
    notice(`Reset: ${problem.message}`, 'bad');
  }
}
