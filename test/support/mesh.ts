import { inputName, type Graph } from '../../src/ir/graph.js';
import { interpret, meshOf, type Mesh } from '../../src/ir/interpret.js';
import { laneMembers, localIndices, shardTensor, unshardTensor } from '../../src/ir/mesh.js';
import type { Tensor } from '../../src/ir/op.js';
import { tensor } from '../../src/ir/ops/define.js';
import { localShape, type RankBinding } from '../../src/ir/placement.js';
import type { Type } from '../../src/ir/type.js';

/** Whole values by name. */
export type Values = ReadonlyMap<string, Tensor>;

export const laneSymbols = (tokens: number): ReadonlyMap<string, number> => new Map([['S', tokens]]);

/** A mesh of lanes of given degrees, each with its number of tokens. */
export const meshOfLanes = (lanes: readonly { degree: number; tokens: number }[]): Mesh =>
  meshOf(
    lanes.map((l) => l.degree),
    (lane) => laneSymbols(lanes[lane]!.tokens),
  );

/** Global shape of a type for a number of tokens. */
export const wholeShape = (type: Type, tokens: number): number[] =>
  localShape(type, meshOfLanes([{ degree: 1, tokens }]).ranks[0]!);

/** What each member holds of a whole: shards, copies, or random parts of a pending sum. */
export function spreadTensor(
  whole: Tensor,
  type: Type,
  members: readonly RankBinding[],
  random: () => number,
): Tensor[] {
  if (type.pending === undefined) return members.map((rank) => shardTensor(whole, type, rank));
  const rest = whole.data.slice();
  const held = members.map((rank) => localIndices(type, whole.shape, rank));
  const last = new Map<number, number>();
  held.forEach((indices, m) => indices.forEach((at) => last.set(at, m)));
  return members.map((rank, m) => {
    const part = tensor(localShape(type, rank));
    held[m]!.forEach((at, i) => {
      const share = last.get(at) === m ? rest[at]! : random() - 0.5;
      rest[at]! -= share;
      part.data[i] = share;
    });
    return part;
  });
}

/** Evaluates on one rank, everything whole. */
export const evaluateWhole = (graph: Graph, tokens: number, values: Values): Values => {
  const outputs = interpret(graph, meshOfLanes([{ degree: 1, tokens }]), (name) => values.get(name)!);
  return new Map([...outputs].map(([name, parts]) => [name, parts[0]!]));
};

/** Evaluates on a mesh with lane `l` given `values[l]`, sharded by the inputs' types; outputs of each lane, whole. */
export function evaluateSharded(
  graph: Graph,
  lanes: readonly { degree: number; tokens: number }[],
  values: readonly Values[],
  random: () => number,
): Values[] {
  const mesh = meshOfLanes(lanes);
  const locals = new Map<string, Tensor[]>();
  for (const input of graph.inputs) {
    const name = inputName(input);
    const parts = lanes.flatMap((_, lane) =>
      spreadTensor(
        values[lane]!.get(name)!,
        input.type,
        laneMembers(mesh, lane).map((r) => mesh.ranks[r]!),
        random,
      ),
    );
    locals.set(name, parts);
  }
  const outputs = interpret(graph, mesh, (name, rank) => locals.get(name)![rank]!);
  return lanes.map(({ tokens }, lane) => {
    const members = laneMembers(mesh, lane);
    const ranks = members.map((r) => mesh.ranks[r]!);
    return new Map(
      graph.outputs.map(({ name, value }) => {
        const parts = members.map((r) => outputs.get(name)![r]!);
        return [name, unshardTensor(parts, value.type, wholeShape(value.type, tokens), ranks)];
      }),
    );
  });
}
