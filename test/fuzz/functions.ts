/** Bodies: local functions that call themselves or each other, branches and loops that capture names. */
import type { onnx } from 'onnx-proto';
import type { Dice } from './dice.js';
import {
  edge,
  floatTensor,
  freshName,
  insert,
  intTensor,
  nodesOf,
  tensorsOf,
  type Edge,
  type Graph,
  type Model,
  type Node,
} from './proto.js';
import { ODD_NAMES, type StructureEdit } from './structure.js';

const DOMAIN = 'fuzz';

const call = (name: string, input: readonly string[], output: readonly string[]): Node => ({
  opType: name,
  domain: DOMAIN,
  name: freshName('call'),
  input: [...input],
  output: [...output],
  attribute: [],
});

const add = (a: string, b: string, output: string): Node => ({
  opType: 'Add',
  name: `${output}/add`,
  input: [a, b],
  output: [output],
});

/** A function of one operand. */
const unary = (name: string, node: readonly Node[], output: string): onnx.IFunctionProto => ({
  name,
  domain: DOMAIN,
  input: ['x'],
  output: [output],
  opsetImport: [
    { domain: '', version: 20 },
    { domain: DOMAIN, version: 1 },
  ],
  node: [...node],
});

function define(model: Model, functions: readonly onnx.IFunctionProto[]): void {
  model.functions = [...(model.functions ?? []), ...functions];
  model.opsetImport = [...(model.opsetImport ?? []), { domain: DOMAIN, version: 1 }];
}

/** Puts a call of the function before an operand of a node. */
function callAt(model: Model, dice: Dice, name: string): void {
  const at = edge(model, dice);
  if (at === undefined) return;
  const result = freshName('result');
  insert(model, at, [call(name, [at.name], [result])], result);
}

/** Functions f0, f1, …, each made from the name of the one before. */
function family(
  model: Model,
  dice: Dice,
  count: number,
  bodyOf: (before: string) => { nodes: readonly Node[]; output: string },
): void {
  const base = freshName('f');
  const nameOf = (i: number): string => `${base}_${i}`;
  const identity: Node = { opType: 'Identity', name: 'leaf', input: ['x'], output: ['y'] };
  const functions = [unary(nameOf(0), [identity], 'y')];
  for (let i = 1; i < count; i++) {
    const { nodes, output } = bodyOf(nameOf(i - 1));
    functions.push(unary(nameOf(i), nodes, output));
  }
  define(model, dice.chance(0.5) ? functions : functions.reverse());
  callAt(model, dice, nameOf(count - 1));
}

/** If on a constant, or a Loop or Scan, in front of an operand. */
function wrap(
  model: Model,
  at: Edge,
  opType: string,
  input: readonly string[],
  bodies: Node['attribute'],
): void {
  const result = freshName('wrapped');
  const node: Node = {
    opType,
    name: freshName('node'),
    input: [...input],
    output: [result],
    attribute: bodies,
  };
  insert(model, at, [node], result);
}

/** A body that captures, shadows, and holds constants of odd names. */
function capturing(model: Model, dice: Dice, outer: string, depth: number): Graph {
  const others = nodesOf(model).flatMap((node) => node.output ?? []);
  const own = dice.chance(0.6) ? freshName('inner') : dice.pick([...ODD_NAMES, ...others.slice(0, 50)]);
  const constant = dice.chance(0.5) ? freshName('zero') : dice.pick(ODD_NAMES);
  const captured = dice.chance(0.7) || others.length === 0 ? outer : dice.pick(others);
  const result = freshName('out');
  const inner: Node[] =
    depth > 0
      ? [
          {
            opType: 'If',
            name: freshName('if'),
            input: [dice.chance(0.5) ? 'fuzz_condition' : captured],
            output: [own],
            attribute: ['then_branch', 'else_branch'].map((name) => ({
              name,
              type: 5,
              g: capturing(model, dice, captured, depth - 1),
            })),
          },
        ]
      : [add(captured, constant, own)];
  return {
    name: dice.pick(['body', ...ODD_NAMES]),
    initializer: [floatTensor(constant, dice.pick([[], [1], [40]]), 0)],
    node: [...inner, { opType: 'Identity', name: freshName('last'), input: [own], output: [result] }],
    output: [{ name: dice.chance(0.9) ? result : captured, type: { tensorType: { elemType: 1 } } }],
  };
}

function condition(model: Model): string {
  const name = 'fuzz_condition';
  if (!tensorsOf(model).some((tensor) => tensor.name === name))
    tensorsOf(model).push({ name, dims: [], dataType: 9, rawData: Uint8Array.of(1) });
  return name;
}

