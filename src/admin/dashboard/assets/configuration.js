// The configuration: read again from its file, all or nothing, and shown as it is in force.
import { get, post } from './api.js';
import { byId, fill, h, setText } from './dom.js';

/** Answers the button and the fold. */
export function begin() {
  byId('reload')?.addEventListener('click', reload);
  byId('in-force').addEventListener('toggle', () => {
    if (byId('in-force').open) load();
  });
}

async function load() {
  const text = byId('in-force').querySelector('pre');
  try {
    setText(text, JSON.stringify(await get('/api/v1/config'), null, 2));
  } catch (problem) {
    setText(text, problem.message);
  }
}

const list = (title, entries) => entries.length > 0 && [h('p', {}, title), h('ul', {}, entries.map((entry) => h('li', {}, h('code', {}, entry))))];

async function reload() {
  const button = byId('reload');
  const place = byId('reload-answer');
  button.disabled = true;
  try {
    const { changed, needs_restart: later } = await post('/api/v1/reload');
    fill(place, h('div', { class: 'banner', 'data-tone': later.length ? 'warn' : 'good' },
      h('strong', {}, changed.length ? 'The configuration is in force.' : 'Nothing has changed.'),
      list('New:', changed), list('Only a restart brings into force:', later)));
    if (byId('in-force').open) load();
  } catch (problem) {
    const errors = problem.errors.length ? problem.errors : [problem.message];
    fill(place, h('div', { class: 'banner', 'data-tone': 'bad' },
      h('strong', {}, 'Nothing has changed: the configuration has errors.'), h('ul', {}, errors.map((error) => h('li', {}, error)))));
  } finally {
    button.disabled = false;
    button.focus();
  }
}
