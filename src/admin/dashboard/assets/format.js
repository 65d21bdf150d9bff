// Numbers, durations and times as people read them.
import { h } from './dom.js';

const whole = new Intl.NumberFormat('en-GB', { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat('en-GB', { maximumFractionDigits: 1 });
const short = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit', second: '2-digit' });
const UNITS = [['d', 86400], ['h', 3600], ['min', 60], ['s', 1]];

export const count = (n) => whole.format(n);

/** `1 message`, `2 messages`. */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** Something a second or a minute: exact enough where it is small. */
export const rate = (n) => (n < 100 ? tenths.format(n) : whole.format(n));

/** Two units at most: `3 d 4 h`, `12 min`, `5 s`. */
export function duration(seconds) {
  let rest = Math.max(0, Math.round(seconds));
  const first = UNITS.findIndex(([, size]) => rest >= size);
  if (first < 0) return '0 s';
  return UNITS.slice(first, first + 2).map(([unit, size]) => {
    const n = Math.floor(rest / size);
    rest -= n * size;
    return n ? `${n} ${unit}` : '';
  }).filter(Boolean).join(' ');
}

/** A latency: `850 µs`, `12 ms`, `1.4 s`. */
export function latency(seconds) {
  if (seconds >= 60) return duration(seconds);
  if (seconds >= 1) return `${tenths.format(seconds)} s`;
  if (seconds >= 0.001) return `${seconds < 0.01 ? tenths.format(seconds * 1e3) : whole.format(seconds * 1e3)} ms`;
  return seconds > 0 ? `${whole.format(seconds * 1e6)} µs` : '–';
}

/** Octets in decimal units. */
export function size(octets) {
  if (octets < 1000) return `${octets} B`;
  if (octets < 1e6) return `${tenths.format(octets / 1e3)} kB`;
  return `${tenths.format(octets / 1e6)} MB`;
}

/** A point in time in the reader's zone, with the exact one in UTC beside it. */
export function time(text) {
  const at = new Date(text);
  return h('time', { datetime: text, title: text }, Number.isNaN(at.getTime()) ? text : short.format(at));
}

/** `in 5 min`, `5 min ago`. */
export function relative(text, now = Date.now()) {
  const seconds = (new Date(text).getTime() - now) / 1000;
  if (Number.isNaN(seconds)) return text;
  return seconds >= 0 ? `in ${duration(seconds)}` : `${duration(-seconds)} ago`;
}

/** A reverse-path as it is shown. */
export const sender = (path) => (path === '' ? '<>' : path);
