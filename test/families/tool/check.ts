/** One exported model against what PyTorch computed on it: compiled, differentiated, trained, written back. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import * as ort from 'onnxruntime-node';
import { compileModel } from '../../../src/compile/compile.js';
import { parseConfig } from '../../../src/config.js';
import { UserError } from '../../../src/errors.js';
import { SafetensorsReader } from '../../../src/files/safetensors.js';
import { weightValues, writeTrainedModel } from '../../../src/ir/onnx/write.js';
import { openPackage, type Package } from '../../../src/package/read.js';
import type { Document } from '../../../src/runtime/data/document.js';
import type { MicroBatchPlan } from '../../../src/runtime/session/plan.js';
import { TrainingSession } from '../../../src/runtime/session/session.js';
import { crossEntropy } from '../../support/cross-entropy.js';
import { gradientError } from '../../support/tiny.js';

/** What `oracle.json` holds. */
export interface FamilyOracle {
  readonly kind: 'next-token' | 'masked-lm';
  /** Mean over `count` predicted tokens of all documents, each run alone. */
  readonly loss: number;
  readonly count: number;
  readonly documents: number;
  /** Opset of the file, which may not be the one that was asked for. */
  readonly opset: number;
  /** Parameters with gradients of their own that no initializer holds as they are. */
  readonly unmapped: readonly string[];
  readonly initializers: Readonly<Record<string, MappedInitializer>>;
  /** Parameters and their sizes, in the order that places of `spread` initializers go on counting in. */
  readonly spread?: readonly (readonly [param: string, size: number])[];
}

export interface MappedInitializer {
  readonly param: string;
  /**
   * `mapped`: `map/<initializer>` of the tensors gives the place of each element in the parameter; `spread`: in all
   * parameters of the list `spread`, end to end.
   */
  readonly layout: 'same' | 'transposed' | 'mapped' | 'spread';
  readonly shape: readonly number[];
}

export interface LoadedOracle {
  readonly json: FamilyOracle;
  readonly documents: readonly Document[];
  /** By torch parameter. */
  readonly gradients: ReadonlyMap<string, Float64Array>;
  /** Gradients by initializer summed into gradients by torch parameter. */
  toTorch(byInitializer: ReadonlyMap<string, ArrayLike<number>>, scale?: number): Map<string, Float64Array>;
}

export function loadFamily(folder: string): LoadedOracle {
  const json = Object.assign(
    { kind: 'next-token', opset: 20, unmapped: [] },
    JSON.parse(readFileSync(path.join(folder, 'oracle.json'), 'utf8')),
  ) as FamilyOracle;
  const tensors = SafetensorsReader.open(path.join(folder, 'oracle.safetensors'));
  try {
    const numbers = (tensor: string): Float64Array =>
      Float64Array.from(tensors.read(tensor) as ArrayLike<number | bigint>, Number);
    const documents = Array.from({ length: json.documents }, (_, d): Document => ({
      ids: Int32Array.from(numbers(`doc${d}.ids`)),
      labels: Int32Array.from(numbers(`doc${d}.targets`)),
      origin: 'oracle',
    }));
    const gradients = new Map(
      [...tensors.tensors.keys()]
        .filter((key) => key.startsWith('grad/'))
        .map((key) => [key.slice(5), numbers(key)] as const),
    );
    const places = new Map(
      Object.keys(json.initializers)
        .filter((name) => ['mapped', 'spread'].includes(json.initializers[name]!.layout))
        .map((name) => [name, numbers(`map/${name}`)] as const),
    );
    return { json, documents, gradients, toTorch: torchGradients(json, gradients, places) };
  } finally {
    tensors.close();
  }
}

function torchGradients(
  json: FamilyOracle,
  gradients: ReadonlyMap<string, Float64Array>,
  places: ReadonlyMap<string, Float64Array>,
): LoadedOracle['toTorch'] {
  return (byInitializer, scale = 1) => {
    const sums = new Map<string, Float64Array>();
    const sumOf = (param: string): Float64Array | undefined => {
      const expected = gradients.get(param);
      if (expected === undefined) return undefined;
      const sum = sums.get(param) ?? new Float64Array(expected.length);
      sums.set(param, sum);
      return sum;
    };
    for (const [name, { param, layout, shape }] of Object.entries(json.initializers)) {
      const gradient = byInitializer.get(name);
      if (gradient === undefined) continue;
      const at = places.get(name);
      const [rows = 1, columns = 1] = shape;
      if (layout === 'spread') addSpread(gradient, at!, json.spread ?? [], sumOf, scale);
      else {
        const sum = sumOf(param);
        if (sum === undefined) continue;
        for (let i = 0; i < gradient.length; i++)
          sum[layout === 'transposed' ? (i % columns) * rows + Math.floor(i / columns) : (at?.[i] ?? i)]! +=
            gradient[i]! * scale;
      }
    }
    return sums;
  };
}

