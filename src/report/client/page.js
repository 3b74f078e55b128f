// The page: header, controls, and its parts one under the other.

import { bytesText, choose, countText, data, flopText, h, live, plural, state, table, watch } from './dom.js';
import { memoryView } from './memory.js';
import { modelView, totalFlops, totalSent } from './model.js';
import { fullestRank } from './sizes.js';

const MAX_TOKENS = 2 ** 24;
const SHOWN_PARAMETERS = 60;
const { model } = data;

const part = (id, title, ...content) => h('section', { id }, h('h2', {}, title), ...content);

function header() {
  const trained = model.parameters.filter((p) => p.trained);
  const elements = (list) => list.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const facts = [
    [
      'parameters',
      countText(elements(model.parameters)),
      `${plural(model.parameters.length, 'tensor')}, ${countText(elements(trained))} trained`,
    ],
    ['vocabulary', countText(model.vocabulary), ''],
    ['loss', model.loss.kind, model.loss.detail],
    ['degrees', `1–${model.maxDegree}`, 'ranks a sequence'],
    [
      'documents',
      model.maxDocument === undefined ? 'any length' : `≤ ${countText(model.maxDocument.tokens)}`,
      model.maxDocument?.reason ?? '',
    ],
  ];
  return h(
    'header',
    {},
    h('h1', {}, model.name),
    h(
      'p',
      { class: 'source' },
      `${model.source.file}, ${bytesText(model.source.bytes)}, sha256 `,
      h('code', {}, model.source.sha256.slice(0, 12)),
      ` – ithaca ${model.ithaca}`,
    ),
    h(
      'dl',
      { class: 'facts' },
      ...facts.map(([name, value, more]) =>
        h('div', {}, h('dt', {}, name), h('dd', {}, value, h('small', {}, more))),
      ),
    ),
  );
}

function controls() {
  const degrees = Math.min(Math.max(1, model.maxDegree), 1024);
  const start = Math.min(4096, model.maxDocument?.tokens ?? 4096);
  const tokens = h('input', { type: 'number', id: 'tokens', min: 1, max: MAX_TOKENS, value: start });
  const degree = h('input', {
    type: 'number',
    id: 'degree',
    min: 1,
    max: degrees,
    value: Math.min(2, degrees),
  });
  const tokensRange = h('input', {
    type: 'range',
    id: 'tokens-range',
    min: 0,
    max: 20,
    step: 0.25,
    'aria-label': 'tokens',
  });
  const degreeRange = h('input', {
    type: 'range',
    id: 'degree-range',
    min: 1,
    max: degrees,
    'aria-label': 'ranks',
  });
  const read = (input, most) => {
    const value = Math.round(Number(input.value));
    return Number.isFinite(value) ? Math.min(Math.max(1, value), most) : 1;
  };
  const changed = () => {
    const [s, p] = [read(tokens, MAX_TOKENS), read(degree, degrees)];
    tokensRange.value = String(Math.log2(s));
    degreeRange.value = String(p);
    choose(s, p);
  };
  tokens.addEventListener('input', changed);
  degree.addEventListener('input', changed);
  tokensRange.addEventListener('input', () => {
    tokens.value = String(Math.round(2 ** Number(tokensRange.value)));
    changed();
  });
  degreeRange.addEventListener('input', () => {
    degree.value = degreeRange.value;
    changed();
  });
  changed();
  const arena = data.memory.find((program) => program.name === data.program)?.arena;
  const result = (name, content) =>
    h('div', { class: 'result' }, h('span', {}, name), live('b', { id: name.replace(/\s+/g, '-') }, content));
  return h(
    'form',
    { class: 'controls', submit: (event) => event.preventDefault() },
    h('label', {}, h('span', {}, 'S, tokens of a group'), tokens, tokensRange),
    h('label', {}, h('span', {}, 'P, ranks of a group'), degree, degreeRange),
    result('compute', () => flopText(totalFlops())),
    result('exchanged', () => bytesText(totalSent())),
    result('live memory', () =>
      arena === undefined ? '–' : bytesText(fullestRank(data.strings, arena, state).peak),
    ),
    live('small', { class: 'row-of' }, () => {
      const [most] = state.lengths;
      const row =
        state.lengths.length === 1
          ? 'one document'
          : `${state.lengths.length} documents of up to ${most} tokens`;
      return `The row is ${row}. Compute and exchanges are of the whole group and one micro-batch of ${data.program}; memory is the fullest rank’s.`;
    }),
  );
}