export const FUNCTION_EDITS: Readonly<Record<string, StructureEdit>> = {
  selfCall: (model, dice) => {
    const name = freshName('loop');
    define(model, [unary(name, [call(name, ['x'], ['y'])], 'y')]);
    callAt(model, dice, name);
  },
  mutualCall: (model, dice) => {
    const [a, b] = [freshName('a'), freshName('b')];
    define(model, [unary(a, [call(b, ['x'], ['y'])], 'y'), unary(b, [call(a, ['x'], ['y'])], 'y')]);
    callAt(model, dice, a);
  },
  /** 2^n nodes once all calls are put in. */
  doublingCalls: (model, dice) =>
    family(model, dice, dice.pick([6, 12, 18, 40, 64]), (before) => ({
      nodes: [call(before, ['x'], ['a']), call(before, ['a'], ['b'])],
      output: 'b',
    })),
  /** Names that double in length, if each call were to prefix its own. */
  deepCalls: (model, dice) =>
    family(model, dice, dice.pick([10, 100, 1000, 5000]), (before) => ({
      nodes: [call(before, ['x'], ['y'])],
      output: 'y',
    })),
  oddFunction: (model, dice) => {
    const [name, domain] = [dice.pick(ODD_NAMES), dice.chance(0.7) ? DOMAIN : dice.pick(ODD_NAMES)];
    const names = Array.from({ length: 3 }, () => dice.pick(ODD_NAMES));
    const attribute = dice.pick(ODD_NAMES);
    const body: Node[] = [
      {
        opType: dice.pick(['Identity', 'Constant', 'Cast', name]),
        domain: dice.chance(0.8) ? '' : domain,
        input: dice.chance(0.8) ? [names[0]!] : names,
        output: [names[1]!],
        attribute: [{ name: dice.pick(['value', 'to', 'axis', attribute]), type: 4, refAttrName: attribute }],
      },
    ];
    const made: onnx.IFunctionProto = {
      name,
      domain,
      input: dice.chance(0.8) ? [names[0]!] : names,
      output: dice.chance(0.8) ? [names[1]!] : [names[2]!, names[2]!],
      attribute: [attribute, attribute],
      opsetImport: [{ domain: dice.pick(ODD_NAMES), version: 20 }],
      node: body,
    };
    model.functions = [...(model.functions ?? []), made, ...(dice.chance(0.3) ? [made] : [])];
    model.opsetImport = [...(model.opsetImport ?? []), { domain, version: 1 }];
    const at = edge(model, dice);
    if (at === undefined) return;
    const result = dice.chance(0.8) ? freshName('result') : dice.pick(ODD_NAMES);
    const given = dice.chance(0.5) ? [{ name: attribute, type: 4 as const, t: intTensor('', [7n]) }] : [];
    const node: Node = {
      opType: name,
      domain,
      name: freshName('call'),
      input: dice.pick([[at.name], [], [at.name, at.name, at.name]]),
      output: dice.chance(0.8) ? [result] : [result, freshName('second'), ''],
      attribute: given,
    };
    insert(model, at, [node], result);
  },
  branch: (model, dice) => {
    const at = edge(model, dice);
    if (at === undefined) return;
    const depth = dice.pick([0, 0, 1, 3, 8]);
    const bodies = ['then_branch', 'else_branch'].map((name) => ({
      name,
      type: 5 as const,
      g: capturing(model, dice, at.name, depth),
    }));
    wrap(model, at, 'If', [dice.chance(0.8) ? condition(model) : at.name], bodies);
  },
  loop: (model, dice) => {
    const at = edge(model, dice);
    if (at === undefined) return;
    const trips = freshName('trips');
    tensorsOf(model).push(intTensor(trips, [dice.pick([0n, 1n, 3n, 2n ** 40n, 2n ** 62n])], true));
    const [kept, carried, next] = ['keep', 'carried', 'next'];
    const body: Graph = {
      name: 'body',
      input: ['i', 'c', carried].map((name) => ({ name, type: { tensorType: { elemType: 1 } } })),
      node: [
        { opType: 'Identity', input: ['c'], output: [kept] },
        add(carried, dice.chance(0.5) ? carried : at.name, next),
      ],
      output: [kept, next].map((name) => ({ name, type: { tensorType: { elemType: 1 } } })),
    };
    wrap(
      model,
      at,
      dice.pick(['Loop', 'Scan']),
      [trips, condition(model), at.name],
      [
        { name: 'body', type: 5, g: body },
        { name: 'num_scan_inputs', type: 2, i: 1 },
      ],
    );
  },
};
