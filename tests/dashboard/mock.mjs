// A relay that is not there: the dashboard's own files and its API, over invented mail, with every rare state at hand.
//
//     node tests/dashboard/mock.mjs [PORT]      to look at the page while working on it
//
// Tests start it with `start()` and set what they need in `state`. It must keep to the contract of src/admin/model.rs,
// and knows nothing that the real API does not say.
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { gzipSync } from 'node:zlib';
import { HOSTILE, destinations, iso, series, stories } from './mock_mail.mjs';

const ASSETS = new URL('../../src/admin/dashboard/assets/', import.meta.url);
const TYPES = { css: 'text/css; charset=utf-8', js: 'text/javascript; charset=utf-8', svg: 'image/svg+xml' };
const SOURCE = readFileSync(new URL('../../src/admin/dashboard/mod.rs', import.meta.url), 'utf8');
const POLICY = SOURCE.match(/CONTENT_SECURITY: HeaderValue = HeaderValue::from_static\(\s*"([^;]+;[^"]*)"/)[1].replace(/\\\s+/g, '');
const TOKEN = 'correct-horse';
const APPLIES = { retry: ['queued', 'active'], hold: ['queued', 'active'], release: ['held'], bounce: ['queued', 'held', 'active'], discard: ['queued', 'held', 'active'] };
const AFTER = { retry: 'active', hold: 'held', release: 'queued', bounce: 'bounced', discard: 'discarded' };
const FINISHED = ['delivered', 'bounced', 'discarded'];

/** Starts it; `state` may be changed at any time. */
export async function start(port = 0) {
  const now = Date.now();
  const state = {
    ready: true, reasons: [], role: 'operate', contents: true, askToken: false, stream: true, limited: false, reload: 'changed', young: false, log: [], sessions: new Set(), streams: new Set(),
    stories: stories(160, now), destinations: destinations(now), forgotten: new Set(), replays: 3,
    suppressions: [{ address: 'gone@kunde.example', since: iso(now - 86_400_000), reason: '550 5.1.1 No such user here' }, { address: `"${HOSTILE}"@evil.example`, since: iso(now - 3_600_000), reason: HOSTILE }],
    started: now - 277_000_000,
  };
  const server = http.createServer((request, response) => {
    handle(state, request, response).catch((error) => problem(response, 500, String(error?.stack)));
  });
  await new Promise((resolve) => { server.listen(port, '127.0.0.1', resolve); });
  const tick = setInterval(() => {
    for (const stream of state.streams) stream.write(`event: overview\ndata: ${JSON.stringify(overview(state))}\n\n`);
  }, 1000);
  const drop = () => {
    for (const stream of state.streams) stream.destroy();
  };
  const close = () => {
    clearInterval(tick);
    drop();
    server.closeAllConnections();
    return new Promise((resolve) => { server.close(resolve); });
  };
  const known = () => state.stories.find(({ key }) => key === 'order-123');
  const hostile = () => state.stories.find(({ key }) => key === HOSTILE);
  return { known, hostile, url: `http://127.0.0.1:${server.address().port}`, port: server.address().port, state, drop, close, token: TOKEN };
}

function send(response, status, document, headers = {}) {
  response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store', ...headers });
  response.end(document === null ? '' : JSON.stringify(document));
}

function problem(response, status, detail, more = {}, headers = {}) {
  send(response, status, { type: 'about:blank', title: http.STATUS_CODES[status], status, detail, ...more }, { 'content-type': 'application/problem+json', ...headers });
}

