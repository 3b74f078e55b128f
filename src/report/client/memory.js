// Live bytes of the arena over the instructions of a program.

import { bytesText, data, flopText, h, state, svg, table, text, typeChip, watch } from './dom.js';
import { evaluate, fullestRank, localBytes } from './sizes.js';

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [1000, 260, 74, 24, 12];

export function memoryView() {
  const picture = h('div', { class: 'picture' });
  const numbers = h('p', { class: 'numbers' });
  const detail = h('div', { class: 'detail' });
  const slider = h('input', {
    type: 'range',
    min: 0,
    'aria-label': 'instruction',
    input: () => select(Number(slider.value)),
  });
  const tabs = data.memory.map((program) =>
    h('button', { type: 'button', click: () => show(program) }, program.name),
  );
  let [shownProgram, fullest, at] = [data.memory[0], undefined, 0];

  function show(program) {
    shownProgram = program;
    tabs.forEach((tab, i) => tab.setAttribute('aria-pressed', String(data.memory[i] === program)));
    slider.max = String(Math.max(0, program.arena.instructions - 1));
    draw();
    select(fullest.live.indexOf(fullest.peak));
  }

  function draw() {
    fullest = fullestRank(data.strings, shownProgram.arena, state);
    const persistent = shownProgram.persistent.reduce(
      (sum, type) => sum + localBytes(text(type), { ...state, index: fullest.index }),
      0,
    );
    numbers.replaceChildren(
      h('b', { class: 'peak' }, bytesText(fullest.peak)),
      ` live at most on rank ${fullest.index}, the fullest; inputs, parameters and outputs stay: `,
      h('b', {}, bytesText(persistent)),
      `; compute of a group: `,
      h('b', {}, flopText(evaluate(shownProgram.flops, state.lengths))),
    );
    picture.replaceChildren(chart(shownProgram, fullest, select));
  }

  function select(index) {
    at = Math.min(Math.max(0, index), Math.max(0, shownProgram.arena.instructions - 1));
    slider.value = String(at);
    const mark = picture.querySelector('.mark');
    if (mark !== null) mark.setAttribute('transform', `translate(${xOf(shownProgram, at)} 0)`);
    detail.replaceChildren(detailOf(shownProgram, fullest, at));
  }

  if (data.memory.length === 0) return h('p', {}, 'The package has no program.');
  watch(() => (fullest === undefined ? show(shownProgram) : (draw(), select(at))));
  return h(
    'div',
    { class: 'memory' },
    h('p', { class: 'tabs', role: 'group' }, ...tabs),
    numbers,
    picture,
    slider,
    detail,
  );
}

const stepOf = (program) => (WIDTH - LEFT) / Math.max(1, program.arena.instructions);
const xOf = (program, index) => LEFT + (index + 0.5) * stepOf(program);

function chart(program, { live, peak }, select) {
  const step = stepOf(program);
  const top = niceAbove(peak);
  const y = (bytes) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - bytes / top);
  const base = y(0);
  const outline = live
    .map((bytes, i) => `V${y(bytes).toFixed(1)}H${(LEFT + (i + 1) * step).toFixed(1)}`)
    .join('');
  const split = Math.min(program.loss + 1, live.length);
  const image = svg(
    'svg',
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      role: 'img',
      'aria-label': `memory of ${program.name} over its instructions`,
    },
    ...[0, 0.25, 0.5, 0.75, 1].map((part) =>
      svg(
        'g',
        { class: 'grid' },
        svg('line', { x1: LEFT, x2: WIDTH, y1: y(part * top), y2: y(part * top) }),
        svg(
          'text',
          { x: LEFT - 8, y: y(part * top) + 4, 'text-anchor': 'end' },
          bytesText(Math.round(part * top)),
        ),
      ),
    ),
    svg('path', { class: 'area', d: `M${LEFT} ${base}${outline}V${base}Z` }),
    split < live.length
      ? svg(
          'g',
          { class: 'turn' },
          svg('line', { x1: LEFT + split * step, x2: LEFT + split * step, y1: TOP, y2: base }),
          svg('text', { x: LEFT + split * step - 6, y: HEIGHT - 6, 'text-anchor': 'end' }, '← forward'),
          svg('text', { x: LEFT + split * step + 6, y: HEIGHT - 6 }, 'backward →'),
        )
      : svg('g'),
    svg('circle', { class: 'top', cx: xOf(program, live.indexOf(peak)), cy: y(peak), r: 4 }),
    svg('line', { class: 'mark', x1: 0, x2: 0, y1: TOP, y2: base }),
  );
  const pick = (event) => {
    const box = image.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH;
    select(Math.floor((x - LEFT) / step));
  };
  image.addEventListener('pointermove', pick);
  image.addEventListener('click', pick);
  return image;
}

/** The least power of two, or three quarters of one, that is not below. */
function niceAbove(bytes) {
  let top = 64;
  while (top < bytes) top *= 2;
  return top * 0.75 >= bytes ? top * 0.75 : top;
}

const LISTED = 10;

/** What is alive at an instruction, by type, the largest first. */
function detailOf(program, { live, index }, at) {
  const { arena } = program;
  if (arena.instructions === 0) return h('p', {}, 'No instruction.');
  const alive = arena.type.flatMap((type, i) => (arena.first[i] <= at && at <= arena.last[i] ? [i] : []));
  const byType = new Map();
  for (const i of alive) byType.set(arena.type[i], [...(byType.get(arena.type[i]) ?? []), i]);
  const sorted = [...byType]
    .map(([type, same]) => ({ type, same, bytes: same.length * localBytes(text(type), { ...state, index }) }))
    .toSorted((a, b) => b.bytes - a.bytes);
  const rows = sorted
    .slice(0, LISTED)
    .map(({ type, same, bytes }) => [
      typeChip(text(type)),
      String(same.length),
      bytesText(bytes),
      spanOf(same.map((i) => arena.first[i])),
      spanOf(same.map((i) => arena.last[i])),
    ]);
  const rest = sorted.slice(LISTED);
  return h(
    'div',
    {},
    h(
      'p',
      { class: 'at' },
      h('b', {}, `#${at} `),
      text(program.labels[at]),
      ' – ',
      h('b', {}, bytesText(live[at])),
      ` live in ${alive.length} buffers`,
    ),
    table(['alive', 'buffers', 'bytes', 'written by', 'read last by'], rows, [
      'buffers',
      'bytes',
      'written by',
      'read last by',
    ]),
    rest.length === 0
      ? ''
      : h(
          'p',
          { class: 'rest' },
          `and ${bytesText(rest.reduce((sum, { bytes }) => sum + bytes, 0))} of other types`,
        ),
  );
}

/** `#4 … #124`. */
function spanOf(instructions) {
  const least = instructions.reduce((a, b) => Math.min(a, b));
  const most = instructions.reduce((a, b) => Math.max(a, b));
  return least === most ? `#${least}` : `#${least} … #${most}`;
}
