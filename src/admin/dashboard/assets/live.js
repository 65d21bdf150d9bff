// The stream of overviews: each second by server-sent events, by asking now and then where that does not work.
// Never gives up, never asks in a hurry, and costs the relay nothing while nobody looks at the page.
import { get } from './api.js';

const SILENCE = 6000; // milliseconds without an event after which a stream is taken for dead
const FIRST_WAIT = 1000;
const LAST_WAIT = 30_000;
const POLL = 5000;

/**
 * Calls `onOverview(overview)` for each one, and `onState('live' | 'asking' | 'lost')` whenever that changes.
 */
export function follow(onOverview, onState) {
  let source = null;
  let watchdog = 0;
  let retry = 0;
  let poll = 0;
  let wait = FIRST_WAIT;
  let failures = 0; // in a row; the relay ends each stream now and then, which is none yet

  const stop = () => {
    source?.close();
    source = null;
    for (const timer of [watchdog, retry, poll]) clearTimeout(timer);
  };
  const broken = () => {
    stop();
    failures += 1;
    ask();
    retry = setTimeout(listen, wait);
    wait = Math.min(wait * 2, LAST_WAIT);
  };
  const heard = (event) => {
    clearTimeout(watchdog);
    watchdog = setTimeout(broken, SILENCE);
    wait = FIRST_WAIT;
    failures = 0;
    clearTimeout(poll);
    let overview;
    try {
      overview = JSON.parse(event.data);
    } catch {
      return; // not ours; the next one will be
    }
    onState('live');
    onOverview(overview);
  };
  const listen = () => {
    source?.close();
    source = new EventSource('/api/v1/stream');
    source.addEventListener('message', heard);
    source.addEventListener('overview', heard);
    source.addEventListener('error', broken);
    clearTimeout(watchdog);
    watchdog = setTimeout(broken, SILENCE);
  };
  // A stream says nothing about why it ended: a plain request does, and fills the gap.
  const ask = async () => {
    try {
      const overview = await get('/api/v1/overview');
      if (document.hidden) return;
      if (failures > 1) onState('asking');
      onOverview(overview);
    } catch (problem) {
      if (problem.status === 401) return stop(); // somebody signs in first, and the page begins anew
      onState('lost');
    }
    clearTimeout(poll);
    if (!document.hidden) poll = setTimeout(ask, POLL);
  };

  document.addEventListener('visibilitychange', () => {
    stop();
    wait = FIRST_WAIT;
    if (!document.hidden) listen();
  });
  listen();
}

/** Calls a function now and then again each so many milliseconds after it came back, while the page is looked at. */
export function repeat(milliseconds, action) {
  let timer = 0;
  const round = async () => {
    clearTimeout(timer);
    if (document.hidden || document.body.dataset.role === 'none') return;
    await action();
    clearTimeout(timer);
    timer = setTimeout(round, milliseconds);
  };
  document.addEventListener('visibilitychange', round);
  round();
  return round;
}
