// The pictures of docs/images/, taken from the real relay while it has something to tell (--update only).
import { Client } from './far_side.mjs';
import { Relay, TOKENS, until } from './relay.mjs';
import { says, watched } from './stage.mjs';

const IMAGES = new URL('../../docs/images/', import.meta.url).pathname;
const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 };
const PEOPLE = ['anna', 'ben', 'carla', 'david', 'emine', 'frank', 'greta', 'henrik', 'ines', 'jonas'];
const DOMAINS = ['gmail.example', 'outlook.example', 'kunde.example', 'firma.example', 'uni.example'];
const SECOND = 1000;

const pause = (milliseconds) => new Promise((resolve) => { setTimeout(resolve, milliseconds); });

/** Applications that submit a few messages a second, more or less, until told to stop. */
class Traffic {
  replays = 0; // of each message
  warehouse = 0; // messages a second
  #n = 48_000;
  #stopped = false;

  constructor(relay) {
    this.done = this.#run(relay);
    this.done.catch(() => {}); // whoever stops it hears of it
  }

  async #run(relay) {
    const client = await Client.connect(relay.ports.smtp, relay.login);
    for (let tick = 0; !this.#stopped; tick += 1) {
      const began = Date.now();
      const many = Math.round(12 + 6 * Math.sin(tick / 9) + 3 * Math.sin(tick / 2.3));
      for (let i = 0; i < many; i += 1) {
        this.#n += 1;
        const to = `${PEOPLE[this.#n % 10]}@${DOMAINS[(this.#n * 7) % 5]}`;
        const mail = { to, key: `order-${this.#n}`, subject: `Your order ${this.#n}`, from: i % 4 ? 'orders@shop.example' : 'billing@shop.example' };
        for (let turn = 0; turn <= this.replays || turn < (this.#n % 40 === 0 ? 2 : 0); turn += 1) await client.submit(mail);
      }
      for (let i = 0; i < this.warehouse; i += 1) {
        this.#n += 1;
        await client.submit({ to: `picking${i}@warehouse.example`, key: `pick-${this.#n}`, subject: `Pick list ${this.#n}` });
      }
      await pause(Math.max(0, SECOND - (Date.now() - began)));
    }
    client.close();
  }

  async stop() {
    this.#stopped = true;
    await this.done;
  }
}

/** A page of somebody who is signed in. */
async function look(relay, options, play) {
  await watched(relay.url, { refusals: [422], ...options }, async (page) => {
    await page.context().request.post(`${relay.url}/session`, { data: { token: TOKENS.admin } });
    const visit = async (path = '/') => {
      await page.goto(relay.url + path);
      await page.locator('#destination-table tbody tr').first().waitFor();
      await says(page.locator('.chart .visually-hidden'), 'last hour');
      // Rates over some seconds.
      await pause(6 * SECOND);
    };
    await play({ page, visit, shoot: (name, more = {}) => page.screenshot({ path: `${IMAGES}${name}.png`, ...more }) });
  });
}

const clip = (height) => ({ clip: { x: 0, y: 0, width: 1360, height }, fullPage: true });

/** The story of one order: deferred, retried by its application, retried by an operator. */
async function order(relay) {
  const mail = { to: 'greta@kunde.later.example', key: 'order-123', subject: 'Your order 123 is on its way' };
  await relay.submit([mail, mail], { login: true });
  const [{ id }] = await relay.settled('kunde.later.example', 'queued');
  await pause(2 * SECOND);
  await relay.submit([mail], { login: true });
  await relay.api(`/api/v1/messages/${id}/actions`, { method: 'POST', body: { action: 'retry', reason: 'customer is on the phone' } });
  await relay.settled('kunde.later.example', 'queued', 2);
  return id;
}

export const pictures = {
  pictures_of_the_real_relay: async () => {
    const relay = await Relay.start();
    const traffic = new Traffic(relay);
    try {
      await relay.submit([{ to: 'gone@refused.example', subject: 'Your invoice' }, { to: 'left@refused.example', subject: 'Your invoice' }, { to: 'moved@refused.example', subject: 'Your invoice' }], { login: true });
      await relay.submit(PEOPLE.map((name) => ({ to: `${name}@office.example`, subject: 'Minutes' })), { login: true });
      const id = await order(relay);
      await pause(28 * SECOND);

      // A destination is gone: its breaker opens, and its queue grows.
      traffic.warehouse = 9;
      await until(async () => (await relay.api('/api/v1/overview')).open_breakers >= 2, 'the breakers open');
      await pause(28 * SECOND);
      await look(relay, {}, async ({ page, visit, shoot }) => {
        await visit();
        await shoot('incident-breaker', clip(735));
        await page.locator('#destinations').screenshot({ path: `${IMAGES}incident-breaker-destinations.png` });
      });

      // It is back, and reset; then an application retries whatever it has ever sent.
      await relay.gone.listen(relay.gone.port);
      traffic.warehouse = 0;
      await relay.api('/api/v1/destinations/reset', { method: 'POST', body: { route: 'warehouse' } });
      traffic.replays = 3;
      await pause(20 * SECOND);
      await look(relay, {}, async ({ visit, shoot }) => {
        await visit();
        await shoot('incident-replays', clip(735));
      });
      traffic.replays = 0;

      // Mail that is held.
      await look(relay, {}, async ({ page, visit, shoot }) => {
        await visit('/?state=held');
        await page.locator('#queue').screenshot({ path: `${IMAGES}incident-held.png` });
        await page.locator('#bulk').getByRole('button', { name: 'Release' }).click();
        await says(page.locator('#ask-yes'), 'Release ');
        await page.locator('#ask').screenshot({ path: `${IMAGES}dashboard-all.png` });
        await page.locator('#ask-no').click();
        await page.locator('#key-form [name=key]').fill('order-123');
        await page.locator('#key-form [name=scope]').fill('shop');
        await page.locator('#key-form button').click();
        await page.locator('#key-answer .timeline').waitFor();
        await page.locator('#find').screenshot({ path: `${IMAGES}dashboard-key.png` });
        relay.configure({ retry: 'soon', more: '[[route]]\nname = "more"\n' });
        await page.locator('#reload').click();
        await says(page.locator('#reload-answer'), 'has errors');
        await page.locator('#configuration').screenshot({ path: `${IMAGES}dashboard-reload.png` });
        relay.configure();
      });

      for (const colorScheme of ['light', 'dark']) {
        await look(relay, { colorScheme }, async ({ page, visit, shoot }) => {
          await visit();
          await shoot(`dashboard-${colorScheme}`, clip(1330));
          await page.goto(`${relay.url}/#message=${id}`);
          await page.locator('#story .timeline li').first().waitFor();
          await shoot(`dashboard-${colorScheme}-message`);
        });
      }
      await look(relay, PHONE, async ({ page, visit, shoot }) => {
        await visit();
        await shoot('dashboard-phone');
        await page.goto(`${relay.url}/#message=${id}`);
        await page.locator('#story .timeline li').first().waitFor();
        await shoot('dashboard-phone-message');
      });
    } finally {
      await traffic.stop();
      await relay.stop();
    }
  },
};
