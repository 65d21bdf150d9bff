// Four charts over time, drawn by uPlot (a classic script that has made `uPlot` global before any module runs).
// Colours come from the style sheet, each line has its own dash as well, and each chart says its last values in words.
import { get } from './api.js';
import { byId, h, setText } from './dom.js';
import { count, latency, rate } from './format.js';
import { repeat } from './live.js';

const HEIGHT = 150; // CSS pixels
const REFRESH = 20_000; // milliseconds
const DASHES = [[], [6, 4], [2, 3]];
const perSecond = (n) => `${rate(n)}/s`;

const CHARTS = [
  ['Mail a second', perSecond, [['accepted', 'Accepted'], ['delivered', 'Delivered'], ['replayed', 'Replayed']]],
  ['Trouble a second', perSecond, [['refused', 'Refused'], ['deferred', 'Deferred'], ['failed', 'Failed']]],
  ['Messages in the queue', count, [['queued', 'Queued'], ['held', 'Held']]],
  ['Latency, 99th percentile', latency, [['accept_p99', 'Accept'], ['deliver_p99', 'Deliver']]],
];

let series = null;
let charts = [];

/** Builds the charts and keeps them fresh. */
export function begin() {
  charts = CHARTS.map(build);
  const again = repeat(REFRESH, load);
  byId('range').addEventListener('change', again);
  addEventListener('themechange', () => requestAnimationFrame(recolour));
}

const range = () => byId('range').querySelector(':checked').value;

async function load() {
  try {
    const fetched = await get('/api/v1/series', { range: range() });
    series = fetched;
    setText(byId('charts-trouble'), '');
    draw();
  } catch (problem) {
    setText(byId('charts-trouble'), problem.message);
  }
}

/** Adds what an overview says, so that the last hour moves between two fetches. */
export function append(overview, per) {
  if (!series || series.at.length === 0) return;
  const at = Math.floor(Date.parse(overview.at) / 1000);
  if (at < series.at.at(-1) + series.step_seconds) return;
  const point = {
    at, queued: overview.queued, held: overview.held,
    accept_p99: overview.accept_p99_seconds, deliver_p99: overview.deliver_p99_seconds,
  };
  for (const name of ['accepted', 'replayed', 'refused', 'delivered', 'deferred', 'failed']) point[name] = per(name);
  for (const [name, value] of Object.entries(point)) {
    series[name].push(value);
    if (series[name].length > 1000) series[name].shift();
  }
  draw();
}

function draw() {
  for (const { plot, lines, describe } of charts) {
    plot.setData([series.at, ...lines.map(([name]) => series[name])]);
    describe(null);
  }
}

function build([title, format, lines]) {
  const legend = lines.map(([name, label], line) => {
    const value = h('span', { class: 'number' });
    const swatch = h('span', { class: `swatch line-${line}`, 'data-line': name });
    return { name, swatch, value, entry: h('span', {}, swatch, `${label} `, value) };
  });
  const summary = h('p', { class: 'visually-hidden' });
  const frame = h('div', { class: 'plot', 'aria-hidden': 'true' });
  const when = h('span', { class: 'when quiet' });
  byId('charts').append(h('figure', { class: 'chart panel' },
    h('figcaption', {}, h('strong', {}, title), when, h('span', { class: 'legend' }, legend.map(({ entry }) => entry))), summary, frame));

  const describe = (index) => {
    const at = index ?? (series ? series.at.length - 1 : -1);
    for (const { name, value } of legend) setText(value, at >= 0 ? format(series[name][at]) : '–');
    setText(when, index === null || at < 0 ? '' : new Date(series.at[at] * 1000).toLocaleTimeString('en-GB'));
    if (index === null && at >= 0) {
      const said = lines.map(([name, label]) => `${label} ${format(series[name][at])}, at most ${format(Math.max(...series[name]))}`);
      setText(summary, `${title}, ${range() === '1h' ? 'last hour' : 'last day'}: ${said.join('; ')}.`);
    }
  };
  const plot = new window.uPlot(options(legend, format, frame, describe), [[], ...lines.map(() => [])], frame);
  // Taken from the frame at the next turn, lest drawing changes what is being measured.
  new ResizeObserver(() => requestAnimationFrame(() => plot.setSize({ width: frame.clientWidth, height: HEIGHT }))).observe(frame);
  return { plot, lines, describe };
}

/** The colour that the style sheet gives to an element. */
const colour = (element, property = 'backgroundColor') => getComputedStyle(element)[property];

function options(legend, format, frame, describe) {
  const axis = {
    stroke: () => colour(frame, 'color'),
    font: '11px system-ui, sans-serif',
    grid: { stroke: () => colour(frame, 'borderTopColor'), width: 1 },
    ticks: { show: false },
  };
  return {
    width: Math.max(frame.clientWidth, 200),
    height: HEIGHT,
    legend: { show: false },
    cursor: { sync: { key: 'time' }, drag: { x: false, y: false }, points: { size: 7 } },
    scales: { y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
    axes: [
      { ...axis, size: 26, space: 70, values: (_, ticks, __, ___, step) => ticks.map((tick) => clock(tick, step)) },
      { ...axis, size: 58, space: 30, values: (_, ticks) => ticks.map((tick) => (tick === 0 ? '0' : format(tick))) },
    ],
    series: [{}, ...legend.map(({ swatch }, line) => ({
      stroke: () => colour(swatch), width: 1.6, dash: DASHES[line], points: { show: false },
    }))],
    hooks: { setCursor: [(plot) => describe(plot.cursor.idx ?? null)] },
  };
}

/** As exact as the distance between two ticks, seconds. */
const clock = (seconds, step) => new Date(seconds * 1000).toLocaleTimeString('en-GB', { hour: '2-digit', minute: '2-digit', second: step < 60 ? '2-digit' : undefined });

function recolour() {
  for (const { plot } of charts) plot.redraw(false, true);
}
