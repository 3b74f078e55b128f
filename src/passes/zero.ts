import { z } from 'zod';
import { invariant } from '../errors.js';
import { builderAt, emit, rebuildNode } from '../ir/build.js';
import {
  inputName,
  inputRole,
  makeInput,
  topologicalOrder,
  type Graph,
  type NamedValue,
  type Value,
} from '../ir/graph.js';
import { scalarConstant } from '../ir/ops/define.js';
import { tiledOperand } from '../ir/ops/tiled.js';
import { dim, splitOn, tensorType, type Type } from '../ir/type.js';
import { gradientName } from './autodiff.js';
import { definePass } from './pass.js';

/** What the update program is made from: the trained parameters and how to step. */
export interface UpdateSpec {
  readonly parameters: readonly {
    readonly name: string;
    readonly type: Type;
    readonly tiedTo?: { readonly name: string; readonly transposed: boolean };
  }[];
  readonly beta1: number;
  readonly beta2: number;
  readonly eps: number;
  readonly weightDecay: number;
  /** Global norm to which gradients are clipped; 0: not at all. */
  readonly clipNorm: number;
  readonly zeroStage: 0 | 1;
  /** How large parameters step; default {@link LARGE}. */
  readonly large?: LargeSteps;
}

/** Parameters of more than `above` elements step in tiles of about `tile`: a step makes five values as large on its way. */
export interface LargeSteps {
  readonly above: number;
  readonly tile: number;
}

const LARGE: LargeSteps = { above: 2 ** 24, tile: 2 ** 20 };

const b = builderAt('update');
const f32 = (dims: Type['dims'], pending?: 'world'): Type => tensorType('f32', dims, pending);
const scalar = (name: string, pending?: 'world'): Value => makeInput(name, 'scalar', f32([], pending));

/** Splits dim 0 of a parameter over the world; scalars stay whole. */
const sharded = (type: Type): Type =>
  type.dims.length === 0 ? type : f32([dim(type.dims[0]!.size, splitOn('world')), ...type.dims.slice(1)]);

/**
 * The program that ends a step. Gradients arrive as sums pending over the world (a group's {U:sp} is
 * {U:world} across groups) of the *sum* of token losses; dividing by the global token count makes them
 * those of the mean, whatever the plan was. ZeRO stage 0 all-reduces them and every rank steps on the
 * whole; stage 1 (arXiv 1910.02054) reduce-scatters, steps on shards with sharded m and v, and gathers
 * the parameters. The norm counts each logical parameter once; a tied copy takes the primary's values.
 */
