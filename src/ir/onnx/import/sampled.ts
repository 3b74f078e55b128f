/**
 * A mask at lengths whose whole matrix would not fit: some of its rows, all of its columns, by onnxruntime.
 * Wherever a row number enters the matrix it is replaced by the numbers of the sampled rows.
 */
import { createEvaluator } from '../evaluate.js';
import type { OnnxDtype, OnnxNode, TensorData, TensorValue } from '../model.js';
import { checkEvaluable } from './budget.js';
import type { Classified, ValueFacts } from './classify.js';
import { givenValue, insideOf, indexEvaluator, MAX_VALUE_BYTES } from './evaluate.js';
import { otherId } from './padding.js';
import { isOne, isTokens, sameDims, type Dims } from './shapes.js';

/** Ops that work row by row once their operands hold rows; Gather reads its table in full. */
const ROWWISE = new Set(
  'Add Sub Mul Abs Max Min Equal Less LessOrEqual Greater GreaterOrEqual And Or Not Xor Where Cast Identity Expand Unsqueeze Squeeze Reshape Concat'.split(
    ' ',
  ),
);
const READS = new Set(['GatherND', 'Gather']);
/** Of Where, Expand and the rest: operands that are shapes or axes. */
const SHAPE_OPERAND = new Map([
  ['Expand', 1],
  ['Reshape', 1],
]);

/** How the operands of the matrix part are fed. */
interface Cut {
  /** Vectors along the rows: only the sampled elements. */
  readonly rows: ReadonlySet<string>;
  /** Vectors along the columns, and tables: whole. */
  readonly whole: ReadonlySet<string>;
  /** Shapes of the matrix, its rows to be renumbered. */
  readonly shapes: ReadonlySet<string>;
}

const lengthDims = (dims: Dims): readonly number[] =>
  dims.flatMap((size, i) => (isTokens(size) ? [dims.length - i] : []));

/** @returns undefined when a node of the matrix does not work row by row */
function cutOf(classified: Classified, name: string): Cut | undefined {
  const { facts } = classified;
  const inside = new Set(insideOf(classified, [name]).inside);
  const [rows, whole, shapes] = [new Set<string>(), new Set<string>(), new Set<string>()];
  const isMatrix = (value: string): boolean =>
    inside.has(value) && lengthDims(facts.get(value)!.dims).length === 2;
  for (const node of classified.nodes) {
    const result = node.outputs[0]!;
    if (!isMatrix(result)) continue;
    const reads = READS.has(node.opType);
    if (!reads && !ROWWISE.has(node.opType)) return undefined;
    const row = lengthDims(facts.get(result)!.dims)[0]!;
    for (const [i, operand] of node.inputs.entries()) {
      const own = facts.get(operand);
      if (own === undefined || own.stored !== undefined || isMatrix(operand)) continue;
      if (SHAPE_OPERAND.get(node.opType) === i) {
        if (!isShape(own, facts.get(result)!)) return undefined;
        shapes.add(operand);
      } else if (reads && i === 0) whole.add(operand);
      else if (reads || !addVector(own, operand, node, row, rows, whole)) return undefined;
    }
  }
  const clash = [...rows].some((value) => whole.has(value) || shapes.has(value));
  return clash || !isMatrix(name) ? undefined : { rows, whole, shapes };
}

/** A shape that lists the dims of the result one by one. */
const isShape = (shape: ValueFacts, result: ValueFacts): boolean =>
  shape.ints !== undefined && sameDims(shape.ints, result.dims);

function addVector(
  own: ValueFacts,
  name: string,
  node: OnnxNode,
  row: number,
  rows: Set<string>,
  whole: Set<string>,
): boolean {
  const lengths = lengthDims(own.dims);
  const elsewhere = own.dims.some((size) => !isTokens(size) && !isOne(size));
  if (
    elsewhere ||
    lengths.length > 1 ||
    node.opType === 'Unsqueeze' ||
    node.opType === 'Squeeze' ||
    node.opType === 'Reshape'
  )
    return false;
  if (lengths.length === 1) (lengths[0] === row ? rows : whole).add(name);
  return true;
}

/** @returns rows × length elements, or undefined when the subgraph cannot be cut so */
export async function sampledRows(
  classified: Classified,
  name: string,
  length: number,
  rows: readonly number[],
): Promise<TensorValue | undefined> {
  const cut = cutOf(classified, name);
  if (cut === undefined || rows.length * length * 16 > MAX_VALUE_BYTES) return undefined;
  const vectors = await vectorsAt(classified, [...cut.rows, ...cut.whole], length);
  const feeds = new Map<string, TensorValue>(vectors);
  for (const vector of cut.rows) feeds.set(vector, pickRows(vectors.get(vector)!, rows));
  const { given } = insideOf(classified, [name]);
  for (const value of given)
    if (!feeds.has(value))
      feeds.set(value, givenValue(classified.facts.get(value)!, length, otherId(classified.padding)));
  for (const shape of cut.shapes)
    feeds.set(shape, shapeOf(classified.facts.get(shape)!, length, rows.length));
  checkEvaluable(classified, insideOf(classified, [name]).inside);
  const dtypes = new Map<string, OnnxDtype>([...feeds].map(([value, { dtype }]) => [value, dtype]));
  const evaluator = await createEvaluator(classified.model, [name], dtypes, { maxBytes: MAX_VALUE_BYTES });
  try {
    const value = (await evaluator.run(feeds)).get(name)!;
    return value.data.length === rows.length * length ? value : undefined;
  } finally {
    await evaluator.release();
  }
}

async function vectorsAt(
  classified: Classified,
  names: readonly string[],
  length: number,
): Promise<ReadonlyMap<string, TensorValue>> {
  const evaluator = await indexEvaluator(classified, names);
  try {
    return await evaluator.run(length);
  } finally {
    await evaluator.release();
  }
}

function pickRows({ dtype, dims, data }: TensorValue, rows: readonly number[]): TensorValue {
  const picked = (data as { slice(start: number, end: number): TensorData }).slice(0, rows.length);
  rows.forEach((row, i) => (picked[i] = data[row]!));
  return {
    dtype,
    dims: dims.map((size) => (size === data.length && size > 1 ? rows.length : size)),
    data: picked,
  };
}

/** The known shape at a length, its first S being the number of sampled rows. */
function shapeOf(facts: ValueFacts, length: number, rows: number): TensorValue {
  const value = givenValue(facts, length);
  const lengths = facts.ints!.flatMap((size, i) => (isTokens(size) ? [i] : []));
  value.data[lengths[0]!] = typeof value.data[0] === 'bigint' ? BigInt(rows) : rows;
  return value;
}
