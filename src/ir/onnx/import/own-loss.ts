/**
 * A loss that the model computes itself, in an output: exporters give one where a model was exported with its labels.
 * ithaca computes losses tile by tile and over packed documents, so it takes the model's own only for what it says: the
 * part of the graph from the logits to the loss is evaluated on sequences of labels, some of them ignored, and
 * compared with the losses ithaca has. Batches of two and more tell a mean of means from a mean.
 */
import { UserError } from '../../../errors.js';
import { IGNORED_LABEL } from '../../ops/loss.js';
import { isFloat } from '../dtype.js';
import { createEvaluator, subgraphOf, type Subgraph } from '../evaluate.js';
import type { OnnxDtype, OnnxModel, OnnxNode, OnnxValueInfo, TensorValue } from '../model.js';
import { producersOf } from '../producers.js';
import type { Classified } from './classify.js';
import { typed } from './evaluate.js';
import { isLabels, roleOf } from './inputs.js';
import { spendSized } from './sized.js';

export type OwnLossKind = 'next-token' | 'aligned' | 'document-classification' | 'regression';

export type OwnLoss = {
  /** The output that holds it. */
  readonly output: string;
} & (
  | {
      readonly kind: OwnLossKind;
      /** The value it is computed from. */
      readonly logits: string;
      readonly proof: string;
    }
  | { /** Why it is not recognised. */ readonly unknown: string }
);

/** The logits of a model, as ithaca sees them. */
export interface LogitsFacts {
  readonly name: string;
  readonly dtype: OnnxDtype;
  readonly width: number;
  /** Whether a sequence has one row of them. */
  readonly pooled: boolean;
}

const LENGTHS: readonly number[] = [2, 3, 5, 8, 13];
const BATCHES: readonly number[] = [2, 3];
/** More of float32 sums over a vocabulary than this is another loss. */
const TOLERANCE = 1e-4;
const MAX_BYTES = 1 << 26;
const KIND_TEXT: Readonly<Record<OwnLossKind, string>> = {
  'next-token': 'the mean cross entropy of the labels of next tokens',
  aligned: 'the mean cross entropy of the labels of tokens themselves',
  'document-classification': 'the mean cross entropy of the labels of sequences',
  regression: 'the mean squared error of labels',
};

/** The output that looks like a loss: a float of no dims, or one called so. */
export function lossOutput({ outputs }: OnnxModel): OnnxValueInfo | undefined {
  const floats = outputs.filter(({ elemType }) => elemType !== undefined && isFloat(elemType));
  return (
    floats.find(({ name }) => /(^|[/_.])loss$/i.test(name)) ??
    floats.find(({ dims }) => dims !== undefined && dims.length === 0)
  );
}

/** Ops that give the elements of their first operand. */
const MOVES = new Set([
  'Reshape',
  'Flatten',
  'Squeeze',
  'Unsqueeze',
  'Transpose',
  'Slice',
  'Cast',
  'Identity',
]);
const ENDS = new Set(['SoftmaxCrossEntropyLoss', 'LogSoftmax']);

/** The value that a loss takes for logits, where the model does not give them out; undefined: none is found. */
export function logitsBehind(model: OnnxModel, loss: string): string | undefined {
  const producers = producersOf(model.nodes);
  const seen = new Set<string>();
  const pending = [loss];
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    const node = seen.has(name) ? undefined : producers.get(name);
    seen.add(name);
    if (node === undefined) continue;
    if (!ENDS.has(node.opType)) for (const input of node.inputs) pending.push(input);
    else return sources(producers, node.inputs[0]!).at(-1);
  }
  return undefined;
}

/** A value and those it was moved from. */
function sources(
  producers: ReadonlyMap<string, OnnxNode>,
  name: string,
  ops: ReadonlySet<string> = MOVES,
): readonly string[] {
  const found = [name];
  for (;;) {
    const node = producers.get(found.at(-1)!);
    if (node === undefined || !ops.has(node.opType) || found.length > 64) return found;
    found.push(node.inputs[0]!);
  }
}

