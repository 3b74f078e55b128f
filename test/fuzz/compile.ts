/** Compiles one case and says how that ended. */
import { rmSync } from 'node:fs';
import path from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { InferenceSession, Tensor as OrtTensor } from 'onnxruntime-node';
import { contentsOf, lowerModel, type Lowered } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { UserError } from '../../src/errors.js';
import { inputName, inputRole, type Graph } from '../../src/ir/graph.js';
import { interpret, meshOf } from '../../src/ir/interpret.js';
import type { Tensor } from '../../src/ir/op.js';
import { readOnnxModel } from '../../src/ir/onnx/decode.js';
import { findings } from '../../src/ir/verify.js';
import { openPackage } from '../../src/package/read.js';
import { writePackage } from '../../src/package/write.js';
import type { Result, Task } from './outcome.js';

/** A message must fit on a line, and a terminal must survive it. */
// eslint-disable-next-line no-control-regex
export const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;
export const MAX_MESSAGE = 4000;

export async function compileCase(task: Task, onStage: (stage: string) => void): Promise<Result> {
  const file = path.join(task.folder, 'model.onnx');
  try {
    const lowered = await lowerModel(file, {
      config: parseConfig({}, 'fuzz'),
      weights: task.weights,
      replace: false,
      onStage,
    });
    for (const [name, graph] of lowered.graphs) {
      const found = findings(graph);
      if (found.length > 0) return { kind: 'fault', text: `verify ${name}: ${found[0]!.message}` };
    }
    onStage('write');
    const problem = await reopened(task, file, lowered);
    if (problem !== undefined) return { kind: 'fault', text: problem };
    if (!task.compare) return { kind: 'compiled', text: '' };
    onStage('compare');
    const error = await logitsError(file, lowered);
    return { kind: 'compiled', text: '', ...(error === undefined ? {} : { error }) };
  } catch (error) {
    if (error instanceof UserError) return refusal(error);
    return { kind: 'fault', text: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}

/** In place of `index.ts`, which takes longer than the rest of a package. */
const NO_INDEX = Promise.resolve('');

/** Writes the package and opens it, which hashes and checks every file; says what is wrong with it. */
async function reopened(task: Task, file: string, lowered: Lowered): Promise<string | undefined> {
  const out = path.join(task.out, 'model.ithaca');
  try {
    const contents = contentsOf(file, lowered);
    await writePackage(out, task.index ? contents : { ...contents, index: NO_INDEX }, { replace: true });
    const opened = await openPackage(out);
    const other = [...lowered.programs].find(([name, program]) => {
      return !isDeepStrictEqual(opened.program(name), program);
    })?.[0];
    return other === undefined ? undefined : `the program ${other} is another one when it is read`;
  } catch (error) {
    // The model compiled: whatever is said now is no answer to it.
    return `package: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
  } finally {
    rmSync(out, { recursive: true, force: true });
  }
}

function refusal({ message, hint }: UserError): Result {
  const text = `${message} (${hint ?? ''})`;
  // A hint may show the graph around, line by line.
  if (UNPRINTABLE.test(message) || UNPRINTABLE.test((hint ?? '').replaceAll('\n', ' ')))
    return { kind: 'fault', text: `message is not one line: ${JSON.stringify(text)}` };
  if (text.length > MAX_MESSAGE)
    return { kind: 'fault', text: `message has ${text.length} characters: ${text.slice(0, 300)}` };
  return { kind: 'refused', text };
}

const LENGTH = 9;

/** Relative distance of the logits of one document; undefined where onnxruntime does not take the model. */
async function logitsError(file: string, lowered: Lowered): Promise<number | undefined> {
  const vocabulary = lowered.manifest.vocabulary;
  const tokens = Array.from({ length: LENGTH }, (_, i) => (i * 7 + 3) % Math.min(vocabulary, 50));
  const expected = await onnxruntimeLogits(file, tokens);
  if (expected === undefined) return undefined;
  // Heads that score documents have labels of another shape; their programs are tested elsewhere.
  if (expected.length !== LENGTH * vocabulary) return undefined;
  const actual = interpretedLogits(file, lowered.graphs.get('eval')!, tokens);
  if (actual === undefined) return undefined;
  if (actual.length !== expected.length) return Infinity;
  const scale = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 1e-3);
  const worst = expected.reduce((most, x, i) => Math.max(most, Math.abs(x - actual[i]!)), 0);
  return Number.isFinite(scale) ? worst / scale : undefined;
}

async function onnxruntimeLogits(
  file: string,
  tokens: readonly number[],
): Promise<readonly number[] | undefined> {
  const model = readOnnxModel(file, { weights: true });
  const feeds: Record<string, OrtTensor> = {};
  for (const { name, elemType } of model.inputs) {
    const values = tokens.map((token, i) =>
      /position/.test(name) ? i : /mask/.test(name) ? 1 : /type/.test(name) ? 0 : token,
    );
    if (elemType !== 'i64') return undefined;
    feeds[name] = new OrtTensor('int64', BigInt64Array.from(values, BigInt), [1, tokens.length]);
  }
  try {
    const session = await InferenceSession.create(file, { logSeverityLevel: 4, intraOpNumThreads: 1 });
    const output = model.outputs.some(({ name }) => name === 'logits') ? 'logits' : model.outputs[0]!.name;
    const found = (await session.run(feeds, [output]))[output]!;
    await session.release();
    return Array.from(found.data as Float32Array);
  } catch {
    return undefined;
  }
}

/** Damaged bytes are often numbers beyond what float32 sums of products tell apart. */
const MAX_WEIGHT = 1e4;

/** Undefined where a weight is not an ordinary number. */
function interpretedLogits(
  file: string,
  graph: Graph,
  tokens: readonly number[],
): readonly number[] | undefined {
  const model = readOnnxModel(file, { weights: true });
  const row = (values: readonly number[]): Tensor => ({
    shape: [values.length],
    data: Float64Array.from(values),
  });
  const rows = new Map([
    ['tokens', row(tokens)],
    ['positions', row(tokens.map((_, i) => i))],
    ['documents', row(tokens.map(() => 0))],
    ['token_types', row(tokens.map(() => 0))],
    ['labels', row(tokens.map(() => -100))],
  ]);
  const weights = new Map(
    graph.inputs
      .filter((value) => inputRole(value) === 'parameter')
      .map((value) => {
        const stored = model.initializers.get(inputName(value))!.read();
        return [
          inputName(value),
          { shape: [...stored.dims], data: Float64Array.from(stored.toFloat64()) },
        ] as const;
      }),
  );
  const isOrdinary = (x: number): boolean => Math.abs(x) <= MAX_WEIGHT;
  if (![...weights.values()].every(({ data }) => data.every(isOrdinary))) return undefined;
  const mesh = meshOf([1], () => new Map([['S', tokens.length]]));
  const outputs = interpret(graph, mesh, (name) => weights.get(name) ?? rows.get(name)!);
  return Array.from(outputs.get('logits')![0]!.data);
}
