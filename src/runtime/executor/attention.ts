import { invariant } from '../../errors.js';
import { localHeadMap, localSlopes } from '../../ir/ops/attention-heads.js';
import { shardRange } from '../../ir/placement.js';
import { attentionOperands, attentionResults, extrasOf } from '../../package/attention-operands.js';
import type { Instruction, KernelInfo, TileModel } from '../../package/program.js';
import type { RunContext } from './host.js';
import { int64Tensor, makeTensor, type OrtTensor } from './onnx.js';
import { attentionTiles, documentLengths, type AttentionTile } from './tiles.js';
import { rowElements, type Views } from './views.js';

type Attention = Extract<Instruction, { kind: 'attention' | 'attention_vjp' }>;

/** Tables with a column a query head, of which a rank takes its own. */
const TABLES: ReadonlySet<string> = new Set(['bias', 'dbias']);
/** What has a row a key; everything else has a row a query. */
const OF_KEYS: ReadonlySet<string> = new Set(['k', 'v', 'dk', 'dv', 'dk_acc', 'dv_acc']);

/** A tensor of a kernel whose rows are cut for each tile. */
interface Cut {
  readonly name: string;
  readonly data: Float32Array;
  readonly row: number;
  readonly inner: readonly number[];
  readonly ofKeys: boolean;
}

const cutOf = (name: string, data: Float32Array, shape: readonly number[]): Cut => ({
  name,
  data,
  row: rowElements(shape),
  inner: shape.slice(1),
  ofKeys: OF_KEYS.has(name),
});

/** Attention over packed documents, a tile of query rows of one document at a time. */
export function attentionStep(instruction: Attention, kernel: KernelInfo, views: Views) {
  const { operands, results, kind } = instruction;
  const documents = views.array(operands[3]!);
  invariant(documents instanceof Int32Array, 'documents are i32');
  const heads = views.shapeOf(operands[0]!)[1]!;
  const model = modelOf(kernel, views);
  const extras = extrasOf(kernel);
  const fetched = attentionResults(kind, extras).flatMap((name, i) =>
    results[i]! < 0 || TABLES.has(name)
      ? []
      : [cutOf(name, views.floats(results[i]!), views.shapeOf(results[i]!))],
  );
  const accumulated = kind === 'attention' ? [] : sumsOf(instruction, views);
  const wanted = new Set(model.inputs);
  const fed = [
    ...attentionOperands(kind, extras).flatMap((name, i) =>
      wanted.has(name) && !TABLES.has(name)
        ? [cutOf(name, views.floats(operands[i]!), views.shapeOf(operands[i]!))]
        : [],
    ),
    ...accumulated,
  ];
  const constants = headTensors(kernel, model, views);
  const offset = new BigInt64Array(1);
  const offsetTensor: OrtTensor = { type: 'int64', dims: [1], data: offset, location: 'cpu' };
  if (wanted.has('offset')) constants['offset'] = offsetTensor;
  const bias = biasOf(instruction, kernel, model, views);

  return (context: RunContext): void => {
    for (const sum of accumulated) sum.data.fill(0);
    const session = context.session(model);
    const table = bias?.();
    const lengths = lengthsOf(context, documents);
    for (const tile of attentionTiles(kernel, heads, lengths)) {
      const feeds: Record<string, OrtTensor> = { ...constants, ...table?.feeds };
      const fetches: Record<string, OrtTensor> = { ...table?.fetches };
      for (const cut of fed) feeds[cut.name] = cutTensor(cut, tile);
      for (const cut of fetched) fetches[cut.name] = cutTensor(cut, tile);
      offset[0] = BigInt(tile.row - tile.key);
      context.host.nativeSync(() => session.run(feeds, fetches));
    }
    table?.done();
  };
}

const cutTensor = (cut: Cut, tile: AttentionTile): OrtTensor => {
  const [first, rows] = cut.ofKeys ? [tile.key, tile.keys] : [tile.row, tile.rows];
  return makeTensor('f32', cut.data.subarray(first * cut.row, (first + rows) * cut.row), [
    rows,
    ...cut.inner,
  ]);
};

