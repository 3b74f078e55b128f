/** Small graphs that compute something enormous, put in front of a value the importer evaluates. */
import type { Dice } from './dice.js';
import {
  edge,
  floatTensor,
  freshName,
  indexEdge,
  insert,
  intTensor,
  nodesOf,
  tensorsOf,
  type Edge,
  type Model,
  type Node,
} from './proto.js';
import type { StructureEdit } from './structure.js';

const HUGE: readonly bigint[] = [2n ** 24n, 2n ** 31n, 2n ** 40n, 2n ** 53n - 1n, 2n ** 62n];

/** Adds a constant to the model; returns its name. */
function ints(model: Model, values: readonly bigint[], scalar = false): string {
  const name = freshName('ints');
  tensorsOf(model).push(intTensor(name, values, scalar));
  return name;
}

/** A builder of chains of nodes: each call names the result of the next node. */
function chain(): { nodes: Node[]; step: (opType: string, input: string[], rest?: Partial<Node>) => string } {
  const nodes: Node[] = [];
  return {
    nodes,
    step: (opType, input, rest = {}) => {
      const output = freshName(opType);
      nodes.push({ opType, input, output: [output], name: freshName('node'), attribute: [], ...rest });
      return output;
    },
  };
}

type Grow = (model: Model, from: string, dice: Dice, add: ReturnType<typeof chain>['step']) => string;

const on =
  (place: (model: Model, dice: Dice) => Edge | undefined, grow: Grow): StructureEdit =>
  (model, dice) => {
    const at = place(model, dice);
    if (at === undefined) return;
    const { nodes, step } = chain();
    const result = grow(model, at.name, dice, step);
    insert(model, at, nodes, result);
  };

const intAttribute = (name: string, i: number) => ({ attribute: [{ name, type: 2 as const, i }] });

const repeated = (times: number, from: string, next: (value: string, i: number) => string): string => {
  let value = from;
  for (let i = 0; i < times; i++) value = next(value, i);
  return value;
};

/** Back to few elements, so that the rest of the graph may still fit. */
const shrink = (add: ReturnType<typeof chain>['step'], value: string): string =>
  add('ReduceMax', [value], intAttribute('keepdims', 0));

/** The same value, if the bomb counts as an integer: its shape and type stay. */
const besides = (add: ReturnType<typeof chain>['step'], from: string, bomb: string): string =>
  add('Add', [from, add('CastLike', [bomb, from])]);