/** What the loss among the outputs is; undefined: there is none. */
export async function ownLossOf(
  model: OnnxModel,
  classified: Classified,
  logits: LogitsFacts,
): Promise<OwnLoss | undefined> {
  const output = lossOutput(model)?.name;
  if (output === undefined || output === logits.name) return undefined;
  // Losses are often taken of logits before they are cast for the output.
  const cuts = sources(producersOf(model.nodes), logits.name, new Set(['Cast', 'Identity']));
  const part = subgraphOf(model, [output], new Set(cuts));
  const { missingInputs, initializers } = part;
  const missing = new Set(missingInputs);
  const given = model.inputs.filter(({ name }) => missing.has(name));
  const labels = given.filter(isLabels);
  const [first] = labels;
  const unknown = (why: string): OwnLoss => ({ output, unknown: why });
  if (first === undefined || labels.length > 1)
    return unknown(labels.length > 1 ? 'it has several labels' : 'it has no labels');
  if (given.some((input) => roleOf(input) === 'tokens'))
    return unknown(`it is not computed from '${logits.name}' and labels alone`);
  if (initializers.some(({ elementCount }) => elementCount > 4096))
    return unknown('it has weights of its own');
  if (logits.dtype !== 'f32') return unknown(`its logits are ${logits.dtype}, which are not evaluated`);
  const kinds = kindsFor(logits, first);
  if (kinds.length === 0)
    return unknown(
      `no loss that ithaca has compares [${logits.pooled ? 'batch' : 'batch, sequence'}, ${logits.width}] with labels ${first.elemType ?? 'of no type'}[${first.dims?.join(', ') ?? '…'}]`,
    );
  try {
    const from = { model, classified, part, output, cuts, given, labels: first };
    return await tried(from, logits, kinds);
  } catch (error) {
    if (error instanceof UserError) return unknown(`it cannot be evaluated (${error.message})`);
    throw error;
  }
}

/** A loss, and the part of the model that computes it from `cuts` and inputs. */
interface LossPart {
  readonly model: OnnxModel;
  readonly classified: Classified;
  readonly part: Subgraph;
  readonly output: string;
  readonly cuts: readonly string[];
  readonly given: readonly OnnxValueInfo[];
  readonly labels: OnnxValueInfo;
}

async function tried(
  { model, classified, part, output, cuts, given, labels }: LossPart,
  logits: LogitsFacts,
  possible: readonly OwnLossKind[],
): Promise<OwnLoss> {
  const dtypes = new Map([
    ...cuts.map((name) => [name, logits.dtype] as const),
    ...given.map(({ name, elemType }) => [name, elemType!] as const),
  ]);
  const evaluator = await createEvaluator(model, [output], dtypes, { maxBytes: MAX_BYTES, maxNodes: 1000 });
  let kinds = possible;
  const random = randomNumbers();
  let trials = 0;
  try {
    for (const length of LENGTHS)
      for (const batch of BATCHES) {
        if (batch * length * logits.width * 4 > MAX_BYTES) continue;
        const trial = makeTrial(logits, labels, batch, length, random);
        const feeds = new Map<string, TensorValue>(cuts.map((name) => [name, trial.logits]));
        for (const input of given)
          feeds.set(input.name, input === labels ? trial.labels : plain(input, trial));
        spendSized(classified, part, feeds);
        const found = Number((await evaluator.run(feeds)).get(output)!.data[0]);
        const expected = kinds.map((kind) => [kind, expectedLoss(kind, trial)] as const);
        kinds = expected.flatMap(([kind, loss]) =>
          Math.abs(found - loss) <= TOLERANCE * Math.max(1, Math.abs(loss)) ? [kind] : [],
        );
        trials++;
        if (kinds.length === 0) return { output, unknown: missText(found, expected, trial) };
      }
  } finally {
    await evaluator.release();
  }
  const [kind, ...others] = kinds;
  if (kind === undefined || others.length > 0 || trials === 0)
    return { output, unknown: 'its labels fit no loss that ithaca has' };
  return {
    output,
    kind,
    logits: logits.name,
    proof: `${KIND_TEXT[kind]}, as it is in all ${trials} batches tried`,
  };
}

