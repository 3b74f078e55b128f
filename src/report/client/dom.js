// Elements, numbers and the state of the page. Every text from the model goes through `textContent`.

import { documentLengths } from './sizes.js';

export const data = JSON.parse(document.getElementById('data').textContent);
export const text = (index) => data.strings[index] ?? '';

/** What the reader chose, and what follows when it changes. */
export const state = { tokens: 1, degree: 1, lengths: [1] };
const watchers = [];

/** Calls `update` now and whenever the state changes. */
export function watch(update) {
  watchers.push(update);
  update();
}

let version = 0;

/** `compute` with what it found kept until the state changes. */
export function perState(compute) {
  let [known, of] = [new Map(), version];
  return (key) => {
    if (of !== version) [known, of] = [new Map(), version];
    if (!known.has(key)) known.set(key, compute(key));
    return known.get(key);
  };
}

export function choose(tokens, degree) {
  version++;
  state.tokens = tokens;
  state.degree = degree;
  state.lengths = documentLengths(tokens, data.model.maxDocument?.tokens);
  for (const update of watchers) update();
}

// oxlint-disable-next-line no-control-regex
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

/** Characters that cannot be seen, or turn text around, are spelled out. */
export const shown = (name) =>
  name.replace(HIDDEN, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);

const SVG = 'http://www.w3.org/2000/svg';

/** An element; attributes that are functions are listeners, children are elements or texts. */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value !== undefined && value !== false) element.setAttribute(name, String(value));
  }
  for (const child of children.flat())
    element.append(typeof child === 'string' ? document.createTextNode(shown(child)) : child);
  return element;
}

/** An element whose text follows the state. */
export function live(tag, attributes, content) {
  const element = h(tag, attributes);
  watch(() => (element.textContent = content()));
  return element;
}

/** `1.5 MiB`. */
export function bytesText(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

/** `1,234`, `1.24 M`. */
export function countText(count) {
  if (Math.abs(count) < 10_000) return Math.round(count).toLocaleString('en-US');
  const units = ['', ' k', ' M', ' G', ' T', ' P', ' E'];
  let [value, unit] = [count, 0];
  while (Math.abs(value) >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${value.toFixed(value < 10 ? 2 : 1)}${units[unit]}`;
}

/** `1.24 GFLOP`. */
export const flopText = (flops) => {
  const count = countText(flops);
  return `${count}${count.includes(' ') ? '' : ' '}FLOP`;
};

/** A type, its split dims and pending sum set off by colour. */
export function typeChip(type) {
  const match = /^(\w+\[)(.*)(\])(\{U:\w+\})?$/.exec(type);
  if (match === null) return h('code', { class: 'type' }, type);
  const [, head, inner, tail, pending] = match;
  const dims = inner === '' ? [] : inner.split(', ');
  const parts = dims.flatMap((dim, i) => [i === 0 ? '' : ', ', dimChip(dim)]);
  return h(
    'code',
    { class: 'type' },
    head,
    parts,
    tail,
    pending === undefined ? [] : [h('span', { class: 'pending', title: PENDING }, pending)],
  );
}

const PENDING = 'a sum still pending: the value is the sum of what the ranks hold';

function dimChip(dim) {
  if (!dim.includes('@')) return dim;
  if (dim.includes('@world'))
    return h('span', { class: 'split world', title: 'split over all ranks of the world' }, dim);
  return /[A-Z]/.test(dim.split('@')[0])
    ? h('span', { class: 'split tokens', title: 'tokens split over the ranks of a group' }, dim)
    : h('span', { class: 'split heads', title: 'heads split over the ranks of a group' }, dim);
}

/** Rows under a head; cells are texts or elements. Columns named in `right` are numbers. */
export function table(head, rows, right = []) {
  const aligned = (i) => (right.includes(head[i]) ? { class: 'number' } : {});
  return h(
    'table',
    {},
    h('thead', {}, h('tr', {}, ...head.map((name, i) => h('th', { scope: 'col', ...aligned(i) }, name)))),
    h('tbody', {}, ...rows.map((row) => h('tr', {}, ...row.map((cell, i) => h('td', aligned(i), cell))))),
  );
}

export const plural = (count, word, many = `${word}s`) =>
  `${count.toLocaleString('en-US')} ${count === 1 ? word : many}`;