function addSpread(
  gradient: ArrayLike<number>,
  places: Float64Array,
  parameters: readonly (readonly [param: string, size: number])[],
  sumOf: (param: string) => Float64Array | undefined,
  scale: number,
): void {
  let start = 0;
  for (const [param, size] of parameters) {
    const end = start + size;
    places.forEach((place, i) => {
      if (place < start || place >= end) return;
      const sum = sumOf(param);
      if (sum !== undefined) sum[place - start]! += gradient[i]! * scale;
    });
    start = end;
  }
}

/** What became of an export. */
export type Outcome =
  | {
      readonly result: 'trains';
      readonly lossError: number;
      readonly gradientError: number;
      /** Parameters of one element, which are left as they are. */
      readonly untrained: number;
      /** What attention was recognised as, each kind once. */
      readonly attention: readonly string[];
      readonly notes: readonly string[];
    }
  | { readonly result: 'refused'; readonly message: string; readonly hint?: string | undefined }
  /** The file holds other tensors than the model's parameters, so that gradients cannot be compared. */
  | { readonly result: 'folded'; readonly message: string }
  /** Anything that must not be: the wrong numbers, or an error that is not the user's. */
  | { readonly result: 'wrong'; readonly message: string };

/** Bars of the main job. */
export const LOSS_BAR = 1e-5;
export const GRADIENT_BAR = 1e-4;