function missText(
  found: number,
  expected: readonly (readonly [OwnLossKind, number])[],
  { batch, length }: Trial,
): string {
  const others = expected.map(([kind, loss]) => `${KIND_TEXT[kind]} is ${loss.toPrecision(6)}`);
  return `on ${batch} sequences of ${length} tokens it is ${found.toPrecision(6)}, where ${others.join(' and ')}`;
}

/** The losses that can compare these logits with labels of that type and rank. */
function kindsFor({ pooled, width }: LogitsFacts, { elemType, dims }: OnnxValueInfo): readonly OwnLossKind[] {
  if (elemType === undefined) return [];
  if (!isFloat(elemType)) return pooled ? ['document-classification'] : ['next-token', 'aligned'];
  // Labels of sequences that are numbers, one each: only a single column of logits is compared with them as they are.
  return pooled && (width === 1 || (dims?.length ?? 2) > 1) ? ['regression'] : [];
}

/** Logits of [batch, length, width], or [batch, width] of sequences, and labels of all but the last dim, or all. */
interface Trial {
  readonly batch: number;
  readonly length: number;
  readonly width: number;
  readonly logits: TensorValue;
  readonly labels: TensorValue;
}

function makeTrial(
  { width, pooled }: LogitsFacts,
  { elemType, dims }: OnnxValueInfo,
  batch: number,
  length: number,
  random: () => number,
): Trial {
  const rows = pooled ? [batch] : [batch, length];
  const count = rows.reduce((product, n) => product * n, 1);
  const logits = Float32Array.from({ length: count * width }, () => 4 * random() - 2);
  const isTarget = isFloat(elemType!);
  const elements = isTarget ? count * width : count;
  const values = Array.from({ length: elements }, (_, i) => {
    if (isTarget) return Math.fround(2 * random() - 1);
    // A label that counts stands where every loss of tokens sees it.
    const ignored = !pooled && i % length !== length - 1 && random() < 0.3;
    return ignored ? IGNORED_LABEL : Math.floor(random() * width);
  });
  // Exports of one target often declare no dim for it.
  const labelDims = isTarget && (width > 1 || (dims?.length ?? 1) > rows.length) ? [...rows, width] : rows;
  return {
    batch,
    length,
    width,
    logits: { dtype: 'f32', dims: [...rows, width], data: logits },
    labels: { dtype: elemType!, dims: labelDims, data: typed(elemType!, values) },
  };
}

/** Masks of ones and positions. */
function plain(input: OnnxValueInfo, { batch, length }: Trial): TensorValue {
  const elements = Array.from({ length: batch * length }, (_, i) =>
    roleOf(input) === 'positions' ? i % length : 1,
  );
  const dtype = input.elemType!;
  return { dtype, dims: [batch, length], data: typed(dtype, elements) };
}

function expectedLoss(kind: OwnLossKind, { logits, labels, batch, length, width }: Trial): number {
  const [z, y] = [Array.from(logits.data, Number), Array.from(labels.data, Number)];
  if (kind === 'regression') return z.reduce((sum, x, i) => sum + (x - y[i]!) ** 2, 0) / z.length;
  const rows = kind === 'document-classification' ? 1 : length;
  const shift = kind === 'next-token' ? 1 : 0;
  let [sum, count] = [0, 0];
  for (let row = 0; row < batch * rows; row++) {
    const label = (row % rows) + shift < rows ? y[row + shift]! : IGNORED_LABEL;
    if (label === IGNORED_LABEL) continue;
    const own = z.slice(row * width, (row + 1) * width);
    const max = own.reduce((a, b) => Math.max(a, b));
    sum += max + Math.log(own.reduce((total, x) => total + Math.exp(x - max), 0)) - own[label]!;
    count++;
  }
  return sum / count;
}

/** In [0, 1), the same in every run. */
function randomNumbers(): () => number {
  let state = 42;
  return () => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return state / 2 ** 32;
  };
}
