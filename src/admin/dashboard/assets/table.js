// A table that is brought up to date in place: a row stays the same element as long as its thing is there, and a cell
// is made anew only when what it shows has changed, so that focus and selection survive each refresh.
import { fill, h } from './dom.js';

/**
 * Columns are `{ label, class, shows(item), cell(item) }`: `shows` gives a value that changes whenever the cell must,
 * `cell` its content (by default the same as text). Gives `update(items)`.
 */
export function table(place, { caption, columns, keyOf, empty }) {
  // Roles are said, because the style sheet makes cards of rows on a phone, which takes them away.
  const body = h('tbody', { role: 'rowgroup' });
  const whole = h('table', { role: 'table' },
    h('caption', { class: 'visually-hidden' }, caption),
    h('thead', { role: 'rowgroup' }, h('tr', { role: 'row' }, columns.map((column) => h('th', { scope: 'col', role: 'columnheader', class: column.class }, column.label)))),
    body);
  const nothing = h('p', { class: 'quiet empty' }, empty);
  fill(place, whole, nothing);
  let rows = new Map();

  return (items) => {
    const next = new Map();
    for (const item of items) {
      const key = keyOf(item);
      const row = rows.get(key) ?? make(columns);
      next.set(key, row);
      columns.forEach((column, index) => refresh(column, row, index, item));
    }
    for (const [key, { element }] of rows) if (!next.has(key)) element.remove();
    // Moves only what stands elsewhere: a moved element would lose the focus.
    let at = body.firstElementChild;
    for (const { element } of next.values()) {
      if (element === at) at = at.nextElementSibling;
      else body.insertBefore(element, at);
    }
    rows = next;
    whole.hidden = next.size === 0;
    nothing.hidden = next.size !== 0;
  };
}

function make(columns) {
  const cells = columns.map((column) => h('td', { role: 'cell', class: column.class, 'data-label': column.label }));
  return { element: h('tr', { role: 'row' }, cells), cells, shown: columns.map(() => undefined) };
}

function refresh(column, row, index, item) {
  const shows = JSON.stringify(column.shows(item) ?? '');
  if (row.shown[index] === shows) return;
  row.shown[index] = shows;
  const cell = column.cell ? column.cell(item) : String(column.shows(item) ?? '');
  fill(row.cells[index], cell);
  row.cells[index].classList.toggle('none', row.cells[index].textContent === '–');
}