async function handle(state, request, response) {
  const url = new URL(request.url, 'http://mock');
  const ask = Object.fromEntries(url.searchParams);
  if (url.pathname === '/') return page(request, response);
  if (url.pathname.startsWith('/assets/')) return asset(url.pathname, request, response);
  const body = await read(request);
  state.log.push({ method: request.method, path: url.pathname, ask, body });
  if (request.method !== 'GET' && request.headers['content-type'] !== 'application/json') return problem(response, 415, 'Say what changes something as application/json.');
  if (state.limited) return problem(response, 429, 'Too many wrong tokens from this address.', {}, { 'retry-after': '42' });
  const session = /(?:^|; )session=(\w+)/.exec(request.headers.cookie ?? '')?.[1];
  if (url.pathname === '/session') return sessions(state, request, response, body, session);
  if (state.askToken && !state.sessions.has(session)) return problem(response, 401, 'A token is needed.');
  if (request.method !== 'GET' && state.role !== 'operate') return problem(response, 403, 'This token may only read.');
  const parts = url.pathname.replace('/api/v1/', '').split('/').map(decodeURIComponent);
  const route = ROUTES[`${request.method} ${parts.length > 1 && parts[0] === 'messages' && parts[1] !== 'actions' ? ['messages', '*', ...parts.slice(2)].join('/') : parts.join('/')}`];
  if (!route) return problem(response, 404, `There is nothing at ${url.pathname}.`);
  return route({ state, request, response, ask, body, parts });
}

async function read(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const text = Buffer.concat(chunks).toString();
  return text ? JSON.parse(text) : null;
}

function packed(request, response, type, bytes, cache) {
  const gzip = /gzip/.test(request.headers['accept-encoding'] ?? '');
  response.writeHead(200, {
    'content-type': type, 'cache-control': cache, 'content-security-policy': POLICY, 'x-content-type-options': 'nosniff', ...(gzip ? { 'content-encoding': 'gzip' } : {}),
  });
  response.end(gzip ? gzipSync(bytes) : bytes);
}

