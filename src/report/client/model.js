// The layers: a row each, filled in when it is opened.

import {
  countText,
  bytesText,
  data,
  flopText,
  h,
  live,
  plural,
  state,
  text,
  typeChip,
  watch,
} from './dom.js';
import { evaluate, sentBytes } from './sizes.js';

const nodesOf = (section) => [...section.forward, ...section.backward];
const sum = (numbers) => numbers.reduce((total, n) => total + n, 0);

const flopsAt = perState((index) => evaluate(text(index), state.lengths));
const flopsOf = (nodes) => sum(nodes.map((node) => (node.flops === undefined ? 0 : flopsAt(node.flops))));
const sectionFlops = perState((section) => flopsOf(nodesOf(section)));

/** Bytes that a collective sends, in the whole group. */
const sentBy = perState((node) =>
  sentBytes(
    text(node.op),
    node.from.map((type, i) => [text(type), text(node.t[i])]),
    state,
  ),
);
const sectionSent = perState((section) =>
  sum(nodesOf(section).map((node) => (node.why === undefined ? 0 : sentBy(node)))),
);

const largestFlops = perState(() => Math.max(...data.sections.map(sectionFlops)));

export const totalFlops = () => sum(data.sections.map(sectionFlops));
export const totalSent = () => sum(data.sections.map(sectionSent));

export function modelView() {
  const rows = data.sections.map(sectionView);
  const all = (open) => () => {
    for (const row of rows) row.open = open;
  };
  return h(
    'div',
    { class: 'layers' },
    h(
      'p',
      { class: 'legend' },
      'Colours: ',
      h('span', { class: 'split tokens' }, 'S@sp'),
      ' tokens split over the ranks of a group, ',
      h('span', { class: 'split heads' }, '8@sp'),
      ' heads split, ',
      h('span', { class: 'split world' }, '64@world'),
      ' split over all ranks, ',
      h('span', { class: 'pending' }, '{U:sp}'),
      ' a sum still pending.',
      h(
        'span',
        { class: 'buttons' },
        h('button', { type: 'button', click: all(true) }, 'open all'),
        h('button', { type: 'button', click: all(false) }, 'close all'),
      ),
    ),
    h(
      'div',
      { class: 'row head', 'aria-hidden': 'true' },
      ...['', 'part', 'parameters', 'ops', 'exchanged', 'compute'].map((name) => h('span', {}, name)),
    ),
    ...rows,
  );
}

function sectionView(section, at) {
  const nodes = nodesOf(section);
  const twin = data.sections.findIndex((other) => other.shape === section.shape);
  const bar = h('i', {});
  const share = () => sectionFlops(section) / (largestFlops() || 1);
  watch(() => bar.style.setProperty('width', `${(100 * share()).toFixed(2)}%`));
  const details = h(
    'details',
    { class: `section ${section.kind}`, id: `section-${at}` },
    h(
      'summary',
      { class: 'row' },
      h('span', { class: 'chevron', 'aria-hidden': 'true' }),
      h(
        'span',
        { class: 'name' },
        h('b', {}, section.title),
        section.scope === '' ? [] : [h('code', {}, section.scope)],
        twin === at
          ? []
          : [h('em', { title: 'the same ops, types and attributes' }, `≡ ${data.sections[twin].title}`)],
      ),
      h('span', { class: 'number' }, countText(section.elements)),
      h('span', { class: 'number' }, String(nodes.length)),
      live('span', { class: 'number sent' }, () =>
        sectionSent(section) === 0 ? '–' : bytesText(sectionSent(section)),
      ),
      h(
        'span',
        { class: 'compute' },
        h('span', { class: 'bar' }, bar),
        live('span', { class: 'number flops' }, () => flopText(sectionFlops(section))),
      ),
    ),
  );
  let filled = false;
  details.addEventListener('toggle', () => {
    if (!details.open || filled) return;
    filled = true;
    details.append(
      phaseView('forward', section.forward),
      ...(section.backward.length === 0 ? [] : [phaseView('backward', section.backward)]),
    );
  });
  return details;
}

