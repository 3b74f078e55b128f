import { z } from 'zod';
import { UserError } from '../errors.js';
import { builderAt, emit } from '../ir/build.js';
import {
  inputRole,
  makeInput,
  topologicalOrder,
  usersOf,
  type Graph,
  type Node,
  type Value,
} from '../ir/graph.js';
import { TypeMismatch } from '../ir/op.js';
import { opDef } from '../ir/ops/index.js';
import { constantOf } from '../ir/size.js';
import { dim, printType, sameType, splitOn, tensorType, type Dim, type Type } from '../ir/type.js';
import { definePass, type PassContext } from './pass.js';

const isTokens = (d: Dim): boolean => d.size.key === 'S';

/** Data is split over the ranks of a group by tokens; what attention needs of every token stays whole. */
const WHOLE_INPUTS = new Set(['documents']);

function placeInput(value: Value): Value {
  const { attrs, loc } = value.node;
  const name = attrs['name'] as string;
  if (inputRole(value) !== 'data' || WHOLE_INPUTS.has(name)) return value;
  const dims = value.type.dims.map((d) => (isTokens(d) ? dim(d.size, splitOn('sp')) : d));
  const { name: _name, role, ...rest } = attrs;
  return makeInput(name, role as 'data', tensorType(value.type.dtype, dims), rest, loc);
}

/** The body of a `tiled` op with its tile rows split like the operands it is given. */
function placeRegion(region: Graph, operands: readonly Value[], slices: readonly number[]): Graph {
  const placed = new Map<Value, Value>();
  const inputs = region.inputs.map((value, i) => {
    const { name, role, ...rest } = value.node.attrs;
    const dims = value.type.dims.map((d, at) =>
      at === slices[i] ? { ...d, ...splitOf(operands[i]!.type.dims[at]!) } : d,
    );
    const own = makeInput(
      name as string,
      role as 'data',
      tensorType(value.type.dtype, dims),
      rest,
      value.node.loc,
    );
    placed.set(value, own);
    return own;
  });
  for (const node of topologicalOrder(region)) {
    if (node.op === 'input') continue;
    const operandsHere = node.operands.map((v) => placed.get(v)!);
    emit(node.op, operandsHere, node.attrs, { loc: node.loc, region: node.region }).forEach((v, i) =>
      placed.set(node.results[i]!, v),
    );
  }
  return {
    ...region,
    inputs,
    outputs: region.outputs.map(({ name, value }) => ({ name, value: placed.get(value)! })),
  };
}

const splitOf = (d: Dim): Partial<Dim> => (d.split === undefined ? {} : { split: d.split });

const nodeName = (node: Node): string => (node.loc === undefined ? `(derived ${node.op})` : node.loc);

const mixes = (node: Node, detail: string): UserError =>
  new UserError(
    `ONNX node ${nodeName(node)} mixes tokens: ${node.op} ${detail}`,
    'sequence parallelism and packing allow only attention to look at other tokens; export the model without this op',
  );

/** Brings operands to the placements an op demands: one all-to-all for all that trade tokens for heads. */
function coerce(node: Node, operands: readonly Value[], wanted: readonly Type[]): readonly Value[] {
  const moved = operands.flatMap((v, i) => (sameType(v.type, wanted[i]!) ? [] : [i]));
  if (moved.length === 0) return operands;
  const tradable = moved.every(
    (i) => operands[i]!.type.dims[0]?.split?.axis === 'sp' && wanted[i]!.dims[1]?.split?.axis === 'sp',
  );
  if (!tradable) {
    const i = moved[0]!;
    throw mixes(node, `needs ${printType(wanted[i]!)}, it is given ${printType(operands[i]!.type)}`);
  }
  const heads = constantOf(wanted[0]!.dims[1]!.size)!;
  const exchanged = emit(
    'all_to_all',
    moved.map((i) => operands[i]!),
    { from: 0, to: 1, heads },
    { loc: node.loc },
  );
  return operands.map((v, i) => (moved.includes(i) ? exchanged[moved.indexOf(i)]! : v));
}

/** Results whose tokens are whole and whose heads are split go back to split tokens. */
function restore(node: Node, results: readonly Value[], used: ReadonlySet<number>): readonly Value[] {
  return results.map((value, i) => {
    const { dims } = value.type;
    const away =
      dims[0] !== undefined &&
      isTokens(dims[0]) &&
      dims[0].split === undefined &&
      dims[1]?.split !== undefined;
    if (!away || !used.has(i)) return value;
    return builderAt(node.loc).one('all_to_all', [value], {
      from: 1,
      to: 0,
      heads: constantOf(dims[1]!.size)!,
    });
  });
}

function placeNode(node: Node, operands: readonly Value[], used: ReadonlySet<number>): readonly Value[] {
  const def = opDef(node.op);
  const demanded = def.demands?.({
    types: operands.map((v) => v.type),
    attrs: node.attrs,
    region: node.region,
  });
  const given = demanded === undefined ? operands : coerce(node, operands, demanded);
  const attrs =
    node.op === 'broadcast'
      ? {
          ...node.attrs,
          axes: (node.attrs['shape'] as readonly unknown[]).map((s) =>
            typeof s === 'object' && (s as Dim['size']).key === 'S' ? 'sp' : '',
          ),
        }
      : node.attrs;
  const region = node.region && placeRegion(node.region, given, attrs['slice'] as readonly number[]);
  const results = emit(node.op, given, attrs, { loc: node.loc, region });
  return restore(node, results, used);
}

/** A forward value may be a pending sum only in the loss: anything else has added up over tokens. */
function checkResults(node: Node, operands: readonly Value[], results: readonly Value[]): void {
  if (node.op === 'tiled') return;
  const bad = results.find((r) => r.type.pending !== undefined);
  if (bad !== undefined)
    throw mixes(
      node,
      `sums over tokens (${operands.map((v) => printType(v.type)).join(', ')} gives ${printType(bad.type)})`,
    );
}

export const ulysses = definePass({
  name: 'ulysses',
  doc: 'Splits tokens over sp and trades tokens for heads around attention (arXiv 2309.14509): q, k and v in one all-to-all, the output in another. Refuses, by name, any other op that mixes tokens.',
  requires: ['recognized', 'unplaced'],
  ensures: ['placed'],
  destroys: ['unplaced'],
  numerics: 'exact',
  options: z.strictObject({}),
  run: (graph: Graph, _options, context: PassContext) => {
    const placed = new Map<Value, Value>();
    const users = usersOf(graph);
    const outputs = new Set(graph.outputs.map((o) => o.value));
    for (const node of topologicalOrder(graph)) {
      if (node.op === 'input') {
        placed.set(node.results[0]!, placeInput(node.results[0]!));
        continue;
      }
      const operands = node.operands.map((v) => placed.get(v)!);
      const used = new Set(
        node.results.flatMap((r, i) =>
          outputs.has(r) || users.get(node)!.some((u) => u.operands.includes(r)) ? [i] : [],
        ),
      );
      try {
        const results = placeNode(node, operands, used);
        checkResults(node, operands, results);
        results.forEach((v, i) => placed.set(node.results[i]!, v));
      } catch (error) {
        if (error instanceof TypeMismatch) throw mixes(node, `(${error.message})`);
        throw error;
      }
    }
    context.note('tokens are split over sp; attention trades them for heads');
    return {
      ...graph,
      axes: ['sp', 'world'],
      inputs: graph.inputs.map((v) => placed.get(v)!),
      outputs: graph.outputs.map(({ name, value }) => ({ name, value: placed.get(value)! })),
    };
  },
});
