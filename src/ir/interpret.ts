import { invariant } from '../errors.js';
import { inputName, topologicalOrder, type Graph, type Node, type Value } from './graph.js';
import type { Tensor } from './op.js';
import { opDef } from './ops/index.js';
import { localShape, type RankBinding } from './placement.js';
import type { Axis } from './type.js';

/**
 * The ranks of a world. Ranks of one lane form a group: their `sp` positions count 0 … degree−1, and they
 * share the symbols of the tokens the lane holds. Lanes may differ in degree and tokens; one may be empty.
 */
export interface Mesh {
  readonly ranks: readonly RankBinding[];
  /** Lane of each rank. */
  readonly lanes: readonly number[];
}

/** A mesh of lanes with the given degrees; `symbols(lane)` gives the lane's sizes, `S` among them. */
export function meshOf(
  degrees: readonly number[],
  symbols: (lane: number) => ReadonlyMap<string, number>,
): Mesh {
  const world = degrees.reduce((sum, d) => sum + d, 0);
  const lanes = degrees.flatMap((degree, lane) => Array.from({ length: degree }, () => lane));
  const ranks = lanes.map((lane, index) => ({
    sp: { index: index - lanes.indexOf(lane), degree: degrees[lane]! },
    world: { index, degree: world },
    symbols: symbols(lane),
  }));
  return { ranks, lanes };
}

/** Local value of a graph input on a rank. */
export type InputOf = (name: string, rank: number) => Tensor;

/** Outputs by name, one local tensor a rank. */
export type MeshOutputs = ReadonlyMap<string, readonly Tensor[]>;

/**
 * The reference executor: float64, the whole mesh in one process, node by node over all ranks, so that
 * collectives are plain functions of their members' operands. Truth for every other executor.
 */
export function interpret(graph: Graph, mesh: Mesh, inputOf: InputOf): MeshOutputs {
  const values = new Map<Value, readonly Tensor[]>();
  const order = topologicalOrder(graph);
  const lastUse = lastUses(graph, order);
  order.forEach((node, at) => {
    const operands = node.operands.map((v) => values.get(v)!);
    const results = evaluateNode(node, mesh, operands, inputOf);
    node.results.forEach((value, i) =>
      values.set(
        value,
        results.map((perRank) => perRank[i]!),
      ),
    );
    for (const value of lastUse.get(at) ?? []) values.delete(value);
  });
  return new Map(graph.outputs.map(({ name, value }) => [name, values.get(value)!]));
}

function lastUses(graph: Graph, order: readonly Node[]): Map<number, Value[]> {
  const last = new Map<Value, number>();
  order.forEach((node, at) => node.operands.forEach((v) => last.set(v, at)));
  for (const { value } of graph.outputs) last.delete(value);
  const dying = new Map<number, Value[]>();
  for (const [value, at] of last) dying.set(at, [...(dying.get(at) ?? []), value]);
  return dying;
}

/** `[rank][result]`. */
function evaluateNode(
  node: Node,
  mesh: Mesh,
  operands: readonly (readonly Tensor[])[],
  inputOf: InputOf,
): readonly (readonly Tensor[])[] {
  const shapesOn = (rank: RankBinding): number[][] => node.results.map((r) => localShape(r.type, rank));
  if (node.op === 'input')
    return mesh.ranks.map((rank, r) => [
      checked(node, inputOf(inputName(node.results[0]!), r), shapesOn(rank)[0]!),
    ]);
  const def = opDef(node.op);
  const shared = { types: node.operands.map((v) => v.type), attrs: node.attrs, region: node.region };
  if (def.evalMesh !== undefined) {
    const out: (readonly Tensor[])[] = [];
    for (const members of groupsOf(mesh, node.attrs['axis'] as Axis | undefined)) {
      const results = def.evalMesh({
        ...shared,
        inputs: members.map((r) => operands.map((perRank) => perRank[r]!)),
        ranks: members.map((r) => mesh.ranks[r]!),
        shapes: members.map((r) => shapesOn(mesh.ranks[r]!)),
      });
      members.forEach((r, i) => {
        const shapes = shapesOn(mesh.ranks[r]!);
        out[r] = results[i]!.map((t, k) => checked(node, t, shapes[k]!));
      });
    }
    return out;
  }
  invariant(def.eval !== undefined, `op ${node.op} has no evaluation`);
  return mesh.ranks.map((rank, r) =>
    def.eval!({
      ...shared,
      inputs: operands.map((perRank) => perRank[r]!),
      shapes: shapesOn(rank),
      rank,
      run: runRegion,
    }).map((t, i) => checked(node, t, shapesOn(rank)[i]!)),
  );
}

const checked = (node: Node, value: Tensor, shape: readonly number[]): Tensor => {
  const size = shape.reduce((product, n) => product * n, 1);
  invariant(
    value.data.length === size &&
      value.shape.length === shape.length &&
      value.shape.every((n, i) => n === shape[i]),
    `${node.op} gave a tensor of shape [${value.shape.join(', ')}] with ${value.data.length} elements, expected [${shape.join(', ')}]`,
  );
  return value;
};

function runRegion(region: Graph, inputs: readonly Tensor[], rank: RankBinding): readonly Tensor[] {
  const given = new Map(region.inputs.map((v, i) => [inputName(v), inputs[i]!]));
  const outputs = interpret(region, { ranks: [rank], lanes: [0] }, (name) => given.get(name)!);
  return region.outputs.map(({ name }) => outputs.get(name)![0]!);
}

/** Ranks that take part together in a collective over an axis. */
function groupsOf(mesh: Mesh, axis: Axis | undefined): number[][] {
  if (axis === 'world') return [mesh.ranks.map((_, r) => r)];
  const lanes = new Map<number, number[]>();
  mesh.lanes.forEach((lane, r) => lanes.set(lane, [...(lanes.get(lane) ?? []), r]));
  return [...lanes.values()];
}