function phaseView(name, nodes) {
  return h(
    'div',
    { class: `phase ${name}` },
    h('h4', {}, name, h('small', {}, plural(nodes.length, 'op'))),
    ...groupsOf(nodes).map(groupView),
  );
}

/** Neighbours that run in one instruction; constants stand with what precedes them. */
function groupsOf(nodes) {
  const groups = [];
  for (const node of nodes) {
    const last = groups.at(-1);
    const joins = last !== undefined && (node.i === -1 || last.i === -1 || last.i === node.i);
    if (!joins) groups.push({ i: node.i, nodes: [node] });
    else {
      last.nodes.push(node);
      if (last.i === -1) last.i = node.i;
    }
  }
  return groups;
}

const segmentAt = (instruction) =>
  data.segments.find((s) => s.program === data.program && s.calls.includes(instruction));

function groupView({ i, nodes }) {
  if (nodes[0].why !== undefined) return collectiveView(nodes[0]);
  const segment = segmentAt(i);
  return h(
    'div',
    { class: 'group' },
    h(
      'p',
      { class: 'instruction' },
      h('b', {}, i < 0 ? 'no instruction' : `#${i}`),
      segment === undefined
        ? []
        : [
            ` ${segment.kind} `,
            h('code', { title: segment.file }, segment.file.replace(/^.*\//, '').slice(0, 12)),
            segment.calls.length > 1
              ? h(
                  'em',
                  { title: segment.calls.map((n) => `#${n}`).join(' ') },
                  `shared by ${segment.calls.length} instructions`,
                )
              : '',
          ],
    ),
    opTable(nodes),
  );
}

/** Numbers of float32 written in full say no more than seven digits do. */
const rounded = (attrs) =>
  attrs.replace(/-?\d+\.\d{8,}(?:e-?\d+)?/g, (n) => String(Number(Number(n).toPrecision(7))));

function opTable(nodes) {
  return h('table', { class: 'ops' }, h('tbody', {}, ...nodes.flatMap(opRows)));
}

function opRows(node) {
  const operands = node.a.map((name) => name.replace(/^%"(.*)"$/, '$1').replace(/^%(?!\d)/, ''));
  const row = h(
    'tr',
    {},
    h('td', { class: 'value' }, node.n),
    h(
      'td',
      { class: 'op' },
      h('b', {}, text(node.op)),
      node.again === true ? [h('em', { title: 'computed again rather than kept' }, ' again')] : [],
    ),
    h('td', { class: 'types' }, ...node.t.map((type) => typeChip(text(type)))),
    h(
      'td',
      { class: 'operands' },
      operands.join(', '),
      node.attrs === undefined ? [] : [h('span', { class: 'attrs' }, ` ${rounded(text(node.attrs))}`)],
    ),
    node.flops === undefined
      ? h('td', { class: 'number' })
      : live('td', { class: 'number', title: text(node.flops) }, () => flopText(flopsOf([node]))),
    h('td', { class: 'loc' }, text(node.loc)),
  );
  if (node.body === undefined) return [row];
  const body = h(
    'tr',
    { class: 'body' },
    h('td', { colspan: 6 }, h('p', {}, 'each tile:'), opTable(node.body)),
  );
  return [row, body];
}

function collectiveView(node) {
  return h(
    'div',
    { class: 'collective' },
    h(
      'p',
      {},
      h('b', {}, `#${node.i} ${text(node.op)}`),
      live('span', { class: 'number sent' }, () => bytesText(sentBy(node))),
      h('code', { class: 'loc' }, text(node.loc)),
    ),
    h('p', { class: 'why' }, text(node.why)),
    ...node.from.map((from, k) =>
      h(
        'p',
        { class: 'moved' },
        h('span', {}, node.a[k] ?? ''),
        typeChip(text(from)),
        ' → ',
        typeChip(text(node.t[k])),
      ),
    ),
  );
}
