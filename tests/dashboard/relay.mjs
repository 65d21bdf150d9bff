// The real relay, with next hops in every mood: one that takes mail or refuses it for good, one that says "later", one
// that turns everybody away, and one that is not there.
import { execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Client, FarSide } from './far_side.mjs';
import { HOSTILE } from './mock_mail.mjs';

const PROGRAM = process.env.PROGRAM;
const LOGIN = { name: 'shop', password: 'correct horse battery staple' };
const PATIENCE = 20_000; // milliseconds
const EACH = 50;

export const TOKENS = { admin: 'admin-token-of-the-tests', duty: 'token-of-somebody-who-looks' };

/** Waits until `look()` gives something; fails after a while. */
export async function until(look, what) {
  for (const end = Date.now() + PATIENCE; Date.now() < end;) {
    const seen = await look();
    if (seen) return seen;
    await new Promise((resolve) => { setTimeout(resolve, EACH); });
  }
  throw new Error(`it did not happen in time: ${what}`);
}

export class Relay {
  /** Of the one user. */
  login = LOGIN;

  /** Domains below later.example whose mail is taken now. */
  open = new Set();

  static async start() {
    const relay = new Relay();
    relay.place = mkdtempSync(join(tmpdir(), 'oncemail-dashboard-'));
    mkdirSync(join(relay.place, 'mail'));
    for (const name of ['provider', 'later', 'closed', 'gone']) relay[name] = await new FarSide().listen();
    relay.provider.answer = (to) => (to.endsWith('@refused.example') ? '550 5.1.1 No such user here' : '250 2.1.5 OK');
    relay.later.answer = (to) => {
      const domain = to.slice(to.lastIndexOf('@') + 1);
      if (domain === 'hostile.example') return `451 4.7.1 ${HOSTILE}`;
      return relay.open.has(domain) ? '250 2.1.5 OK' : '451 4.7.1 Greylisted, please try again later';
    };
    relay.closed.greeting = '421 4.3.2 Down for maintenance';
    await relay.gone.close();
    relay.hash = execFileSync(PROGRAM, ['hash-password'], { input: `${LOGIN.password}\n`, encoding: 'utf8' }).trim();
    relay.ports = { smtp: 0, admin: 0 };
    relay.configure();
    await relay.run();
    return relay;
  }

  /** Writes the file; `more` stands at its end, `retry` is the first wait. */
  configure({ retry = '1h', more = '' } = {}) {
    writeFileSync(join(this.place, 'admin'), TOKENS.admin);
    writeFileSync(join(this.place, 'oncemail.toml'), `
hostname = "relay.shop.example"
data_dir = "${this.place}/var"
shutdown_grace = "1s"
[log]
format = "json"
[limits]
min_free = "1MB"
messages_per_connection = 100000
[idempotency]
fallback_key = "message-id"
[retry]
base = "${retry}"
cap = "2h"
jitter = "none"
on_failure = "hold"
[suppression]
on_hard_bounce = true
[admin]
address = "127.0.0.1:${this.ports.admin}"
token_file = "${this.place}/admin"
[[admin_token]]
name = "duty"
token = "${TOKENS.duty}"
role = "read"
[[listener]]
name = "submission"
address = "127.0.0.1:${this.ports.smtp}"
tls = "none"
auth = "optional"
allow = ["127.0.0.0/8"]
[[user]]
name = "shop"
password_hash = "${this.hash}"
${this.route('partner', this.later, ['later.example', '*.later.example', 'hostile.example'])}
${this.route('office', this.closed, ['office.example'])}
${this.route('warehouse', this.gone, ['warehouse.example'])}
[[route]]
name = "archive"
recipient_domains = ["archive.example"]
transport = "directory"
path = "${this.place}/mail"
${this.route('provider', this.provider)}
${more}
`);
  }

  route(name, { port }, domains) {
    const which = domains ? `recipient_domains = ${JSON.stringify(domains)}\n` : '';
    return `[[route]]\nname = "${name}"\n${which}transport = "smarthost"\nhosts = ["127.0.0.1:${port}"]\ntls = "none"`;
  }

  /** Starts the program, on the same ports as before. */
  async run() {
    this.log = [];
    this.child = spawn(PROGRAM, ['serve', '--config', join(this.place, 'oncemail.toml')], { stdio: ['ignore', 'pipe', 'inherit'] });
    this.ended = new Promise((resolve) => { this.child.once('exit', resolve); });
    createInterface({ input: this.child.stdout }).on('line', (line) => {
      this.log.push(line);
      if (this.log.length > 5000) this.log.shift();
    });
    const address = (text) => this.log.map((line) => JSON.parse(line)).map((entry) => entry.fields ?? entry).find(({ message }) => message === text)?.address;
    const port = (text) => until(() => address(text)?.split(':').at(-1), `"${text}": ${this.log.slice(-5).join('\n')}`);
    this.ports = { smtp: Number(await port('listening')), admin: Number(await port('the HTTP API is listening')) };
    this.url = `http://127.0.0.1:${this.ports.admin}`;
    this.configure();
  }

  async kill() {
    this.child.kill('SIGKILL');
    await this.ended;
  }

  async stop() {
    await this.kill();
    await Promise.all([this.provider, this.later, this.closed, this.gone].map((far) => far.close()));
    rmSync(this.place, { recursive: true, force: true });
  }

  /** What the API says, as a program hears it. */
  async api(path, { method = 'GET', body } = {}) {
    const headers = { authorization: `Bearer ${TOKENS.admin}`, 'content-type': 'application/json' };
    const response = await fetch(this.url + path, { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    return { status: response.status, ...(text.startsWith('{') ? JSON.parse(text) : { text }) };
  }

  /** Submits messages on one connection, and gives the reply to each. */
  async submit(mails, { login = false } = {}) {
    const client = await Client.connect(this.ports.smtp, login ? LOGIN : undefined);
    const replies = [];
    for (const mail of mails) replies.push(await client.submit(mail));
    client.close();
    return replies;
  }

  /** The messages for a domain, in these states. */
  list(domain, state = 'queued,active,held,delivered,bounced,discarded') {
    return this.api(`/api/v1/messages?to_domain=${domain}&state=${state}`).then(({ messages }) => messages);
  }

  /** Waits until all messages for a domain are in this state (and were tried), and gives them. */
  settled(domain, state, attempts = 1) {
    return until(async () => {
      const all = await this.list(domain);
      return all.length > 0 && all.every((message) => message.state === state && message.attempts >= attempts) && all;
    }, `mail for ${domain} is ${state}`);
  }
}
