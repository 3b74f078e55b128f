// The page of a plan: facts, legend, picture, the group that was chosen, and every group in a table.

import { bytesText, countText, data, h, plural, shown, svg, table } from './dom.js';
import {
  colorOf,
  degrees,
  groups,
  msText,
  percent,
  ranksText,
  showAll,
  spans,
  view,
  zoom,
} from './plan-view.js';
import { createPicture } from './plan-picture.js';

/** Sequences of a group that are listed. */
const MOST_LENGTHS = 2000;
const MOST_ROWS = 4096;

const page = document.getElementById('page');
const canvas = h('canvas', {
  id: 'picture',
  tabindex: 0,
  role: 'img',
  'aria-label': `${plural(groups.length, 'group')} in ${plural(spans.length, 'micro-batch', 'micro-batches')} on ${plural(data.ranks, 'rank')} over ${msText(data.stepMs)}. Arrow keys step through the groups; the tables below hold the same.`,
});
const tip = h('div', { class: 'tip', hidden: true });
const stage = h('div', { class: 'stage' }, canvas, tip);
const chosen = h('section', { class: 'chosen', id: 'chosen', 'aria-live': 'polite' });

page.append(
  facts(),
  h('h2', {}, 'Ranks over time'),
  legend(),
  stage,
  chosen,
  against(),
  h('h2', {}, 'Groups'),
  ...data.microBatches.map((_, m) => microBatch(m)),
);

const picture = createPicture(canvas, { point, choose: show });
show(undefined);

function facts() {
  const gap = data.boundMs > 0 ? data.stepMs / data.boundMs - 1 : 0;
  const entries = [
    ['step', msText(data.stepMs), 'predicted', 'step'],
    ['bound', msText(data.boundMs), 'no legal plan takes less', 'bound'],
    ['gap', percent(gap), 'at most this much longer than the best', 'gap'],
    ['idle', percent(data.idle), 'of the time groups have', 'idle'],
    ['groups', countText(groups.length), plural(spans.length, 'micro-batch', 'micro-batches'), 'groups'],
    ['sequences', countText(data.sequences), `${countText(data.tokens)} tokens`, 'sequences'],
    ['solved in', msText(data.solveMs), `by ${data.solver}`, 'solved'],
  ];
  return h(
    'dl',
    { class: 'facts' },
    ...entries.map(([name, value, note, id]) =>
      h('div', {}, h('dt', {}, name), h('dd', { id }, value, h('small', {}, note))),
    ),
  );
}

/** Sample of a colour or a pattern; colours are attributes because the page allows no styles of its own. */
function swatch(...shapes) {
  return svg('svg', { class: 'swatch', viewBox: '0 0 16 12', 'aria-hidden': 'true' }, ...shapes);
}

function legend() {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const keys = degrees.map((degree) => {
    const rect = svg('rect', { width: 16, height: 12 });
    const paint = () => rect.setAttribute('fill', colorOf(degree, dark.matches));
    dark.addEventListener('change', paint);
    paint();
    const many = groups.filter((group) => group.degree === degree).length;
    return h(
      'span',
      { class: 'key degree' },
      swatch(rect),
      `degree ${degree}`,
      h('em', {}, `× ${many.toLocaleString('en-US')}`),
    );
  });
  const hatch = svg('path', {
    d: 'M0 6 6 0M0 12 12 0M4 12 16 0M10 12 16 6',
    stroke: 'currentColor',
    fill: 'none',
  });
  const line = svg('path', {
    d: 'M8 0V12',
    stroke: 'currentColor',
    'stroke-width': 2,
    'stroke-dasharray': '4 2',
  });
  const button = (label, title, act) =>
    h('button', { type: 'button', title, 'aria-label': title, click: () => (act(), picture.draw()) }, label);
  const middle = () => [(view.left + view.right) / 2, (view.top + view.bottom) / 2];
  return h(
    'div',
    { class: 'bar-of', id: 'legend' },
    ...keys,
    h('span', { class: 'key' }, swatch(hatch), 'idle'),
    h(
      'span',
      { class: 'key' },
      swatch(svg('rect', { width: 16, height: 12, fill: 'currentColor', opacity: 0.25 })),
      'fixed cost',
    ),
    h('span', { class: 'key no' }, swatch(line), 'bound'),
    h(
      'span',
      { class: 'buttons' },
      button('+', 'Zoom in', () => zoom(0.6, ...middle())),
      button('−', 'Zoom out', () => zoom(1 / 0.6, ...middle())),
      button('all', 'Show the whole plan', showAll),
    ),
  );
}