export function buildUpdate(spec: UpdateSpec): Graph {
  const primaries = spec.parameters.filter((p) => p.tiedTo === undefined);
  const stage1 = spec.zeroStage === 1;
  const place = (type: Type): Type => (stage1 ? sharded(type) : type);
  const gradients = new Map(
    spec.parameters.map((p) => [
      p.name,
      makeInput(gradientName(p.name), 'gradient', f32(p.type.dims, 'world')),
    ]),
  );
  const copiesOf = new Map<string, UpdateSpec['parameters'][number][]>();
  for (const q of spec.parameters)
    if (q.tiedTo !== undefined)
      copiesOf
        .set(q.tiedTo.name, copiesOf.get(q.tiedTo.name) ?? [])
        .get(q.tiedTo.name)!
        .push(q);
  const summed = primaries.map((p) => {
    const copies = copiesOf.get(p.name) ?? [];
    return copies.reduce((sum, q) => {
      const own = gradients.get(q.name)!;
      return b.one('add', [sum, q.tiedTo!.transposed ? b.one('transpose', [own], { perm: [1, 0] }) : own]);
    }, gradients.get(p.name)!);
  });
  const [count, lr, c1, c2] = [
    scalar('count', 'world'),
    scalar('lr'),
    scalar('correction1'),
    scalar('correction2'),
  ];
  const settledCount = b.one('all_reduce', [count], { axis: 'world' });
  const settled = settleGradients(summed, stage1);
  const perToken = b.one('reciprocal', [b.one('maximum', [settledCount, scalarConstant(b, 1)])]);
  // Gradients of the mean loss are never whole tensors of their own: both factors go into the step at once.
  const norm = b.one('mul', [globalNorm(settled), perToken]);
  const clip = b.one('clip_factor', [norm], { max_norm: spec.clipNorm });
  const factor = b.one('mul', [perToken, clip]);
  const hyper = { beta1: spec.beta1, beta2: spec.beta2, eps: spec.eps, decay: spec.weightDecay };
  const inputs = { parameters: [] as Value[], m: [] as Value[], v: [] as Value[] };
  const stepped = primaries.map((p, i) => {
    const own = makeInput(p.name, 'parameter', f32(p.type.dims));
    const [m, v] = ['m', 'v'].map((kind) => makeInput(`${kind}/${p.name}`, 'state', place(f32(p.type.dims))));
    inputs.parameters.push(own);
    inputs.m.push(m!);
    inputs.v.push(v!);
    const local = stage1 && p.type.dims.length > 0 ? b.one('shard', [own], { axis: 'world' }) : own;
    const operands = [local, settled[i]!, m!, v!, factor, lr, c1, c2];
    const rows = tileRows(p.type, spec.large ?? LARGE);
    return rows === undefined ? adamwStep(operands, hyper) : tiledStep(operands, hyper, rows);
  });
  const whole = gatherParameters(stepped.map((r) => r[0]!));
  const outputs: NamedValue[] = primaries.flatMap((p, i) => [
    { name: `param/${p.name}`, value: whole[i]! },
    { name: `m/${p.name}`, value: stepped[i]![1]! },
    { name: `v/${p.name}`, value: stepped[i]![2]! },
  ]);
  const updated = new Map(primaries.map((p, i) => [p.name, whole[i]!]));
  for (const copy of spec.parameters.filter((p) => p.tiedTo !== undefined)) {
    const source = updated.get(copy.tiedTo!.name);
    invariant(source !== undefined, `${copy.name} is tied to ${copy.tiedTo!.name}, which is not trained`);
    outputs.push({
      name: `param/${copy.name}`,
      value: copy.tiedTo!.transposed
        ? b.one('transpose', [source], { perm: [1, 0] })
        : b.one('reshape', [source], { shape: shapeOf(source) }),
    });
  }
  outputs.push({ name: 'grad_norm', value: norm }, { name: 'tokens', value: settledCount });
  return {
    name: 'update',
    axes: ['sp', 'world'],
    inputs: [...gradients.values(), ...inputs.parameters, ...inputs.m, ...inputs.v, count, lr, c1, c2],
    outputs,
  };
}

type Hyper = Readonly<Record<'beta1' | 'beta2' | 'eps' | 'decay', number>>;

/** @param operands parameter, gradient, m, v, factor of the gradient, lr, correction1, correction2 */
function adamwStep(operands: readonly Value[], hyper: Hyper): readonly Value[] {
  const [own, gradient, m, v, factor, ...scalars] = operands as [Value, Value, Value, Value, Value];
  return b('adamw', [own, b.one('mul', [gradient, factor]), m, v, ...scalars], hyper);
}

/** The same, some rows at a time. */
function tiledStep(operands: readonly Value[], hyper: Hyper, tile: number): readonly Value[] {
  const slice = operands.map((value) => (value.type.dims.length === 0 ? -1 : 0));
  const inputs = operands.map((value, i) => makeInput(`x${i}`, 'data', tiledOperand(value.type, slice[i]!)));
  const outputs = adamwStep(inputs, hyper).map((value, i) => ({ name: `y${i}`, value }));
  const region: Graph = { name: 'step', axes: ['sp', 'world'], inputs, outputs };
  const results = outputs.map(() => 'concat');
  return emit('tiled', operands, { tile, slice, results }, { loc: 'update', region });
}

/** Rows of the tiles in which a parameter steps; undefined where it steps at once. */
function tileRows({ dims }: Type, { above, tile }: LargeSteps): number | undefined {
  const sizes = dims.map((d) => d.size.terms[0]?.coefficient ?? 0);
  const elements = sizes.reduce((product, n) => product * n, 1);
  if (sizes.length === 0 || elements <= above) return undefined;
  return Math.max(1, Math.floor((tile * sizes[0]!) / elements));
}