function page(request, response) {
  const names = [...readFileSync(new URL('../assets.rs', ASSETS), 'utf8').matchAll(/\("([\w.]+)", Role::Module/g)].map((found) => found[1]);
  const text = readFileSync(new URL('page.html', ASSETS), 'utf8')
    .replace(/\{% for module in modules %\}([\s\S]*?)\{% endfor %\}/, (_, each) => names.map((name) => each.replaceAll('{{ module }}', name)).join(''))
    .replaceAll('{{ base }}', '/assets/mock').replaceAll('{{ version }}', '0.1.0');
  packed(request, response, 'text/html; charset=utf-8', text, 'no-cache');
}

function asset(path, request, response) {
  const name = path.split('/').pop();
  if (!/^[\w.]+$/.test(name)) return problem(response, 404, 'No such asset.');
  let bytes;
  try {
    bytes = readFileSync(new URL(name, ASSETS));
  } catch {
    return problem(response, 404, 'No such asset.');
  }
  return packed(request, response, TYPES[name.split('.').pop()], bytes, 'no-store');
}

function sessions(state, request, response, body, session) {
  if (request.method === 'POST') {
    if (body?.token !== TOKEN) return problem(response, 401, 'The token is not known.');
    state.sessions.add('abc');
    return send(response, 200, { name: 'anna', role: state.role, contents: state.contents }, { 'set-cookie': 'session=abc; HttpOnly; SameSite=Strict; Path=/' });
  }
  if (request.method === 'DELETE') {
    state.sessions.delete(session);
    response.writeHead(204);
    return response.end();
  }
  if (state.askToken && !state.sessions.has(session)) return problem(response, 401, 'A token is needed.');
  return send(response, 200, { name: state.askToken ? 'anna' : 'loopback', role: state.role, contents: state.contents });
}

function overview(state) {
  const seconds = (Date.now() - state.started) / 1000;
  const waits = state.stories.filter(({ state: at }) => at === 'queued' || at === 'active');
  return {
    at: new Date().toISOString(), hostname: 'relay.shop.example', version: '0.1.0', uptime_seconds: Math.floor(seconds), ready: state.ready, reasons: state.reasons,
    queued: waits.length, held: state.stories.filter(({ state: at }) => at === 'held').length, events: 0, oldest_seconds: Math.max(0, ...waits.map((message) => message.age_seconds)),
    accepted: Math.floor(seconds * 63.4 + 2 * Math.sin(seconds / 3)), replayed: Math.floor(seconds * 1.9), refused: Math.floor(seconds * 0.2), delivered: Math.floor(seconds * 62.8),
    deferred: Math.floor(seconds * 0.7), failed: Math.floor(seconds * 0.06), clients: 38, connections: 17,
    open_breakers: state.destinations.filter(({ breaker }) => breaker !== 'closed').length, accept_p50_seconds: 0.0031, accept_p99_seconds: 0.0061, deliver_p50_seconds: 0.118, deliver_p99_seconds: 0.43,
  };
}

const SECONDS = { s: 1, m: 60, h: 3600, d: 86_400 };

/** Those that a filter (in the form of the query) wants; or a sentence about what is wrong with it. */
function matching(state, filter) {
  const states = filter.state ? filter.state.split(',') : ['queued', 'active', 'held'];
  for (const age of ['older', 'newer']) if (filter[age] && !/^\d+[smhd]$/.test(filter[age])) return `${age} is "${filter[age]}"; a number and s, m, h or d is allowed, such as 15m`;
  const age = (text) => Number(text.slice(0, -1)) * SECONDS[text.at(-1)];
  const domain = (address) => address.split('@').pop();
  return state.stories.filter((message) => states.includes(message.state)
    && (!filter.to || message.to.includes(filter.to))
    && (!filter.to_domain || message.to.some((to) => (filter.to_domain.startsWith('*.') ? domain(to).endsWith(filter.to_domain.slice(1)) : domain(to) === filter.to_domain)))
    && (!filter.from || (filter.from === '<>' ? message.from === '' : filter.from.startsWith('@') ? message.from.endsWith(filter.from) : message.from === filter.from))
    && (!filter.user || message.user === filter.user) && (!filter.route || message.route === filter.route)
    && (!filter.older || message.age_seconds > age(filter.older)) && (!filter.newer || message.age_seconds < age(filter.newer)));
}

function summary({ id, state, kind, accepted_at, age_seconds, from, to, recipients, user, listener, key, route, size, attempts, next_attempt, last_reply }) {
  return { id, state, kind, accepted_at, age_seconds, from, to, recipients, user, listener, key, route, size, attempts, next_attempt, last_reply };
}

function act(message, action, body) {
  if (!APPLIES[action].includes(message.state)) return 'unchanged';
  if (message.state === 'active') return 'pending';
  message.state = AFTER[action];
  for (const recipient of message.recipient_stories) {
    recipient.state = message.state;
    recipient.replies = [...recipient.replies, { at: iso(Date.now()), times: 1, route: '', host: '', code: 0, text: `${action} by anna${body.reason ? `: ${body.reason}` : ''}`, tls: '' }];
  }
  if (FINISHED.includes(message.state)) message.finished_at = iso(Date.now());
  return 'done';
}

const find = (state, id) => state.stories.find((message) => message.id === id);

const ROUTES = {
  'GET overview': ({ state, response }) => send(response, 200, overview(state)),
  'GET series': ({ state, response, ask }) => send(response, 200, series(ask.range, Date.now(), state.young ? 0 : 720)),
  'GET stream': ({ state, response }) => {
    if (!state.stream) return problem(response, 503, 'Too many streams.', {}, { 'retry-after': '5' });
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    response.write(`retry: 2000\n\nevent: overview\ndata: ${JSON.stringify(overview(state))}\n\n`);
    state.streams.add(response);
    return response.on('close', () => state.streams.delete(response));
  },
  'GET messages': ({ state, response, ask: { limit = 50, after = 0, ...filter } }) => {
    const all = matching(state, filter);
    if (typeof all === 'string') return problem(response, 400, all);
    const end = Number(after) + Number(limit);
    return send(response, 200, { messages: all.slice(Number(after), end).map(summary), ...(end < all.length ? { next: String(end) } : {}), matched: all.length, unread: 0 });
  },
  'GET messages/*': ({ state, response, parts }) => {
    const message = find(state, parts[1]);
    return message ? send(response, 200, { ...message, subject: state.contents ? message.subject : undefined }) : problem(response, 404, 'No such message.');
  },
  'GET messages/*/content': ({ state, response, parts }) => {
    response.writeHead(200, { 'content-type': 'message/rfc822', 'content-disposition': 'attachment' });
    response.end(`Subject: ${find(state, parts[1]).subject}\r\n\r\nHello.\r\n`);
  },
  'POST messages/*/actions': ({ state, response, parts, body }) => {
    const message = find(state, parts[1]);
    send(response, 200, { id: parts[1], effect: message ? act(message, body.action, body) : 'gone' });
  },
  'POST messages/actions': ({ state, response, body }) => {
    const { action, filter, dry_run: trial } = body;
    const all = matching(state, { ...filter, state: (filter.state ?? APPLIES[action]).join() });
    if (typeof all === 'string') return problem(response, 400, all);
    const result = { dry_run: trial, matched: all.length, done: 0, pending: 0, unchanged: 0, failed: 0, sample: all.slice(0, 20).map(summary) };
    if (!trial) for (const message of all) result[act(message, action, body)] += 1;
    return send(response, 200, result);
  },
  'GET keys': ({ state, response, ask }) => {
    const message = state.stories.find(({ key, key_scope: scope }) => key === ask.key && (scope ?? '') === (ask.scope ?? ''));
    if (!message || state.forgotten.has(ask.key)) return problem(response, 404, 'No such key.');
    return send(response, 200, {
      key: ask.key, scope: message.key_scope, id: message.id, accepted_at: message.accepted_at, expires_at: iso(Date.now() + 80_000_000), replays: message.replay_count, last_replay_at: message.replays.at(-1)?.at, message,
    });
  },
  'DELETE keys': ({ state, response, ask }) => {
    state.forgotten.add(ask.key);
    response.writeHead(204);
    response.end();
  },
  'GET destinations': ({ state, response }) => send(response, 200, { destinations: state.destinations, total: state.destinations.length }),
  'POST destinations/reset': ({ state, response, body }) => {
    const lines = state.destinations.filter(({ route, destination }) => route === body.route && (!body.destination || destination === body.destination));
    const open = lines.filter(({ breaker }) => breaker !== 'closed');
    for (const line of open) Object.assign(line, { breaker: 'closed', hosts: [], paused_until: undefined, connections: 1 });
    send(response, 200, { breakers: open.length, destinations: open.length });
  },
  'GET suppressions': ({ state, response }) => send(response, 200, { suppressions: state.suppressions, total: state.suppressions.length }),
  'POST suppressions': ({ state, response, body }) => {
    if (!body.address.includes('@')) return problem(response, 400, `address is "${body.address}"; an address with a domain is allowed`);
    const entry = { ...body, since: iso(Date.now()) };
    state.suppressions.push(entry);
    return send(response, 201, entry);
  },
  'DELETE suppressions': ({ state, response, ask }) => {
    state.suppressions = state.suppressions.filter(({ address }) => address !== ask.address);
    response.writeHead(204);
    response.end();
  },
  'GET config': ({ response }) => send(response, 200, { hostname: 'relay.shop.example', listener: [{ name: 'submission', address: '0.0.0.0:587' }], user: [{ name: 'shop', password_hash: '(secret)' }] }),
  'POST reload': ({ state, response }) => (state.reload === 'changed'
    ? send(response, 200, { changed: ['route "provider"', 'limits.message_size', HOSTILE], needs_restart: ['listener "submission".address'] })
    : problem(response, 422, 'The configuration has errors.', { errors: ['line 12: retry.base is "soon"; a duration such as "30s" is allowed', `line 14: unknown key ${HOSTILE}`] })),
};

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const { url } = await start(Number(process.argv[2] ?? 8025));
  console.log(`The mock serves at ${url}`);
}
