// Elements from values. Text goes in as text nodes only: nothing that a client, a message or a far side wrote can
// become markup. There is no other place in these scripts where elements are made.

/** An element with properties (`class`, `on…` listeners, else attributes) and children (nodes, or what becomes text). */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, '');
    else element.setAttribute(name, String(value));
  }
  fill(element, ...children);
  return element;
}

/** Puts these children in the place of whatever an element has. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(2).filter((child) => child !== undefined && child !== null && child !== false));
}

/** The element with this id, which is part of the page. */
export const byId = (id) => document.getElementById(id);

/** Sets text only where it differs, so that a screen reader is not told the same again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A state in words and colour. */
export const badge = (word, tone = word) => h('span', { class: 'badge', 'data-tone': tone }, word);

/** Says what came of something, for a while; what went wrong stays until it is closed. Gives the notice. */
export function notice(text, tone = 'good') {
  const entry = h('p', { class: 'notice', 'data-tone': tone }, text);
  entry.append(h('button', { type: 'button', 'aria-label': 'Close this notice', onclick: () => entry.remove() }, '×'));
  const notices = byId('notices');
  notices.append(entry);
  while (notices.children.length > 4) notices.firstElementChild.remove();
  if (tone === 'good') setTimeout(() => entry.remove(), 8000);
  return entry;
}
