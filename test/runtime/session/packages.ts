import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { compileModel } from '../../../src/compile/compile.js';
import { configSchema, type UserConfig } from '../../../src/config.js';
import { parseGraph } from '../../../src/ir/text/parse.js';
import { printGraph } from '../../../src/ir/text/print.js';
import { inputName, inputRole, type Graph } from '../../../src/ir/graph.js';
import type { Tensor } from '../../../src/ir/op.js';
import { evaluateSize } from '../../../src/ir/size.js';
import { openPackage, type Package } from '../../../src/package/read.js';
import { writePackage } from '../../../src/package/write.js';
import { emitProgram, type SegmentFiles } from '../../../src/passes/emit/program.js';
import { runPasses } from '../../../src/passes/manager.js';
import { PIPELINES, stepsOf } from '../../../src/passes/pipeline.js';
import { buildUpdate, type LargeSteps } from '../../../src/passes/zero.js';
import type { Document } from '../../../src/runtime/data/document.js';
import { modelFolder } from '../../support/oracle.js';
import { TINY } from '../../support/tiny.js';

/** A folder for packages, removed with `remove`. */
export function packageFolder(): { readonly folder: string; readonly remove: () => void } {
  const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-session-'));
  return { folder, remove: () => rmSync(folder, { recursive: true, force: true }) };
}

/** Compiles a model of test/models. */
export async function compiledModel(folder: string, name: string, config: UserConfig = {}): Promise<Package> {
  const out = path.join(folder, `${name}-${JSON.stringify(config).replaceAll(/\W/g, '')}.ithaca`);
  const model = path.join(modelFolder(name), 'model.onnx');
  await compileModel(model, out, { config: configSchema.parse(config), weights: true, replace: true });
  return openPackage(out);
}

/** The hand-written one-layer transformer with another mask: its graph, unplaced. */
export const tinyGraph = (mask = '"causal"'): Graph =>
  parseGraph(printGraph(TINY).replace('mask = "causal"', `mask = ${mask}`));

/** The same with a relative bias of fewer offsets than its documents have. */
export const biasedGraph = (mask: string, bias: 'trained' | 'frozen' | 'constant' = 'trained'): Graph => {
  const text = printGraph(tinyGraph(mask));
  const [line, operands] = text.match(/\n.*= attention (.*?) \{/) as [string, string] & RegExpMatchArray;
  const given = line.replace(operands, `${operands}, %bias`);
  const data = Array.from({ length: 20 }, (_, i) => Math.sin(i));
  const [input, made] =
    bias === 'constant'
      ? ['', `\n  %bias = constant {data = [${data.join(', ')}], dtype = "f32", shape = [5, 4]} : f32[5, 4]`]
      : [`%bias: f32[5, 4] {role = "parameter", trainable = ${bias === 'trained'}},\n  `, ''];
  return parseGraph(text.replace('%wq:', `${input}%wq:`).replace(line, `${made}${given}before = 3, `));
};

/** Train graph of an unplaced one, as it is scheduled. The loss runs three rows at a time. */
export const trainGraph = (graph: Graph): Graph =>
  runPasses(graph, stepsOf(PIPELINES.train, { loss: { tile: 3 } }), { given: ['recognized', 'unplaced'] })
    .graph;

const evalGraph = (graph: Graph): Graph =>
  runPasses(graph, stepsOf(PIPELINES.eval, { loss: { tile: 3 } }), { given: ['recognized', 'unplaced'] })
    .graph;

/** Writes a hand-written graph with these parameters as a package. */
export async function writeGraph(
  folder: string,
  graph: Graph,
  parameters: ReadonlyMap<string, Tensor>,
  zeroStage: 0 | 1 = 1,
  /** Ids that the model does not give a position. */
  padding: readonly number[] = [],
  large?: LargeSteps,
): Promise<Package> {
  const optimizer = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1, zeroStage };
  const train = trainGraph(graph);
  const trained = graph.inputs.filter((v) => train.outputs.some((o) => o.name === `grad/${inputName(v)}`));
  const update = buildUpdate({
    ...optimizer,
    ...(large === undefined ? {} : { large }),
    parameters: trained.map((v) => ({ name: inputName(v), type: v.type })),
  });
  const graphs = new Map([
    ['train', train],
    ['eval', evalGraph(graph)],
    ['update', runPasses(update, stepsOf(PIPELINES.update, {}), { given: ['placed'] }).graph],
  ]);
  const files: SegmentFiles = new Map();
  const programs = new Map(
    [...graphs].map(([name, g]) => [
      name,
      { program: emitProgram({ ...g, name }, files, ['logits']), text: printGraph(g) },
    ]),
  );
  const source = path.join(folder, 'source.onnx');
  writeFileSync(source, 'not read');
  const directory = path.join(folder, `tiny-${graph.outputs.length}-${Math.random()}.ithaca`);
  const shapeOf = (v: (typeof graph.inputs)[number]): number[] =>
    v.type.dims.map((d) => evaluateSize(d.size, new Map()));
  const inputs = graph.inputs.filter((v) => inputRole(v) === 'parameter');
  await writePackage(directory, {
    manifest: {
      format: 'ithaca-package',
      version: 1,
      ithaca: '0.0.0',
      name: 'tiny',
      source: {
        file: 'source.onnx',
        sha256: createHash('sha256').update('not read').digest('hex'),
        bytes: 8,
      },
      vocabulary: 11,
      loss: { kind: 'next-token', classes: 11 },
      maxDegree: 4,
      ...(padding.length === 0 ? {} : { padding: [...padding] }),
      maxDocument: { tokens: 100, reason: 'this test says so' },
      parameters: inputs.map((v) => ({
        name: inputName(v),
        shape: shapeOf(v),
        trainable: trained.includes(v),
        reason: 'test',
        weight: { kind: 'safetensors' },
      })),
      passes: [],
      optimizer,
      recognized: {},
      notes: [],
      programs: ['train', 'eval', 'update'],
    },
    programs,
    segments: files,
    sourceModel: source,
    cost: {},
    report: '<!doctype html>\n',
    trace: { version: 1, locs: [], nodes: [], pipelines: [] },
    weights: inputs.map((v) => ({
      name: inputName(v),
      dtype: 'F32',
      shape: shapeOf(v),
      data: Float32Array.from(parameters.get(inputName(v))!.data),
    })),
  });
  return openPackage(directory);
}

/** Documents with shifted labels. */
export const documentsOf = (
  rows: readonly { ids: readonly number[]; labels: readonly number[] }[],
): Document[] =>
  rows.map(({ ids, labels }, i) => ({
    ids: Int32Array.from(ids),
    labels: Int32Array.from([...labels.slice(1), -100]),
    origin: `document ${i}`,
  }));
