import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { UserError } from '../../src/errors.js';
import { builderAt, emit } from '../../src/ir/build.js';
import { inputName, makeInput, topologicalOrder, type Graph, type Value } from '../../src/ir/graph.js';
import { symbolSize } from '../../src/ir/size.js';
import { parseGraph } from '../../src/ir/text/parse.js';
import { printGraph } from '../../src/ir/text/print.js';
import { parseType } from '../../src/ir/type.js';
import { findings } from '../../src/ir/verify.js';
import { randomOf } from '../support/random.js';
import { lossRegion, sampleGraph, SAMPLES, sampleTitle } from '../support/samples.js';

const b = builderAt(undefined);
const x = makeInput('x', 'data', parseType('f32[S@sp, 4]'));

const roundTrip = (graph: Graph): Graph => {
  const text = printGraph(graph);
  const parsed = parseGraph(text);
  expect(printGraph(parsed)).toBe(text);
  return parsed;
};

const graphOf = (inputs: readonly Value[], outputs: readonly Value[]): Graph => ({
  name: 'g',
  axes: ['sp', 'world'],
  inputs,
  outputs: outputs.map((value, i) => ({ name: `y${i}`, value })),
});

/** A graph of every sample at once, each on its own inputs: every op, several results, regions. */
function everything(): Graph {
  const graphs = SAMPLES.map((s) => sampleGraph(s));
  const inputs: Value[] = [];
  const outputs = graphs.flatMap((g, n) => {
    const renamed = new Map(
      g.inputs.map((v) => [v, makeInput(`${inputName(v)}.${n}`, 'data', v.type)] as const),
    );
    inputs.push(...renamed.values());
    const { node } = g.outputs[0]!.value;
    const operands = node.operands.map((v) => renamed.get(v)!);
    return emit(node.op, operands, node.attrs, { loc: `/layer.${n}/"${node.op}"`, region: node.region });
  });
  return graphOf(inputs, outputs);
}

describe('the text form', () => {
  it.each(SAMPLES.map((s) => [sampleTitle(s), s] as const))(
    '%s prints, parses and prints the same',
    (_, sample) => {
      const parsed = roundTrip(sampleGraph(sample));
      expect(findings(parsed)).toEqual([]);
    },
  );

  it('holds a whole graph of every op, scheduled or not', () => {
    const graph = everything();
    roundTrip(graph);
    const scheduled = { ...graph, order: topologicalOrder(graph) };
    const parsed = roundTrip(scheduled);
    expect(parsed.order!.map((n) => n.op).filter((op) => op !== 'input')).toEqual(
      scheduled.order.map((n) => n.op).filter((op) => op !== 'input'),
    );
    expect(findings(parsed)).toEqual([]);
  });

  it('holds a tiled loss', () => {
    const inputs = ['f32[S@sp, 4]', 'f32[4, 5]', 'i32[S@sp]'].map((t, i) =>
      makeInput(`x${i}`, 'data', parseType(t)),
    );
    const attrs = { tile: 1024, slice: [0, -1, 0], results: ['sum', 'sum'] };
    const results = b('tiled', inputs, attrs, lossRegion());
    const parsed = roundTrip(graphOf(inputs, results));
    expect(parsed.outputs.map((o) => o.value.type.pending)).toEqual(['sp', 'sp']);
    expect(parsed.outputs[0]!.value.node.region!.outputs.map((o) => o.name)).toEqual(['sum', 'count']);
  });

  it.each([
    'with space',
    'ünïcode 漢字 🙂',
    '__proto__',
    'constructor',
    'quo"ted\\',
    '0',
    '0#0',
    '1#1',
    '',
    '.5',
    'a.b',
    'line\nbreak\u2028',
    '\ud800',
    '%x',
    '// no comment',
    'return',
  ])('names may be %j', (name) => {
    const q = makeInput(name, 'parameter', parseType('f32[S, 4@sp, 2]'), { trainable: true }, name);
    const d = makeInput(`${name}'`, 'data', parseType('i32[S]'));
    const results = builderAt(name)('attention', [q, q, q, d], { mask: 'full', scale: 1 });
    const graph: Graph = {
      name,
      axes: ['sp'],
      inputs: [q, d],
      outputs: [...results, q].map((value, i) => ({ name: i === 0 ? name : `${name}${i}`, value })),
    };
    const parsed = roundTrip(graph);
    expect(parsed.name).toBe(name);
    expect(inputName(parsed.inputs[0]!)).toBe(name);
    expect(parsed.inputs[0]!.node.loc).toBe(name);
    expect(parsed.outputs[0]!.name).toBe(name);
    expect(parsed.outputs[0]!.value.node.loc).toBe(name);
  });

  it('keeps -0, infinities, NaN, long numbers and sizes in attributes', () => {
    const data = [-0, 0, Infinity, -Infinity, NaN, 1e-300, 1.7976931348623157e308, 5e-324, 0.1, 1e21, -1e-7];
    const constant = b.one('constant', [], { dtype: 'f32', shape: [data.length], data });
    const parsed = roundTrip(graphOf([], [constant]));
    expect(parsed.outputs[0]!.value.node.attrs['data']).toEqual(data);
    const tokens = [symbolSize('S'), 2, 2];
    expect(
      roundTrip(graphOf([x], [b.one('reshape', [x], { shape: tokens })])).outputs[0]!.value.node.attrs,
    ).toEqual({
      shape: tokens,
    });
  });

  it('keeps attributes that no op knows, whatever their names', () => {
    const attrs = Object.fromEntries([
      ['__proto__', 3],
      ['constructor', 'x'],
      ['keep_me', true],
      ['undef', undefined],
      ['names', ['a', 'b']],
      ['none', []],
    ]) as Record<string, number>;
    const parsed = roundTrip(graphOf([x], [b.one('exp', [x], attrs)]));
    expect(Object.entries(parsed.outputs[0]!.value.node.attrs)).toEqual([
      ['__proto__', 3],
      ['constructor', 'x'],
      ['keep_me', true],
      ['names', ['a', 'b']],
      ['none', []],
    ]);
    expect(({} as Record<string, unknown>)['keep_me']).toBeUndefined();
  });

  it('skips comments', () => {
    const text = printGraph(graphOf([x], [b.one('exp', [x])]));
    expect(printGraph(parseGraph(text.replaceAll('\n', ' // a note\n')))).toBe(text);
  });
});

