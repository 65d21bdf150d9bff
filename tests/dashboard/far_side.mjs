// Mail's two ends for the real relay: next hops that do as they are told, and a client that submits.
import { once } from 'node:events';
import { connect, createServer } from 'node:net';

/** Calls `hear(line)` for each line that comes. */
function lines(socket, hear) {
  let rest = '';
  socket.setEncoding('latin1');
  socket.on('data', (text) => {
    const all = (rest + text).split('\r\n');
    rest = all.pop();
    all.forEach(hear);
  });
  socket.on('error', () => socket.destroy());
}

/** A next hop. `answer(to)` gives the reply to a recipient; `greeting` may turn everybody away. */
export class FarSide {
  taken = []; // recipients of what was taken
  greeting = '220 far.example ESMTP';
  answer = () => '250 2.1.5 OK';
  #sockets = new Set();
  #server = createServer((socket) => this.#talk(socket));

  async listen(port = 0) {
    this.#server.listen(port, '127.0.0.1');
    await once(this.#server, 'listening');
    this.port = this.#server.address().port;
    return this;
  }

  async close() {
    for (const socket of this.#sockets) socket.destroy();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, 'close');
  }

  #talk(socket) {
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    let [content, wanted] = [false, []];
    const say = (reply) => socket.write(`${reply}\r\n`);
    say(this.greeting);
    lines(socket, (line) => {
      if (content) {
        if (line !== '.') return;
        content = false;
        this.taken.push(...wanted);
        say('250 2.0.0 taken');
        return;
      }
      const [verb] = line.toUpperCase().split(/[ :]/);
      if (verb === 'EHLO') say('250-far.example\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES');
      else if (verb === 'MAIL') {
        wanted = [];
        say('250 2.1.0 OK');
      } else if (verb === 'RCPT') {
        const to = line.slice(line.indexOf('<') + 1, line.lastIndexOf('>'));
        const reply = this.answer(to);
        if (reply.startsWith('2')) wanted.push(to);
        say(reply);
      } else if (verb === 'DATA') {
        content = wanted.length > 0;
        say(content ? '354 go on' : '554 5.5.1 no recipients');
      } else if (verb === 'QUIT') socket.end('221 2.0.0 bye\r\n');
      else say('250 2.0.0 OK');
    });
  }
}

/** A client's session with the relay. */
export class Client {
  #waiting = [];
  #said = [];

  static async connect(port, login) {
    const client = new Client();
    client.socket = connect(port, '127.0.0.1');
    lines(client.socket, (line) => {
      if (line[3] === '-') return;
      if (client.#waiting.length) client.#waiting.shift()(line);
      else client.#said.push(line);
    });
    await client.hears();
    await client.say('EHLO app.example');
    if (login) await client.say(`AUTH PLAIN ${Buffer.from(`\0${login.name}\0${login.password}`).toString('base64')}`, '235');
    return client;
  }

  /** The last line of the next reply. */
  hears() {
    return this.#said.length ? Promise.resolve(this.#said.shift()) : new Promise((resolve) => { this.#waiting.push(resolve); });
  }

  async say(line, expected) {
    this.socket.write(`${line}\r\n`);
    const reply = await this.hears();
    if (expected && !reply.startsWith(expected)) throw new Error(`${line.slice(0, 60)}: ${reply}`);
    return reply;
  }

  /** Submits one message and gives the reply to its end, or the first refusal. */
  async submit({ from = 'orders@shop.example', to, key, subject = 'Your order', text = 'Thank you.' }) {
    await this.say(`MAIL FROM:<${from}>`, '250');
    for (const one of [to].flat()) {
      const reply = await this.say(`RCPT TO:<${one}>`);
      if (!reply.startsWith('250')) {
        await this.say('RSET', '250');
        return reply;
      }
    }
    await this.say('DATA', '354');
    const header = [`From: Shop <orders@shop.example>`, `Subject: ${subject}`, key && `X-Idempotency-Key: ${key}`].filter(Boolean);
    return this.say(`${header.join('\r\n')}\r\n\r\n${text}\r\n.`);
  }

  close() {
    this.socket.end('QUIT\r\n');
  }
}
