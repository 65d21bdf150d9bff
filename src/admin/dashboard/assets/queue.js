// The queue with its search, and what is done to all that match. The search stands in the page's address, so that it
// can be sent to somebody.
import { get } from './api.js';
import { actOnAll } from './confirm.js';
import { badge, byId, h, notice, setText } from './dom.js';
import { count, duration, plural, relative, sender, size } from './format.js';
import { repeat } from './live.js';
import { table } from './table.js';

const PAGE = 25;
const REFRESH = 5000; // milliseconds
const FIELDS = ['to', 'from', 'user', 'route', 'older', 'newer'];

let wanted = {}; // the filter in force: what was searched for last, not what is being typed
let shown = [];
let next;
let pages = 1;
let update = () => {};
let again = () => {};
let asked = 0;

const COLUMNS = [
  { label: 'State', shows: ({ state, kind }) => [state, kind], cell: ({ state, kind }) => [badge(state), kind !== 'mail' && h('span', { class: 'quiet' }, ` ${kind}`)] },
  { label: 'Message', class: 'wide', shows: ({ from, to, recipients }) => [from, to, recipients], cell: link },
  { label: 'Age', class: 'number', shows: ({ age_seconds: age }) => duration(age) },
  { label: 'Next attempt', class: 'number', shows: ({ next_attempt: at, state }) => (at && state !== 'held' ? relative(at) : '–') },
  { label: 'Tries', class: 'number', shows: ({ attempts }) => count(attempts) },
  { label: 'Route', shows: ({ route }) => route ?? '–' },
  { label: 'User', shows: ({ user }) => user ?? '–' },
  { label: 'Size', class: 'number', shows: (message) => size(message.size) },
  { label: 'Last reply', class: 'wide reply', shows: ({ last_reply: reply }) => reply ?? '–' },
];

/** Builds the queue and keeps it fresh. */
export function begin() {
  update = table(byId('messages'), {
    caption: 'Messages that match, newest first', columns: COLUMNS, keyOf: ({ id }) => id, empty: 'No message matches.',
  });
  const form = byId('filter');
  restore(form);
  wanted = read(form);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    search();
  });
  form.addEventListener('reset', () => setTimeout(search));
  form.querySelector('.states').addEventListener('change', search);
  byId('more').addEventListener('click', more);
  byId('bulk')?.addEventListener('click', async ({ target }) => {
    const { action } = target.dataset;
    if (action && await actOnAll(action, filterOf(wanted))) changed();
  });
  again = repeat(REFRESH, refresh);
}

/** Something has changed: begins anew with the first page. */
export function changed() {
  pages = 1;
  again();
}

function link({ id, from, to, recipients }) {
  const others = recipients - to.length;
  return h('a', { href: `#message=${id}` }, h('span', { class: 'from' }, sender(from)), ' → ',
    h('span', { class: 'to' }, to.join(', '), others > 0 && ` and ${count(others)} more`));
}

function search() {
  wanted = read(byId('filter'));
  pages = 1;
  const address = new URLSearchParams(Object.entries(wanted));
  history.replaceState(null, '', `${location.pathname}${address.size ? `?${address}` : ''}${location.hash}`);
  again();
}

/** What the form says, in the names of the API's query. */
function read(form) {
  const entries = new FormData(form);
  const parameters = {};
  const states = entries.getAll('state');
  if (states.length) parameters.state = states.join(',');
  for (const name of FIELDS) {
    const value = String(entries.get(name) ?? '').trim();
    if (!value) continue;
    // A recipient without a local part is a domain.
    const domain = name === 'to' && value.lastIndexOf('@') <= 0;
    parameters[domain ? 'to_domain' : name] = domain ? value.replace(/^@/, '') : value;
  }
  return parameters;
}

/** The same as the API's filter document. */
const filterOf = ({ state, ...rest }) => (state ? { state: state.split(','), ...rest } : rest);

function restore(form) {
  const address = new URLSearchParams(location.search);
  const states = (address.get('state') ?? '').split(',');
  for (const box of form.elements.state) box.checked = states.includes(box.value);
  for (const name of FIELDS) form.elements[name].value = address.get(name) ?? '';
  if (address.has('to_domain')) form.elements.to.value = address.get('to_domain');
}

/** The first page; whoever looks further down reads a list that stands still. */
async function refresh() {
  if (pages > 1 && shown.length) return;
  const turn = ++asked;
  const trouble = byId('filter').querySelector('.trouble');
  try {
    const page = await get('/api/v1/messages', { ...wanted, limit: PAGE });
    if (turn !== asked) return; // a later search has been asked for
    setText(trouble, '');
    shown = page.messages;
    display(page);
  } catch (problem) {
    if (turn === asked && problem.status !== 401) setText(trouble, problem.message);
  }
}

async function more() {
  const turn = ++asked;
  pages += 1;
  try {
    const page = await get('/api/v1/messages', { ...wanted, limit: PAGE, after: next });
    if (turn !== asked) return;
    const known = new Set(shown.map(({ id }) => id));
    shown = [...shown, ...page.messages.filter(({ id }) => !known.has(id))];
    display(page);
  } catch (problem) {
    notice(problem.message, 'bad');
  }
}

function display(page) {
  next = page.next;
  update(shown);
  byId('more').hidden = next === undefined;
  const unread = page.unread ? `; ${count(page.unread)} more are not read yet after the start` : '';
  const over = /delivered|bounced|discarded/.test(wanted.state ?? '') ? '; those that are over are not counted' : '';
  setText(byId('queue-count'), `${plural(page.matched, 'message')} of the queue ${page.matched === 1 ? 'matches' : 'match'}${over}${unread}`);
}
