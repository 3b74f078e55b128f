/** Graphs of sizes at which anything but time and stack linear in the nodes would not come to an end. */
import { expect, test } from 'vitest';
import { emit } from '../../src/ir/build.js';
import { makeInput, topologicalOrder, type Graph, type Value } from '../../src/ir/graph.js';
import { tiledOperand } from '../../src/ir/ops/tiled.js';
import { parseType } from '../../src/ir/type.js';
import { bodyOf } from '../../src/passes/loss/head.js';
import { temporariesOf, type Step } from '../../src/passes/emit/ort/liveness.js';
import { emitProgram } from '../../src/passes/emit/program.js';
import { schedule } from '../../src/passes/schedule.js';

const MANY = 130_000;
/** Lists of so many lists of so many would not fit in memory. */
const ALIVE = 50_000;
const ROW = parseType('f32[S@sp, 4]');

const indices = (count: number): readonly number[] => Array.from({ length: count }, (_, i) => i);
const context = { note: () => undefined, count: () => undefined };

/** `count` ops one after the other. */
const chain = (start: Value, count: number): Value =>
  indices(count).reduce<Value>((value) => emit('neg', [value])[0]!, start);

test('a tile body that is deeper than the stack', () => {
  const x = makeInput('x', 'data', ROW);
  const own = makeInput('x', 'data', tiledOperand(ROW, 0));
  const body: Graph = {
    name: 'body',
    axes: ['sp', 'world'],
    inputs: [own],
    outputs: [{ name: 'y', value: chain(own, 12_000) }],
  };
  const attrs = { tile: 8, slice: [0], results: ['concat'] };
  const [y] = emit('tiled', [x], attrs, { region: body });
  const graph: Graph = { name: 'g', axes: ['sp', 'world'], inputs: [x], outputs: [{ name: 'y', value: y! }] };
  const files = new Map<string, Uint8Array>();
  const { instructions } = emitProgram({ ...graph, order: topologicalOrder(graph) }, files);
  expect(instructions.map(({ kind }) => kind)).toEqual(['tiled']);
  expect(files.size).toBe(1);
});

const types = (count: number): readonly (typeof ROW)[] => indices(count).map(() => ROW);

test('values that are all alive at the end', () => {
  const made = indices(ALIVE).map((id): Step => ({ op: 'Add', inputs: [], outputs: [id], scratch: [] }));
  const last: Step = { op: 'Sum', inputs: indices(ALIVE), outputs: [ALIVE], scratch: [] };
  const [largest, ...others] = temporariesOf([...made, last], types(ALIVE + 1), new Set());
  expect(largest).toHaveLength(ALIVE + 1);
  expect(others).toEqual([]);
});

test('a chain that is written in place', () => {
  const steps = indices(MANY).map((id): Step => ({
    op: 'Tanh',
    inputs: id === 0 ? [] : [id - 1],
    outputs: [id],
    scratch: [],
  }));
  expect(temporariesOf(steps, types(MANY), new Set())).toEqual([['f32[S@sp, 4]']]);
});

test('a value that everything reads', () => {
  const x = makeInput('x', 'data', ROW);
  const hub = emit('neg', [x])[0]!;
  const graph: Graph = {
    name: 'g',
    axes: ['sp', 'world'],
    inputs: [x],
    outputs: indices(MANY).map((i) => ({ name: `y${i}`, value: emit('exp', [hub])[0]! })),
  };
  const { order } = schedule.run(graph, {}, context);
  expect(order).toHaveLength(MANY + 2);
}, 30_000);

test('a head of as many parameters as nodes', () => {
  const hidden = makeInput('hidden', 'data', parseType('f32[S, 4]'));
  const logits = indices(10_000).reduce<Value>((value, i) => {
    const bias = makeInput(`b${i}`, 'parameter', parseType('f32[4]'));
    return emit('add', [value, bias])[0]!;
  }, hidden);
  const { operands } = bodyOf(hidden, logits, [], (_, value) => [{ name: 'logits', value }]);
  expect(operands).toHaveLength(10_001);
});