/** What the pointer is over. */
function point(group, left, top) {
  tip.hidden = group === undefined;
  if (group === undefined) return;
  tip.replaceChildren(
    h('b', {}, `degree ${group.degree}, ${ranksText(group)}`),
    `${plural(group.lengths.length, 'sequence')}, ${countText(group.tokens)} tokens, ${msText(group.ms)}`,
  );
  tip.style.left = `${Math.min(left + 14, stage.clientWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(top + 14, stage.clientHeight - tip.offsetHeight - 8)}px`;
}

/** Everything about the group that was chosen. */
function show(group) {
  for (const row of document.querySelectorAll('tr.picked')) row.classList.remove('picked');
  if (group === undefined) {
    chosen.replaceChildren(
      h(
        'p',
        {},
        'Choose a group: click it, or step through them with the arrow keys. Drag to move, Ctrl and the wheel to zoom.',
      ),
    );
    return;
  }
  document.getElementById(`group-${group.number}`)?.classList.add('picked');
  const rest = group.lengths.length - MOST_LENGTHS;
  const entries = [
    ['sequences', plural(group.lengths.length, 'sequence')],
    ['tokens', group.tokens.toLocaleString('en-US')],
    ['time', msText(group.ms)],
    ['only exchanging', percent(group.ms > 0 ? group.exchangeMs / group.ms : 0)],
    ['memory of the fullest rank', `${bytesText(group.bytes)}, ${percent(group.memory)}`],
    ['waits', msText(Math.max(0, spans[group.m].to - group.from - group.ms))],
  ];
  chosen.replaceChildren(
    h('h3', {}, `Micro-batch ${group.m}, ${ranksText(group)}: degree ${group.degree}`),
    h('dl', {}, ...entries.map(([name, value]) => h('div', {}, h('dt', {}, name), h('dd', {}, value)))),
    h(
      'p',
      { class: 'lengths' },
      group.lengths
        .slice(0, MOST_LENGTHS)
        .map((n) => n.toLocaleString('en-US'))
        .join(' · ') + (rest > 0 ? ` · and ${rest.toLocaleString('en-US')} more` : ''),
    ),
  );
}

function against() {
  const rows = data.others.map(({ solver, degree, stepMs }) => [
    shown(solver),
    String(degree),
    msText(stepMs),
    `${(data.stepMs > 0 ? stepMs / data.stepMs : 1).toFixed(3)} ×`,
  ]);
  const head = ['one degree', 'degree', 'step', 'this plan'];
  return h('div', { id: 'against' }, h('h2', {}, 'Against'), table(head, rows, head.slice(1)));
}

/** A micro-batch that fills its table when it is opened. */
function microBatch(m) {
  const mine = groups.filter((group) => group.m === m);
  const { from, to } = spans[m];
  const counts = degrees
    .toReversed()
    .map((degree) => [mine.filter((group) => group.degree === degree).length, degree])
    .filter(([many]) => many > 0)
    .map(([many, degree]) => `${many}×${degree}`);
  const element = h(
    'details',
    { class: 'micro', id: `micro-${m}`, toggle: fill },
    h('summary', {}, `Micro-batch ${m}: ${counts.join(' + ')}`, h('em', {}, msText(to - from))),
  );
  function fill() {
    if (!element.open || element.childElementCount > 1) return;
    const head = ['ranks', 'degree', 'sequences', 'tokens', 'time', 'memory', 'only exchanging'];
    const listed = mine.slice(0, MOST_ROWS);
    const rows = listed.map((group) => [
      h('button', { type: 'button', click: () => pick(group) }, ranksText(group)),
      String(group.degree),
      group.lengths.length.toLocaleString('en-US'),
      group.tokens.toLocaleString('en-US'),
      msText(group.ms),
      percent(group.memory),
      percent(group.ms > 0 ? group.exchangeMs / group.ms : 0),
    ]);
    const body = table(head, rows, head.slice(1));
    body.querySelectorAll('tbody tr').forEach((row, i) => {
      row.id = `group-${listed[i].number}`;
    });
    element.append(h('div', { class: 'scroll' }, body));
  }
  return element;
}

function pick(group) {
  picture.choose(group);
  stage.scrollIntoView({ block: 'nearest' });
}