const shapeOf = (value: Value): (number | Value['type']['dims'][number]['size'])[] =>
  value.type.dims.map((d) => d.size.terms[0]?.coefficient ?? 0);

/** All gradients in one collective. */
function settleGradients(pending: readonly Value[], stage1: boolean): readonly Value[] {
  const isScattered = (g: Value): boolean => stage1 && g.type.dims.length > 0;
  const scattered = inOneCollective('reduce_scatter', pending.filter(isScattered));
  const reduced = inOneCollective(
    'all_reduce',
    pending.filter((g) => !isScattered(g)),
  );
  return pending.map((g) => (isScattered(g) ? scattered : reduced).get(g)!);
}

/** What becomes of each value. */
function inOneCollective(op: string, values: readonly Value[]): ReadonlyMap<Value, Value> {
  if (values.length === 0) return new Map();
  const results = b(op, values, { axis: 'world' });
  return new Map(values.map((value, i) => [value, results[i]!]));
}

function gatherParameters(stepped: readonly Value[]): readonly Value[] {
  const gathered = inOneCollective(
    'all_gather',
    stepped.filter((v) => v.type.dims[0]?.split !== undefined),
  );
  return stepped.map((v) => gathered.get(v) ?? v);
}

/** √Σ‖g‖² over all parameters, shards added up over the world. */
function globalNorm(gradients: readonly Value[]): Value {
  const squares = gradients.map((g) => b.one('sum_squares', [g]));
  const sum = (values: readonly Value[]): Value | undefined =>
    values.length === 0 ? undefined : values.reduce((total, v) => b.one('add', [total, v]));
  const pending = sum(squares.filter((s) => s.type.pending !== undefined));
  const local = sum(squares.filter((s) => s.type.pending === undefined));
  const parts = [pending && b.one('all_reduce', [pending], { axis: 'world' }), local].filter(
    (v) => v !== undefined,
  );
  return b.one('sqrt', [sum(parts)!]);
}

const options = z.strictObject({
  /** Parameters that every rank keeps only a share of, gathered where they are used (ZeRO stage 3). */
  shard: z.array(z.string()).default([]),
});

/** Placing parameters `@world` for the train program; its VJP, a reduce-scatter, shards the gradients too. */
export const zero = definePass({
  name: 'zero',
  doc: 'ZeRO (arXiv 1910.02054): places the named parameters @world and gathers them where they are used; the gradients then come out reduce-scattered. Stages 0 and 1 leave this program alone and shape the update program.',
  requires: ['placed'],
  ensures: [],
  numerics: 'reordered',
  options,
  run: (graph, { shard }) => {
    const chosen = new Set(shard);
    const placed = new Map<Value, Value>();
    const inputs = graph.inputs.map((value) => {
      if (inputRole(value) !== 'parameter' || !chosen.has(inputName(value)) || value.type.dims.length === 0)
        return value;
      const { name, role, ...rest } = value.node.attrs;
      const own = makeInput(name as string, role as 'parameter', sharded(value.type), rest, value.node.loc);
      placed.set(value, builderAt(value.node.loc).one('all_gather', [own], { axis: 'world' }));
      return own;
    });
    if (placed.size === 0) return graph;
    const rebuilt = new Map<Value, Value>(placed);
    for (const node of topologicalOrder(graph)) {
      if (node.op === 'input') {
        if (!rebuilt.has(node.results[0]!)) rebuilt.set(node.results[0]!, node.results[0]!);
        continue;
      }
      const operands = node.operands.map((v) => rebuilt.get(v)!);
      const results = operands.every((v, i) => v === node.operands[i])
        ? node.results
        : rebuildNode(node, operands);
      results.forEach((v, i) => rebuilt.set(node.results[i]!, v));
    }
    return {
      ...graph,
      inputs,
      outputs: graph.outputs.map(({ name, value }) => ({ name, value: rebuilt.get(value)! })),
    };
  },
});
