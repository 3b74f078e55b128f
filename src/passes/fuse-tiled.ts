import { z } from 'zod';
import { emit } from '../ir/build.js';
import {
  inputName,
  makeInput,
  nodesReaching,
  numberAttr,
  numbersAttr,
  rewriteGraph,
  topologicalOrder,
  type Graph,
  type NamedValue,
  type Node,
  type Value,
} from '../ir/graph.js';
import type { TileResult } from '../ir/ops/tiled.js';
import { rebuildNode } from '../ir/build.js';
import { definePass } from './pass.js';

/** Whether `to` can be reached from `from` by operands. */
const dependsOn = (to: Node, from: Node): boolean => nodesReaching(to.operands).includes(from);

const sharesRows = (a: Node, b: Node): boolean => {
  const sliced = (n: Node): Set<Value> =>
    new Set(n.operands.filter((_, i) => numbersAttr(n.attrs, 'slice')[i] !== -1));
  const own = sliced(a);
  return (
    numberAttr(a.attrs, 'tile') === numberAttr(b.attrs, 'tile') && [...sliced(b)].some((v) => own.has(v))
  );
};

/** Copies nodes into one body, sharing those that compute the same thing. */
function copier(): { copy: (region: Graph, inputs: readonly Value[]) => readonly NamedValue[] } {
  const known = new Map<string, readonly Value[]>();
  const numbers = new Map<Value, number>();
  const numberOf = (v: Value): number => {
    if (!numbers.has(v)) numbers.set(v, numbers.size);
    return numbers.get(v)!;
  };
  const copy = (region: Graph, inputs: readonly Value[]): readonly NamedValue[] => {
    const values = new Map(region.inputs.map((v, i) => [v, inputs[i]!]));
    for (const node of topologicalOrder(region)) {
      if (node.op === 'input') continue;
      const operands = node.operands.map((v) => values.get(v)!);
      const key = JSON.stringify([node.op, node.attrs, operands.map(numberOf)]);
      const results =
        (node.region === undefined ? known.get(key) : undefined) ??
        emit(node.op, operands, node.attrs, { loc: node.loc, region: node.region });
      known.set(key, results);
      results.forEach((v, i) => values.set(node.results[i]!, v));
    }
    return region.outputs.map(({ name, value }) => ({ name, value: values.get(value)! }));
  };
  return { copy };
}

interface Operand {
  readonly value: Value;
  readonly slice: number;
}

/** One tiled node that does what `nodes` do, each operand taken once, scalar constants moved inside, unused operands dropped. */
function merge(nodes: readonly Node[]): ReadonlyMap<Value, Value> {
  const operands: Operand[] = [];
  const inputs: Value[] = [];
  const taken = new Map<Value, Map<number, Value>>();
  const names = new Set<string>();
  const { copy } = copier();
  const outputs: NamedValue[] = [];
  const outputNames = new Set<string>();
  const kinds: TileResult[] = [];
  const owners: Value[] = [];
  for (const node of nodes) {
    const slices = numbersAttr(node.attrs, 'slice');
    const given = node.operands.map((value, i) => {
      if (value.node.op === 'constant') return emit('constant', [], value.node.attrs)[0]!;
      const bySlice = taken.get(value) ?? new Map<number, Value>();
      const known = bySlice.get(slices[i]!);
      if (known !== undefined) return known;
      const own = node.region!.inputs[i]!;
      const unique = names.has(inputName(own)) ? `${inputName(own)}_${inputs.length}` : inputName(own);
      const input = makeInput(unique, 'data', own.type, {}, own.node.loc);
      taken.set(value, bySlice.set(slices[i]!, input));
      names.add(unique);
      operands.push({ value, slice: slices[i]! });
      inputs.push(input);
      return input;
    });
    for (const output of copy(node.region!, given)) {
      const name = outputNames.has(output.name) ? `${output.name}_${outputs.length}` : output.name;
      outputNames.add(name);
      outputs.push({ name, value: output.value });
    }
    kinds.push(...(node.attrs['results'] as readonly TileResult[]));
    owners.push(...node.results);
  }
  const used = new Set(nodesReaching(outputs.map((o) => o.value)));
  const kept = inputs.flatMap((v, i) => (used.has(v.node) ? [i] : []));
  const first = nodes[0]!;
  const body: Graph = { ...first.region!, name: 'tile', inputs: kept.map((i) => inputs[i]!), outputs };
  const results = emit(
    'tiled',
    kept.map((i) => operands[i]!.value),
    {
      tile: first.attrs['tile'],
      slice: kept.map((i) => operands[i]!.slice),
      results: kinds,
    },
    { loc: first.loc, region: body },
  );
  return new Map(owners.map((v, i) => [v, results[i]!]));
}

/** The first set of tiled ops that can share a loop. */
function nextGroup(graph: Graph): readonly Node[] | undefined {
  const groups: Node[][] = [];
  for (const node of topologicalOrder(graph).filter((n) => n.op === 'tiled')) {
    const group = groups.find((g) =>
      g.every((other) => sharesRows(other, node) && !dependsOn(node, other) && !dependsOn(other, node)),
    );
    if (group === undefined) groups.push([node]);
    else group.push(node);
  }
  return groups.find((g) => g.length > 1);
}

export const fuseTiled = definePass({
  name: 'fuse-tiled',
  doc: 'Runs tiled ops over the same rows in one loop: the loss and its gradient share each tile’s logits.',
  requires: ['differentiated'],
  ensures: [],
  numerics: 'exact',
  options: z.strictObject({}),
  run: (graph) => {
    let current = graph;
    for (let group = nextGroup(current); group !== undefined; group = nextGroup(current)) {
      const results = merge(group);
      const members = new Set(group);
      current = rewriteGraph(
        current,
        (node) => (members.has(node) ? node.results.map((v) => results.get(v)!) : undefined),
        rebuildNode,
      );
    }
    return current;
  },
});