export const BOMBS: Readonly<Record<string, StructureEdit>> = {
  expand: on(indexEdge, (model, from, dice, add) =>
    besides(add, from, shrink(add, add('Expand', [from, ints(model, [dice.pick(HUGE), 1n, 1n, 1n, 1n])]))),
  ),
  tile: on(indexEdge, (model, from, dice, add) =>
    add('Tile', [from, ints(model, [dice.pick(HUGE), ...Array.from({ length: dice.below(4) }, () => 2n)])]),
  ),
  constantOfShape: on(indexEdge, (model, from, dice, add) =>
    add('Add', [
      from,
      shrink(
        add,
        add('ConstantOfShape', [ints(model, [dice.pick(HUGE), dice.pick([1n, -1n, 7n, 2n ** 40n])])]),
      ),
    ]),
  ),
  range: on(indexEdge, (model, from, dice, add) => {
    const [zero, one] = [ints(model, [dice.pick([0n, -(2n ** 63n)])], true), ints(model, [1n], true)];
    return add('Add', [from, shrink(add, add('Range', [zero, ints(model, [dice.pick(HUGE)], true), one]))]);
  }),
  pad: on(indexEdge, (model, from, dice, add) =>
    add('Pad', [
      from,
      ints(
        model,
        Array.from({ length: 2 * dice.below(5) }, () => dice.pick([...HUGE, -1n, -5n])),
      ),
    ]),
  ),
  /** Sizes that come from values which no shape inference knows. */
  computedSize: on(indexEdge, (model, from, dice, add) => {
    const sum = add('ReduceSum', [add('Cast', [from], intAttribute('to', 7))], intAttribute('keepdims', 0));
    const size = add('Mul', [
      add('Add', [sum, ints(model, [1n], true)]),
      ints(model, [dice.pick(HUGE)], true),
    ]);
    const shape = add('Reshape', [size, ints(model, [1n])]);
    const made = add(dice.pick(['ConstantOfShape', 'NonZero']), [shape]);
    return add('Add', [from, shrink(add, made)]);
  }),
  manyMegabytes: on(indexEdge, (model, from, dice, add) => {
    const size = ints(model, [dice.pick([1n, 2n ** 10n, 2n ** 12n]), 2n ** 10n, 1n, 1n, 1n, 1n]);
    return repeated(20 + dice.below(300), from, (value) =>
      besides(add, from, shrink(add, add('Add', [add('Expand', [value, size]), value]))),
    );
  }),
  doubling: on(indexEdge, (_, from, dice, add) =>
    repeated(10 + dice.below(50), from, (value) => add('Concat', [value, value], intAttribute('axis', 0))),
  ),
  powers: on(indexEdge, (_, from, dice, add) =>
    repeated(5 + dice.below(70), add('Shape', [from]), (value) =>
      add(dice.pick(['Mul', 'Mul', 'Add']), [value, value]),
    ),
  ),
  powersOfLength: (model, dice) => {
    const shape = nodesOf(model).find((node) => node.opType === 'Shape')?.output?.[0];
    const at = indexEdge(model, dice);
    if (shape === undefined || at === undefined) return;
    const { nodes, step } = chain();
    const first = step('Add', [shape, ints(model, [1n])]);
    const power = repeated(3 + dice.below(40), first, (value) => step('Mul', [value, value]));
    const made = dice.chance(0.5) ? step('ConstantOfShape', [power]) : power;
    const result = step('Add', [at.name, dice.chance(0.5) ? shrink(step, made) : made]);
    insert(model, at, nodes, result);
  },
  divideByZero: on(indexEdge, (model, from, dice, add) => {
    const divisor = ints(model, [dice.pick([0n, 0n, -1n])], dice.chance(0.5));
    const dividend = dice.chance(0.5) ? from : add('Add', [from, ints(model, [-(2n ** 63n)], true)]);
    return add(dice.pick(['Div', 'Mod']), [dividend, divisor]);
  }),
  /** A divisor that is zero only in the values. */
  divideByIndex: on(indexEdge, (_, from, dice, add) =>
    add(dice.pick(['Div', 'Mod']), [from, add('Sub', [from, from])]),
  ),
  products: on(indexEdge, (model, from, dice, add) => {
    const wide = freshName('wide');
    const side = dice.pick([64, 1024, 2048]);
    tensorsOf(model).push(intTensor(wide, [BigInt(side), BigInt(side)]));
    const zero = freshName('zero');
    tensorsOf(model).push(floatTensor(zero, [], 0));
    const square = add('Expand', [zero, wide]);
    const product = repeated(1 + dice.below(60), square, (value) => add('MatMul', [value, square]));
    const index = add('Cast', [shrink(add, product)], intAttribute('to', 7));
    return add('Add', [from, index]);
  }),
  longChain: on(indexEdge, (model, from, dice, add) => {
    const zero = ints(model, [0n], true);
    return repeated(dice.pick([100, 2000, 4500, 6000, 20_000]), from, (value) =>
      dice.chance(0.5) ? add('Identity', [value]) : add('Add', [value, zero]),
    );
  }),
  longDataChain: on(edge, (_, from, dice, add) => {
    const op = dice.pick(['Identity', 'Neg', 'Relu', 'Cast']);
    return repeated(dice.pick([100, 2000, 6000]), from, (value) => add(op, [value], intAttribute('to', 1)));
  }),
  fanOut: on(edge, (_, from, dice, add) =>
    repeated(5 + dice.below(60), from, (value) =>
      add(dice.pick(['Add', 'Mul', 'Max', 'Concat']), [value, value]),
    ),
  ),
  manyRanks: on(edge, (model, from, dice, add) => {
    const rank = dice.pick([9, 40, 1000]);
    return add('Unsqueeze', [
      from,
      ints(
        model,
        Array.from({ length: rank }, (_, i) => BigInt(i)),
      ),
    ]);
  }),
  wideConcat: on(edge, (_, from, dice, add) =>
    add(
      'Concat',
      Array.from({ length: dice.pick([100, 10_000]) }, () => from),
      intAttribute('axis', 0),
    ),
  ),
};
