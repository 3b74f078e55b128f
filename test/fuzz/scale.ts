/** Models of too many parts: within the bounds of the reader, or beyond them. */
import type { Dice } from './dice.js';
import {
  edge,
  floatTensor,
  freshName,
  graphOf,
  insert,
  nodesOf,
  tensorsOf,
  type Model,
  type Node,
} from './proto.js';
import type { StructureEdit } from './structure.js';

const many = (dice: Dice): number => dice.pick([1000, 5000, 20_000, 100_000, 240_000]);

const times = <T>(count: number, make: (i: number) => T): T[] =>
  Array.from({ length: count }, (_, i) => make(i));

const identity = (input: string, output: string): Node => ({
  opType: 'Identity',
  input: [input],
  output: [output],
});

function someNode(model: Model, dice: Dice): Node | undefined {
  return nodesOf(model).length > 0 ? dice.pick(nodesOf(model)) : undefined;
}

/** Some value of the model. */
const from = (model: Model, dice: Dice): string => edge(model, dice)?.name ?? 'x';

export const SCALE_EDITS: Readonly<Record<string, StructureEdit>> = {
  unusedNodes: (model, dice) => {
    const value = from(model, dice);
    graphOf(model).node = [...nodesOf(model), ...times(many(dice), (i) => identity(value, `unused_${i}`))];
  },
  endlessChain: (model, dice) => {
    const at = edge(model, dice);
    if (at === undefined) return;
    // Every link is inferred, translated and recognised past: time linear in 240,000 of them is 8 s of a quiet core.
    const count = Math.min(many(dice), 100_000);
    const nodes = times(count, (i) => identity(i === 0 ? at.name : `link_${i - 1}`, `link_${i}`));
    const list = nodesOf(model);
    const where = list.indexOf(at.node);
    graphOf(model).node = [...list.slice(0, where), ...nodes, ...list.slice(where)];
    at.node.input![at.operand] = `link_${count - 1}`;
  },
  tensors: (model, dice) => {
    const made = times(many(dice), (i) => floatTensor(`scalar_${i}`, [], i));
    graphOf(model).initializer = [...tensorsOf(model), ...made];
  },
  /** Weights that might be copies of each other. */
  twins: (model, dice) => {
    const made = times(Math.min(many(dice), 100_000), (i) => floatTensor(`twin_${i}`, [1, 2], i));
    graphOf(model).initializer = [...tensorsOf(model), ...made];
  },
  /** Parameters that all have their place in the program. */
  usedTensors: (model, dice) => {
    const at = edge(model, dice);
    if (at === undefined) return;
    const count = dice.pick([100, 1000, 4000]);
    const dims = dice.pick([[], [1]]);
    graphOf(model).initializer = [
      ...tensorsOf(model),
      ...times(count, (i) => floatTensor(`bias_${i}`, dims, i / count)),
    ];
    const nodes = times(count, (i): Node => ({
      opType: 'Add',
      name: `plus_${i}`,
      input: [i === 0 ? at.name : `sum_${i - 1}`, `bias_${i}`],
      output: [`sum_${i}`],
    }));
    insert(model, at, nodes, `sum_${count - 1}`);
  },
  inputs: (model, dice) => {
    const type = {
      tensorType: { elemType: 7, shape: { dim: [{ dimParam: 'batch' }, { dimParam: 'sequence' }] } },
    };
    const made = times(many(dice), (i) => ({ name: `input_${i}`, type }));
    graphOf(model).input = [...(graphOf(model).input ?? []), ...made];
  },
  outputs: (model, dice) => {
    const name = from(model, dice);
    const made = times(many(dice), () => ({ name, type: { tensorType: { elemType: 1 } } }));
    graphOf(model).output = [...(graphOf(model).output ?? []), ...made];
  },
  operands: (model, dice) => {
    const node = someNode(model, dice);
    const value = from(model, dice);
    if (node) node.input = [...(node.input ?? []), ...times(many(dice), () => value)];
  },
  results: (model, dice) => {
    const node = someNode(model, dice);
    if (node) node.output = [...(node.output ?? []), ...times(many(dice), (i) => `more_${i}`)];
  },
  attributes: (model, dice) => {
    const node = someNode(model, dice);
    const made = times(many(dice), (i) => ({ name: `a${i}`, type: 2 as const, i }));
    if (node) node.attribute = [...(node.attribute ?? []), ...made];
  },
  integers: (model, dice) => {
    const node = someNode(model, dice);
    const name = dice.pick(['axes', 'perm', 'split', 'value_ints', 'pads']);
    node?.attribute?.push({ name, type: 7, ints: times(many(dice) * 5, (i) => i) });
  },
  dims: (model, dice) => {
    const infos = [...(graphOf(model).input ?? []), ...(graphOf(model).output ?? [])];
    const type = infos.length > 0 ? dice.pick(infos).type?.tensorType : undefined;
    if (dice.chance(0.5) && type) type.shape = { dim: times(many(dice), (i) => ({ dimParam: `d${i}` })) };
    else if (tensorsOf(model).length > 0) dice.pick(tensorsOf(model)).dims = times(many(dice), () => 1);
  },
  declarations: (model, dice) => {
    const made = times(many(dice), (i) => ({ domain: `d${i}`, version: 1 }));
    model.opsetImport = [...(model.opsetImport ?? []), ...made];
  },
  remarks: (model, dice) => {
    model.metadataProps = times(many(dice), (i) => ({
      key: dice.chance(0.001) ? '__proto__' : `k${i}`,
      value: 'v',
    }));
  },
  hugeName: (model, dice) => {
    const name = 'n'.repeat(dice.pick([1e5, 5e6, 4e7]));
    const node = someNode(model, dice);
    if (!node) return;
    const way = dice.below(5);
    if (way === 0) node.name = name;
    else if (way === 1) node.opType = name;
    else if (way === 2) node.docString = name;
    else if (way === 3) node.attribute?.push({ name: 'text', type: 3, s: new TextEncoder().encode(name) });
    else {
      const at = edge(model, dice);
      const result = freshName(name);
      if (at) insert(model, at, [identity(at.name, result)], result);
    }
  },
  functions: (model, dice) => {
    const body = { opType: 'Identity', input: ['x'], output: ['y'] };
    const made = times(Math.min(many(dice), 100_000), (i) => ({
      name: `f${i}`,
      domain: 'fuzz',
      input: ['x'],
      output: ['y'],
      node: [body],
    }));
    model.functions = [...(model.functions ?? []), ...made];
    nodesOf(model).forEach((node, i) => {
      if (i % 7 === 0) node.domain = dice.pick(['', 'fuzz']);
    });
  },
};
