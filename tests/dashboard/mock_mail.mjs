// Invented mail for the mock: the same on each run, with hostile texts wherever somebody else writes them.

export const HOSTILE = '<img src=x onerror=alert(1)>';

/** A small generator of numbers that look random and are not (mulberry32). */
export function numbers(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

export const iso = (milliseconds) => new Date(milliseconds).toISOString().replace(/\.\d+Z$/, 'Z');

const DOMAINS = ['gmail.example', 'outlook.example', 'kunde.example', 'firma.example', 'uni.example'];
const NAMES = ['anna', 'ben', 'carla', 'david', 'emine', 'frank', 'greta', 'henrik', 'ines', 'jonas'];
const REPLIES = {
  deferred: [[451, '4.7.1 Greylisted, please try again later'], [452, '4.2.2 Mailbox full'], [421, '4.7.0 Too many connections from your address']],
  failed: [[550, '5.1.1 No such user here'], [554, '5.7.1 Message refused by policy']],
};
const STATES = ['queued', 'queued', 'queued', 'queued', 'active', 'held', 'delivered', 'delivered', 'bounced', 'discarded'];

/** So many stories, newest first. */
export function stories(total, now) {
  const random = numbers(7);
  const pick = (list) => list[Math.floor(random() * list.length)];
  const all = [];
  for (let n = 0; n < total; n += 1) all.push(story(n, now, random, pick));
  hostile(all[1], now);
  known(all[2], now);
  return all.sort((a, b) => a.age_seconds - b.age_seconds);
}

function story(n, now, random, pick) {
  const accepted = now - 20_000 - n * n * 900;
  const state = n < 3 ? 'queued' : pick(STATES);
  const over = ['delivered', 'bounced', 'discarded'].includes(state);
  const mx = random() < 0.4;
  const route = mx ? 'direct' : 'provider';
  const recipients = random() < 0.15 ? 2 + Math.floor(random() * 6) : 1;
  const addresses = Array.from({ length: recipients }, () => `${pick(NAMES)}@${pick(DOMAINS)}`);
  const attempts = state === 'delivered' ? 1 : Math.min(9, Math.floor((now - accepted) / 400_000));
  const host = mx ? `mx1.${addresses[0].split('@')[1]}:25` : 'smtp.provider.example:587';
  const tls = mx ? 'TLSv1.3 dane' : 'TLSv1.3 verified';
  const replies = [];
  if (attempts > 0 && state !== 'delivered') {
    const [code, text] = pick(REPLIES.deferred);
    replies.push({ at: iso(accepted + 1500), times: 1, route, host, code: 0, text: 'connection timed out after 30 s', tls: '' });
    replies.push({ at: iso(accepted + 61_000), times: attempts, route, host, code, text, tls });
  }
  if (state === 'held') replies.push({ at: iso(accepted + 90_000), times: 1, route: '', host: '', code: 0, text: 'held by anna: waits for the provider', tls: '' });
  if (state === 'delivered') replies.push({ at: iso(accepted + 800), times: 1, route, host, code: 250, text: '2.0.0 OK queued as 4Xk2', tls });
  if (state === 'bounced') {
    const [code, text] = pick(REPLIES.failed);
    replies.push({ at: iso(accepted + 95_000), times: 1, route, host, code, text, tls });
  }
  const last = replies.at(-1);
  return {
    id: `01KAMB${String(999_999 - n).padStart(6, '0')}QJ4V7R2X8M3N5P`, state, kind: n % 17 === 11 ? 'notice' : 'mail', accepted_at: iso(accepted), age_seconds: Math.round((now - accepted) / 1000),
    from: n % 17 === 11 ? '' : pick(['orders@shop.example', 'billing@shop.example', 'hello@news.example']), to: addresses.slice(0, 3), recipients,
    ...(n % 17 === 11 ? {} : { user: pick(['shop', 'news']), listener: 'submission', client: `10.4.0.${10 + (n % 9)}`, key: `order-${48_200 - n}`, key_scope: 'shop' }),
    route, size: 1800 + Math.floor(random() * 60_000), attempts,
    ...(state === 'queued' ? { next_attempt: iso(now + 20_000 + Math.floor(random() * 1_500_000)) } : {}),
    ...(last ? { last_reply: `${last.code ? `${last.code} ` : ''}${last.text}` } : {}),
    message_id: `<${48_200 - n}.a7c3@shop.example>`, subject: `Your order ${48_200 - n} is on its way`, priority: 0, warned: attempts > 6,
    ...(over ? { finished_at: iso(accepted + 96_000) } : { expires_at: iso(accepted + 5 * 86_400_000) }),
    recipient_stories: addresses.map((address) => ({ address, state, attempts, ...(state === 'held' ? { hold_cause: 'operator' } : {}), ...(over ? {} : { route }), replies })),
    replays: [], replay_count: 0,
  };
}

/** What an attacker would write into every field that is theirs. */
function hostile(message, now) {
  message.from = `"${HOSTILE}"@evil.example`;
  message.to = [`"${HOSTILE}"@victim.example`];
  message.subject = `${HOSTILE}<script>alert(2)</script>`;
  message.message_id = `<${HOSTILE}@evil.example>`;
  message.key = HOSTILE;
  message.user = 'attacker';
  message.last_reply = `450 4.0.0 ${HOSTILE}`;
  message.recipients = 1;
  message.attempts = 1;
  message.recipient_stories = [{
    address: message.to[0], state: 'queued', attempts: 1, route: message.route,
    replies: [
      { at: iso(now - 15_000), times: 1, route: message.route, host: `${HOSTILE}:25`, code: 450, text: `4.0.0 ${HOSTILE}`, tls: 'TLSv1.2 opportunistic' },
      { at: iso(now - 10_000), times: 1, route: '', host: '', code: 0, text: `retried by ${HOSTILE}: ${HOSTILE}`, tls: '' },
    ],
  }];
}

/** The message of order-123: tried several times, asked for again three times. */
function known(message, now) {
  const at = (seconds) => iso(now - seconds * 1000);
  Object.assign(message, {
    from: 'orders@shop.example', to: ['greta@kunde.example'], recipients: 1, key: 'order-123', key_scope: undefined, user: undefined, listener: 'local', client: '127.0.0.1',
    kind: 'mail', accepted_at: at(640), age_seconds: 640, attempts: 3, route: 'direct', subject: 'Your order 123 is on its way', message_id: '<123.a7c3@shop.example>',
    last_reply: '451 4.7.1 Greylisted, please try again later', next_attempt: iso(now + 240_000), expires_at: iso(now + 4.9 * 86_400_000),
    replays: [{ at: at(630), client: '127.0.0.1' }, { at: at(600), client: '127.0.0.1' }, { at: at(450), client: '127.0.0.1' }], replay_count: 3,
  });
  const host = 'mx1.kunde.example:25';
  message.recipient_stories = [{
    address: 'greta@kunde.example', state: 'queued', attempts: 3, route: 'direct',
    replies: [
      { at: at(638), times: 1, route: 'direct', host, code: 0, text: 'connection refused', tls: '' },
      { at: at(300), times: 2, route: 'direct', host, code: 451, text: '4.7.1 Greylisted, please try again later', tls: 'TLSv1.3 dane' },
      { at: at(120), times: 1, route: '', host: '', code: 0, text: 'retried by anna: customer is on the phone', tls: '' },
    ],
  }];
}

/** Where it waits. */
export function destinations(now) {
  const line = (route, transport, destination, more) => ({
    route, transport, destination, breaker: 'closed', waiting: 0, connections: 1, connection_limit: 20, delivered: 18_220, deferred: 14, failed: 3, rate_per_minute: 310.4, hosts: [], ...more,
  });
  return [
    line('direct', 'mx', 'kunde.example', {
      breaker: 'open', waiting: 412, connections: 0, delivered: 2210, deferred: 966, failed: 12, rate_per_minute: 0, paused_until: iso(now + 45_000),
      last_trouble: '421 4.7.0 Too many connections from your address', hosts: [{ host: 'mx1.kunde.example:25', breaker: 'open', open_until: iso(now + 45_000) }, { host: 'mx2.kunde.example:25', breaker: 'closed' }],
    }),
    line('direct', 'mx', 'uni.example', { breaker: 'half_open', waiting: 37, connections: 1, connection_limit: 1, rate_per_minute: 4, last_trouble: `451 4.3.0 ${HOSTILE}`, hosts: [{ host: 'mail.uni.example:25', breaker: 'half_open' }] }),
    line('provider', 'smarthost', '', { waiting: 9, connections: 8, connection_limit: 20, delivered: 884_120, deferred: 301, failed: 208, rate_per_minute: 4210.7 }),
    ...['gmail.example', 'outlook.example', 'firma.example'].map((name) => line('direct', 'mx', name, {})),
    line('archive', 'directory', '', { connections: 0, connection_limit: 1, rate_per_minute: 12 }),
  ];
}

const wave = (at, period, low, high) => low + ((high - low) * (1 + Math.sin((at / period) * 2 * Math.PI))) / 2;

/** The columns of `GET /api/v1/series`. */
export function series(range, now, points = 720) {
  const step = range === '24h' ? 120 : 5;
  const random = numbers(3);
  const end = Math.floor(now / 1000 / step) * step;
  const at = Array.from({ length: points }, (_, n) => end - (points - 1 - n) * step);
  const noise = (by) => 1 + (random() - 0.5) * by;
  const storm = (n) => (n > 430 && n < 500 ? Math.sin(((n - 430) / 70) * Math.PI) : 0);
  const column = (value) => at.map((time, n) => Math.max(0, value(time, n)));
  return {
    step_seconds: step, at,
    accepted: column((time) => wave(time - end, 2700, 44, 84) * noise(0.1)),
    replayed: column((_, n) => (storm(n) * 26 + 0.6) * noise(0.6)),
    refused: column((_, n) => (n % 97 < 3 ? 2 : 0.15) * noise(0.8)),
    delivered: column((time, n) => wave(time - end, 2700, 43, 83) * noise(0.08) * (1 - 0.55 * storm(n))),
    deferred: column((_, n) => (storm(n) * 11 + 0.4) * noise(0.5)),
    failed: column(() => (random() < 0.05 ? 0.8 : 0.05)),
    queued: column((_, n) => Math.round(60 + 2600 * (n > 430 ? Math.min(1, (n - 430) / 90) * Math.exp(-Math.max(0, n - 520) / 40) : 0) * noise(0.04) + 12 * noise(1))),
    held: column((_, n) => (n > 300 ? 17 : 9)),
    accept_p99: column((_, n) => (0.006 + 0.004 * storm(n)) * noise(0.5)),
    deliver_p99: column((_, n) => (0.42 + 1.6 * storm(n)) * noise(0.4)),
  };
}