/** Remarks that differ in numbers only (one a layer) are one, with how often. */
function foldNotes(notes) {
  const groups = new Map();
  for (const note of notes) {
    const key = note.replace(/(?:_?\d+)+/g, '');
    groups.set(key, [...(groups.get(key) ?? []), note]);
  }
  return [...groups.values()];
}

const isNear = (note) => /near miss|not recogni[sz]ed|no influence|left as/i.test(note);

function recognized() {
  const notes = foldNotes(model.notes).toSorted((a, b) => Number(isNear(b[0])) - Number(isNear(a[0])));
  return part(
    'recognised',
    'What was recognised',
    h(
      'p',
      { class: 'chips' },
      ...(model.recognized.length === 0
        ? ['nothing']
        : model.recognized.map(([kind, n]) => h('span', { class: 'chip' }, kind, h('b', {}, `× ${n}`)))),
    ),
    h(
      'ul',
      { class: 'notes' },
      ...notes.map((same) =>
        h(
          'li',
          { class: isNear(same[0]) ? 'near' : '' },
          same.length === 1
            ? same[0]
            : h(
                'details',
                {},
                h('summary', {}, `${same[0]} (× ${same.length})`),
                h('ul', {}, ...same.slice(1).map((note) => h('li', {}, note))),
              ),
        ),
      ),
    ),
    h('p', { class: 'passes' }, 'Passes: ', h('code', {}, model.passes.join(' → '))),
  );
}

function segments() {
  const rows = data.segments.map((s) => [
    h('code', { title: s.file }, s.file.replace(/^.*\//, '').slice(0, 16)),
    s.program,
    s.kind,
    String(s.calls.length),
    s.calls
      .slice(0, 12)
      .map((i) => `#${i}`)
      .join(' ') + (s.calls.length > 12 ? ' …' : ''),
  ]);
  return part(
    'segments',
    'Segments',
    h(
      'p',
      { class: 'hint' },
      'Compute between exchanges, one ONNX model for each distinct stretch: layers that are alike share one.',
    ),
    h(
      'div',
      { class: 'scroll' },
      table(['file', 'program', 'kind', 'calls', 'instructions'], rows, ['calls']),
    ),
  );
}

function parameters() {
  const filter = h('input', {
    type: 'search',
    placeholder: 'filter by name',
    'aria-label': 'filter parameters',
  });
  const place = h('div', { class: 'scroll' });
  let limit = SHOWN_PARAMETERS;
  const draw = () => {
    const wanted = filter.value.toLowerCase();
    const found = model.parameters.filter((p) => `${p.name}\n${p.torch}`.toLowerCase().includes(wanted));
    const rows = found
      .slice(0, limit)
      .map((p) => [
        h('code', {}, p.name),
        h('code', {}, p.torch, p.transposed ? h('span', { title: 'transposed' }, ' ᵀ') : ''),
        `[${p.shape.join(', ')}]`,
        h('span', { class: p.trained ? 'yes' : 'no' }, p.trained ? 'yes' : 'no'),
        p.tied === '' ? p.reason : `${p.reason}; tied to ${p.tied}`,
        p.weight,
      ]);
    const more = found.length - rows.length;
    place.replaceChildren(
      table(['name', 'torch name', 'shape', 'trained', 'why', 'weight'], rows),
      more <= 0
        ? ''
        : h(
            'p',
            {},
            h('button', { type: 'button', click: () => ((limit = Infinity), draw()) }, `show ${more} more`),
          ),
    );
  };
  filter.addEventListener('input', draw);
  draw();
  return part('parameters', 'Parameters', h('p', {}, filter), place);
}

const bar = controls();
document
  .getElementById('page')
  .replaceChildren(
    header(),
    bar,
    recognized(),
    part('model', `The model, as ${data.program} runs it`, modelView()),
    part(
      'memory',
      'Memory over the instructions',
      memoryView(),
      h(
        'p',
        { class: 'hint' },
        'Between instructions, from the lifetimes of buffers. What an instruction needs inside comes on top: see ithaca inspect.',
      ),
    ),
    segments(),
    parameters(),
  );
watch(() => document.body.setAttribute('data-group', `${state.tokens}x${state.degree}`));