const HEAD = 'graph @g mesh {sp} (\n  %x: f32[S@sp, 4]\n) {\n';

describe('parse errors', () => {
  it.each([
    ['', 1, /expected 'graph'/],
    [`${HEAD}  %0 = nothing %x : f32[S@sp, 4]\n  return "y" = %0\n}`, 4, /there is no op 'nothing'/],
    [`${HEAD}  %0 = input %x : f32[S@sp, 4]\n  return "y" = %0\n}`, 4, /there is no op 'input'/],
    [`${HEAD}  %0 = exp %z : f32[S@sp, 4]\n  return "y" = %0\n}`, 4, /%z is not defined/],
    [`${HEAD}  %0 = exp %x : f32[S, 4]\n  return "y" = %0\n}`, 4, /has type f32\[S@sp, 4\], not f32\[S, 4\]/],
    [`${HEAD}  %0 = exp %x : f32[S@tp, 4]\n  return "y" = %0\n}`, 4, /is not a dim/],
    [`${HEAD}  %0 = exp %x : f32[99999999999999999999, 4]\n}`, 4, /overflows/],
    [`${HEAD}  %0 = exp %x, %x : f32[S@sp, 4]\n}`, 4, /exp takes \(x\), got 2 operands/],
    [`${HEAD}  %0 = softmax %x : f32[S@sp, 4]\n}`, 4, /attribute dim is missing/],
    [`${HEAD}  %0 = softmax %x {dim = "1"} : f32[S@sp, 4]\n}`, 4, /attribute dim is not/],
    [`${HEAD}  %0 = softmax %x {dim = 0} : f32[S@sp, 4]\n}`, 4, /must be whole/],
    [`${HEAD}  %0 = reshape %x {shape = [0.5]} : f32[S@sp]\n}`, 4, /attribute shape/],
    [`${HEAD}  %0 = reshape %x {shape = [[1]]} : f32[S@sp]\n}`, 4, /expected an attribute value/],
    [`${HEAD}  %0 = reshape %x {shape = [1, "a"]} : f32[S@sp]\n}`, 4, /a list holds/],
    [`${HEAD}  %0 = reshape %x {shape = [2^3]} : f32[S@sp]\n}`, 4, /expected/],
    [`${HEAD}  %0 = exp %x graph @r mesh {sp} () { return } : f32[S@sp, 4]\n}`, 4, /takes no body/],
    [`${HEAD}  %x = exp %x : f32[S@sp, 4]\n}`, 4, /%x is defined twice/],
    [`${HEAD}  %0 = exp %x : f32[S@sp, 4] @"\\q"\n}`, 4, /is not a string/],
    [`${HEAD}  return "y" = %x\n}\n}`, 6, /text after the graph/],
    [`${HEAD}  return "y" = %x#0\n}`, 4, /%x#0 is not defined/],
    ['graph @g mesh {tp} () { return }', 1, /expected an axis/],
    ['graph @g mesh {sp} (%x: f32[4@sp, 4@sp]) { return }', 1, /two dims are split/],
    ['graph @g mesh {sp} (%x: f32[S] {role = "king"}) { return }', 1, /role of %x/],
    ['graph @g mesh {sp} (%x: f32[S] {role = 3}) { return }', 1, /role of %x/],
    ['graph @g mesh {sp} (%x: f32[S] {name = "y"}) { return }', 1, /attribute called name/],
  ])('of %j name line %i', (text, line, message) => {
    let caught: unknown;
    try {
      parseGraph(text);
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(UserError);
    expect((caught as UserError).message).toMatch(message);
    expect((caught as UserError).message).toMatch(new RegExp(`^line ${line} of the IR: `));
  });

  it('come, however deep the text nests', () => {
    const region = 'graph @g mesh {} () { %0 = tiled ';
    for (const text of [
      region.repeat(1e5),
      `${HEAD}%0 = exp %x {a = ${'['.repeat(1e5)}`,
      `${HEAD}%0 = exp %x {a = "${'\\n'.repeat(1e5)}`,
    ])
      expect(() => parseGraph(text)).toThrow(UserError);
  });
});

/** Texts damaged in small ways, so that most of the parser is reached. */
function mutate(text: string, random: () => number): string {
  const at = (): number => Math.floor(random() * text.length);
  const pieces = [
    '-1',
    '0',
    '"',
    '[',
    ']',
    '{',
    '}',
    '@sp',
    '/0',
    '%0',
    '#1',
    ',',
    '=',
    'S',
    '*',
    '1e9',
    '"sp"',
    'nan',
    '{U:sp}',
    'true',
    '\n',
  ];
  const piece = pieces[Math.floor(random() * pieces.length)]!;
  const [from, other] = [at(), at()];
  const length = Math.floor(random() * 6);
  switch (Math.floor(random() * 5)) {
    case 0:
      return text.slice(0, from) + text.slice(from + length);
    case 1:
      return text.slice(0, from) + piece + text.slice(from);
    case 2:
      return text.slice(0, from) + piece + text.slice(from + piece.length);
    case 3:
      return text.slice(0, from) + text.slice(other, other + length) + text.slice(from);
    default:
      return text.replace(
        /(= |\[)(-?\d+)/,
        (_, before: string) => before + String(Math.floor(random() * 9) - 3),
      );
  }
}

describe('damaged text', () => {
  it('is a user’s error or a sound graph, never a crash', () => {
    const random = randomOf(11);
    let sound = 0;
    for (const sample of SAMPLES) {
      const text = printGraph(sampleGraph(sample));
      for (let n = 0; n < 40; n++) {
        let damaged = text;
        for (let k = 0; k <= n % 3; k++) damaged = mutate(damaged, random);
        let graph: Graph;
        try {
          graph = parseGraph(damaged);
        } catch (error) {
          if (error instanceof UserError) continue;
          throw new Error(`crashed on:\n${damaged}`, { cause: error });
        }
        sound++;
        const printed = printGraph(graph);
        expect(printGraph(parseGraph(printed))).toBe(printed);
        expect(findings(graph).filter((f) => f.rule !== 5 && !/named twice/.test(f.message))).toEqual([]);
      }
    }
    expect(sound).toBeGreaterThan(50);
  });

  it('of any characters is refused', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', maxLength: 60 }), fc.boolean(), (text, headed) => {
        expect(() => parseGraph(headed ? HEAD + text : text)).toThrow(UserError);
      }),
      { seed: 9, numRuns: 300 },
    );
  });
});