/** Compiles and trains a family's export on 1 rank and on 4 in one group, and writes it back. */
export async function checkFamily(folder: string): Promise<Outcome> {
  const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-families-'));
  try {
    return await outcomeOf(folder, scratch);
  } catch (error) {
    if (error instanceof UserError) return { result: 'refused', message: error.message, hint: error.hint };
    return { result: 'wrong', message: error instanceof Error ? error.message : String(error) };
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Gradients that none of the file's tensors carry cannot be compared, so that nothing is claimed. */
async function outcomeOf(folder: string, scratch: string): Promise<Outcome> {
  const source = path.join(folder, 'model.onnx');
  const oracle = loadFamily(folder);
  const out = path.join(scratch, 'model.ithaca');
  await compileModel(source, out, {
    config: parseConfig(
      { loss: { kind: oracle.json.kind }, optimizer: { weightDecay: 0.1, clipNorm: 0 } },
      'families',
    ),
    weights: true,
    replace: false,
  });
  const pkg = await openPackage(out);
  const [first, ...others] = oracle.json.unmapped.filter((name) => oracle.gradients.get(name)?.length !== 1);
  if (first !== undefined)
    return {
      result: 'folded',
      message: `the exporter computed with ${first}${others.length === 0 ? '' : ` and ${others.length} more`} and left constants: the file has no such parameters`,
    };
  const alone = await train(pkg, 1, oracle);
  const together = await train(pkg, 4, oracle);
  const faults = [...alone.faults, ...together.faults];
  alone.losses.forEach((loss, step) => {
    if (!(Math.abs(loss - together.losses[step]!) <= LOSS_BAR * Math.max(1, loss)))
      faults.push(`step ${step}: loss ${loss} on one rank, ${together.losses[step]!} on four`);
  });
  const exported = path.join(scratch, 'trained.onnx');
  writeTrainedModel(
    source,
    exported,
    new Map([...together.weights].map(([name, data]) => [name, weightValues(data)])),
  );
  const said = await lossInOnnxRuntime(exported, oracle.documents);
  const last = together.losses.at(-1)!;
  if (said !== undefined && !(Math.abs(said - last) <= 1e-4))
    faults.push(`exported, the loss is ${said} instead of ${last}`);
  if (faults.length > 0) return { result: 'wrong', message: faults.join('; ') };
  const { notes } = pkg.manifest;
  return {
    result: 'trains',
    lossError: Math.max(alone.lossError, together.lossError),
    gradientError: Math.max(alone.gradientError, together.gradientError),
    untrained: alone.untrained,
    attention: [...new Set(notes.flatMap((note) => /: recognised \((.*)\)$/.exec(note)?.[1] ?? []))],
    notes: notes.filter((note) => !note.includes(': recognised (')),
  };
}

interface Trained {
  readonly lossError: number;
  readonly gradientError: number;
  readonly untrained: number;
  readonly faults: readonly string[];
  /** Before each of three updates and after them. */
  readonly losses: readonly number[];
  readonly weights: ReadonlyMap<string, Float32Array>;
}

async function train(pkg: Package, ranks: number, oracle: LoadedOracle): Promise<Trained> {
  const session = await TrainingSession.open(pkg, { ranks });
  try {
    const lane = { ranks: Array.from({ length: ranks }, (_, i) => i), documents: [...oracle.documents] };
    const plan: MicroBatchPlan[] = [{ lanes: [lane] }];
    const { loss, gradients } = await session.gradients(plan);
    const lossError = Math.abs(loss - oracle.json.loss);
    const compared = new Map([...oracle.gradients].filter(([, g]) => g.some((x) => x !== 0)));
    const actual = oracle.toTorch(gradients);
    // A single number may be a parameter or a buffer, the file does not tell: ithaca trains none.
    const numbers = [...compared].flatMap(([name, { length }]) =>
      length === 1 && !actual.has(name) ? [name] : [],
    );
    for (const name of numbers) compared.delete(name);
    const missing = [...compared.keys()].find((name) => !actual.has(name));
    const { worst, error } =
      missing === undefined
        ? gradientError(compared, actual)
        : { worst: `${missing} is not trained`, error: Infinity };
    const faults: string[] = [];
    if (!(lossError <= LOSS_BAR))
      faults.push(`${ranks} ranks: the loss is ${loss}, PyTorch's ${oracle.json.loss}`);
    else if (!(error <= GRADIENT_BAR))
      faults.push(`${ranks} ranks: the gradient is off by ${error.toExponential(1)} (${worst})`);
    const losses: number[] = [];
    for (let step = 0; step < 3; step++) losses.push((await session.step(plan, { lr: 1e-3, step })).loss);
    losses.push((await session.evaluate(plan)).loss);
    const weights = await session.parameters();
    return { lossError, gradientError: error, untrained: numbers.length, faults, losses, weights };
  } finally {
    await session.close();
  }
}

/**
 * Mean loss of documents, each run alone through an exported graph. Undefined where ONNX Runtime has no kernel for an
 * operation of the file, such as a product in bfloat16, so that it runs neither the export nor the original.
 */
async function lossInOnnxRuntime(file: string, documents: readonly Document[]): Promise<number | undefined> {
  let session: ort.InferenceSession;
  try {
    session = await ort.InferenceSession.create(readFileSync(file), {
      intraOpNumThreads: 1,
      logSeverityLevel: 3,
    });
  } catch (error) {
    if (String(error).includes('Could not find an implementation')) return undefined;
    throw error;
  }
  let [sum, count] = [0, 0];
  for (const { ids, labels } of documents) {
    const feeds = feedsOf(session, ids);
    const logits = (await session.run(feeds, ['logits']))['logits']!.data as Float32Array;
    const found = crossEntropy(logits, labels);
    sum += found.sum;
    count += found.count;
  }
  await session.release();
  return sum / count;
}

/** One document alone, with an empty cache where there is one. */
function feedsOf(session: ort.InferenceSession, ids: Int32Array): Record<string, ort.Tensor> {
  const values: Readonly<Record<string, (i: number) => number>> = {
    input_ids: (i) => ids[i]!,
    attention_mask: () => 1,
    position_ids: (i) => i,
    token_type_ids: () => 0,
  };
  return Object.fromEntries(
    session.inputMetadata.map((input): [string, ort.Tensor] => {
      const value = values[input.name];
      if (value !== undefined) {
        const data = BigInt64Array.from({ length: ids.length }, (_, i) => BigInt(value(i)));
        return [input.name, new ort.Tensor('int64', data, [1, ids.length])];
      }
      const shape = input.isTensor ? input.shape : [];
      const dims = shape.map((size, i) => (i === 0 ? 1 : typeof size === 'number' ? size : 0));
      return [input.name, new ort.Tensor('float32', new Float32Array(0), dims)];
    }),
  );
}