/** dk and dv are summed over the tiles that see a key: each call adds to what is there. */
function sumsOf({ operands, results }: Attention, views: Views): Cut[] {
  return (['dk_acc', 'dv_acc'] as const).map((name, i) => {
    const buffer = results[i + 1]!;
    const shape = views.shapeOf(operands[i + 1]!);
    const size = shape.reduce((product, n) => product * n, 1);
    return cutOf(name, buffer < 0 ? new Float32Array(size) : views.floats(buffer), shape);
  });
}

/** The columns of the relative bias, and of its cotangent, in one run. */
interface BiasRun {
  readonly feeds: Readonly<Record<string, OrtTensor>>;
  readonly fetches: Readonly<Record<string, OrtTensor>>;
  /** Writes the cotangent: zeros for the heads of other ranks. */
  readonly done: () => void;
}

/** Its values change from step to step: a rank's columns are taken anew in every run. */
function biasOf(
  { kind, operands, results }: Attention,
  kernel: KernelInfo,
  model: TileModel,
  views: Views,
): (() => BiasRun) | undefined {
  const extras = extrasOf(kernel);
  if (!extras.bias) return undefined;
  const { degree, index } = views.bound.rank.sp;
  const { start, end } = shardRange(kernel.heads, degree, index);
  const table = views.floats(operands[attentionOperands(kind, extras).indexOf('bias')]!);
  const at = model.outputs.includes('dbias') ? results[attentionResults(kind, extras).indexOf('dbias')]! : -1;
  const rows = table.length / kernel.heads;
  const columns = (data: Float32Array): OrtTensor => makeTensor('f32', data, [rows, end - start]);
  /** Visits every entry of the own columns: its place in the whole table, and in them. */
  const each = (visit: (whole: number, own: number) => void): void => {
    for (let row = 0, own = 0; row < rows; row++)
      for (let head = start; head < end; head++) visit(row * kernel.heads + head, own++);
  };
  return (): BiasRun => {
    const values = new Float32Array(rows * (end - start));
    each((whole, own) => (values[own] = table[whole]!));
    const feeds = { bias: columns(values) };
    if (!model.outputs.includes('dbias')) return { feeds, fetches: {}, done: () => {} };
    const sums = new Float32Array(values.length);
    return {
      feeds: { ...feeds, dbias_acc: columns(sums) },
      fetches: { dbias: columns(sums) },
      done: () => {
        if (at < 0) return;
        const result = views.floats(at).fill(0);
        each((whole, own) => (result[whole] = sums[own]!));
      },
    };
  };
}

/** Whether every local K/V head serves the same number of neighbouring query heads. */
const isFolded = (map: readonly number[]): boolean => {
  const groups = map.length === 0 ? 1 : map.at(-1)! + 1;
  return map.every((kv, h) => kv === Math.floor((h * groups) / map.length) && map.length % groups === 0);
};

/** The model for this rank's heads. */
function modelOf(kernel: KernelInfo, views: Views): TileModel {
  const { degree, index } = views.bound.rank.sp;
  const folded = isFolded(localHeadMap(kernel.heads, kernel.kvHeads, degree, index));
  return folded ? kernel : (kernel.mapped ?? kernel);
}

function headTensors(kernel: KernelInfo, model: TileModel, views: Views): Record<string, OrtTensor> {
  const { degree, index } = views.bound.rank.sp;
  const map = localHeadMap(kernel.heads, kernel.kvHeads, degree, index);
  const tensors: Record<string, OrtTensor> = {};
  if (model.inputs.includes('head_map')) tensors['head_map'] = int64Tensor(map);
  if (model.inputs.includes('slopes')) {
    const slopes = Float32Array.from(localSlopes(kernel.slopes ?? [], degree, index));
    tensors['slopes'] = makeTensor('f32', slopes, [slopes.length]);
  }
  if (model.inputs.includes('head_onehot')) {
    const kvHeads = map.length === 0 ? 0 : map.at(-1)! + 1;
    const onehot = new Float32Array(kvHeads * map.length);
    map.forEach((kv, h) => (onehot[kv * map.length + h] = 1));
    tensors['head_onehot'] = makeTensor('f32', onehot, [kvHeads, map.length]);
  }
  return tensors;
}

function lengthsOf(context: RunContext, documents: Int32Array): readonly number[] {
  const known = context.lengths.get(documents) ?? documentLengths(documents);
  context.lengths.set(documents, known);
  return known;
}
