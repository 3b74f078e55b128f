import { statSync } from 'node:fs';
import path from 'node:path';
import type { Config } from '../config.js';
import { UserError } from '../errors.js';
import type { SafetensorsEntry } from '../files/safetensors.js';
import { importOnnx, type Imported, type ParameterInfo } from '../ir/onnx/import/import.js';
import { readOnnxModel } from '../ir/onnx/decode.js';
import type { OnnxModel } from '../ir/onnx/model.js';
import { topologicalOrder, type Graph } from '../ir/graph.js';
import { constantOf } from '../ir/size.js';
import { printGraph } from '../ir/text/print.js';
import { tensorType } from '../ir/type.js';
import type { LossEntry, Manifest, ParameterEntry } from '../package/manifest.js';
import { checkPackageBounds } from '../package/bounds.js';
import type { Program } from '../package/program.js';
import { startIndexGenerator } from '../package/index-generator.js';
import type { Trace } from '../package/trace.js';
import { writePackage, type PackageContents } from '../package/write.js';
import { gradientName } from '../passes/autodiff.js';
import { emitProgram, type SegmentFiles } from '../passes/emit/program.js';
import { runPasses, type PassRecord } from '../passes/manager.js';
import type { Invariant } from '../passes/pass.js';
import {
  FRONT,
  PIPELINES,
  splitTrain,
  stepsOf,
  trainPrograms,
  type ProgramName,
} from '../passes/pipeline.js';
import { buildUpdate } from '../passes/zero.js';
import { reportPage } from '../report/report.js';
import { VERSION } from '../version.js';
import { costOf, type ProgramCost } from './cost.js';
import { chooseLoss, rowsReadBy, termsOf } from './loss.js';
import { traceRecorder } from './trace.js';
import { ownWeights, storedTensors, weightOf } from './weights.js';

export interface CompileOptions {
  readonly config: Config;
  /** False takes a graph whose weights are absent: it can be inspected, not trained. */
  readonly weights: boolean;
  /** Replaces a package that is already there. */
  readonly replace: boolean;
  readonly onStage?: (stage: string) => void;
  /** Where a failing pass leaves its reproducer. */
  readonly reproducer?: string;
}

export interface CompileResult {
  readonly manifest: Manifest;
  readonly cost: Readonly<Record<string, ProgramCost>>;
  readonly programs: ReadonlyMap<ProgramName, Program>;
  readonly graphs: ReadonlyMap<ProgramName, Graph>;
  readonly passes: readonly PassRecord[];
}

/** Everything of a package but its files on disk. */
export interface Lowered extends CompileResult {
  readonly files: SegmentFiles;
  /** Weights that the package holds itself. */
  readonly weights: readonly SafetensorsEntry[];
  readonly trace: Trace;
}

/** Compiles `model.onnx` into the package directory `out`. Throws `UserError` for what the model does not allow. */
export async function compileModel(
  modelPath: string,
  out: string,
  options: CompileOptions,
): Promise<CompileResult> {
  const generator = startIndexGenerator();
  try {
    const lowered = await lowerModel(modelPath, options);
    options.onStage?.('write');
    const index = generator.generate({ manifest: lowered.manifest, programs: lowered.programs });
    const contents = { ...contentsOf(modelPath, lowered), index };
    await writePackage(out, contents, { replace: options.replace });
    return lowered;
  } finally {
    await generator.close();
  }
}

/** What is written of a compiled model. */
export function contentsOf(modelPath: string, lowered: Lowered): PackageContents {
  const { manifest, cost, programs, graphs, files, weights, trace } = lowered;
  const texts = [...programs].map(([name, program]) => {
    return [name, { program, text: printGraph(graphs.get(name)!) }] as const;
  });
  return {
    manifest,
    programs: new Map(texts),
    segments: files,
    sourceModel: modelPath,
    cost,
    report: reportOf(lowered),
    trace,
    ...(weights.length === 0 ? {} : { weights }),
  };
}

function reportOf({ manifest, programs, graphs, cost }: Lowered): string {
  return reportPage({
    manifest,
    programs: new Map([...programs].map(([name, program]) => [name, { program, graph: graphs.get(name)! }])),
    flops: new Map([...programs.keys()].map((name) => [name, cost[name]!.flops])),
  });
}

/** The compiler without its output: model file to programs. */
export async function lowerModel(modelPath: string, options: CompileOptions): Promise<Lowered> {
  options.onStage?.('read');
  const model = readOnnxModel(modelPath, { weights: options.weights });
  options.onStage?.('import');
  const imported = await importOnnx(model, { weights: options.weights, trainable: options.config.trainable });
  const records: PassRecord[] = [];
  const notes = [...imported.notes];
  const recognized = new Map<string, number>();
  const recorder = traceRecorder();
  let { passes } = options.config;
  recorder.record('front', 'import', undefined, imported.graph);
  const runner: Runner = (pipeline, graph, entries, given) => {
    const result = runPasses(graph, stepsOf(entries, passes), {
      given,
      observe: (pass, before, after) => recorder.record(pipeline, pass, before, after),
      ...(options.reproducer === undefined ? {} : { reproducer: options.reproducer }),
    });
    records.push(...result.records);
    notes.push(...result.notes);
    for (const [kind, n] of result.counts) recognized.set(kind, (recognized.get(kind) ?? 0) + n);
    return { graph: result.graph, holds: [...result.holds] };
  };
  options.onStage?.('recognize');
  const front = runner('front', imported.graph, FRONT, ['unplaced']);
  const { note, ...loss } = chooseLoss(front.graph, imported, options.config.loss);
  if (note !== undefined) notes.push(note);
  passes = { ...passes, loss: { ...passes['loss'], ...termsOf(loss.loss) } };
  options.onStage?.('transform');
  const variants = trainPrograms(options.config.checkpoint ?? []);
  const train = trainGraphs(variants, runner, front);
  const evaluation = runner('eval', front.graph, PIPELINES.eval, front.holds).graph;
  const outputs = new Set(train.get('train')!.outputs.map((o) => o.name));
  const trained = imported.parameters.filter((p) => outputs.has(gradientName(p.name)));
  const update = runner('update', updateGraph(trained, options.config), PIPELINES.update, ['placed']).graph;
  options.onStage?.('emit');
  const graphs = new Map<ProgramName, Graph>([
    ...train,
    ['eval', { ...evaluation, name: 'eval' }],
    ['update', update],
  ]);
  const files: SegmentFiles = new Map();
  const programs = new Map([...graphs].map(([name, graph]) => [name, emitProgram(graph, files, ['logits'])]));
  const cost = Object.fromEntries([...graphs].map(([name, graph]) => [name, costOf(graph)]));
  const manifest = manifestOf({
    modelPath,
    model,
    imported,
    train: front.graph,
    trained,
    records,
    notes: [...new Set(notes.map(shortened))],
    recognized,
    ...loss,
    config: options.config,
    programs: [...programs.keys()],
    variants,
  });
  checkPackageBounds(modelPath, manifest, programs);
  const weights = ownWeights(model, manifest.parameters);
  return { manifest, cost, programs, graphs, passes: records, files, weights, trace: recorder.trace() };
}

const MAX_NOTE = 4000;

/** Names in files may be of any length. */
const shortened = (note: string): string => (note.length > MAX_NOTE ? `${note.slice(0, MAX_NOTE)}…` : note);

type Runner = (
  pipeline: string,
  graph: Graph,
  entries: Parameters<typeof stepsOf>[0],
  given: readonly Invariant[],
) => { readonly graph: Graph; readonly holds: readonly Invariant[] };

/** One train program for each checkpointing policy; without any, one with the policy of the pass's options. */
function trainGraphs(
  variants: ReturnType<typeof trainPrograms>,
  run: Runner,
  front: ReturnType<Runner>,
): ReadonlyMap<ProgramName, Graph> {
  const [shared] = splitTrain(undefined);
  const { graph, holds } = run('train', front.graph, shared, front.holds);
  const named = variants.length === 0 ? [{ program: 'train' as const, policy: undefined }] : variants;
  return new Map(
    named.map(({ program, policy }): [ProgramName, Graph] => {
      const done = run(program, graph, splitTrain(policy)[1], holds);
      return [program, { ...done.graph, name: program }];
    }),
  );
}

function updateGraph(trained: readonly ParameterInfo[], config: Config): Graph {
  if (trained.length === 0)
    throw new UserError('no parameter of the model is trained', 'loosen trainable.exclude in the config');
  const names = new Set(trained.map((p) => p.name));
  const { beta1, beta2, eps, weightDecay, clipNorm, zeroStage } = config.optimizer;
  return buildUpdate({
    parameters: trained.map((p) => ({
      name: p.name,
      type: tensorType('f32', [...p.shape]),
      ...(p.tiedTo !== undefined && names.has(p.tiedTo.name) ? { tiedTo: p.tiedTo } : {}),
    })),
    beta1,
    beta2,
    eps,
    weightDecay,
    clipNorm,
    zeroStage,
  });
}

/** The fewest query heads of an attention: no group may have more ranks. */
function maxDegreeOf(graph: Graph): number {
  const heads = topologicalOrder(graph).flatMap((n) =>
    n.op === 'attention' ? [constantOf(n.operands[0]!.type.dims[1]!.size)!] : [],
  );
  return heads.length === 0 ? 1024 : Math.min(...heads);
}

interface ManifestSources {
  readonly modelPath: string;
  readonly model: OnnxModel;
  readonly imported: Imported;
  readonly train: Graph;
  readonly trained: readonly ParameterInfo[];
  readonly records: readonly PassRecord[];
  readonly notes: readonly string[];
  readonly recognized: ReadonlyMap<string, number>;
  readonly vocabulary: number;
  readonly loss: LossEntry;
  readonly config: Config;
  readonly programs: readonly ProgramName[];
  readonly variants: ReturnType<typeof trainPrograms>;
}

function manifestOf(from: ManifestSources): Manifest {
  const trained = new Set(from.trained.map((p) => p.name));
  const stored = storedTensors(from.model);
  const parameters = from.imported.parameters.map((p): ParameterEntry => ({
    name: p.name,
    shape: [...p.shape],
    trainable: trained.has(p.name),
    reason: p.trainable && !trained.has(p.name) ? 'has no influence on the loss' : p.reason,
    ...(p.torchName === undefined ? {} : { torchName: p.torchName.name, torchLayout: p.torchName.layout }),
    ...(p.tiedTo === undefined ? {} : { tiedTo: p.tiedTo }),
    weight: weightOf(stored(p.name)),
  }));
  const { beta1, beta2, eps, weightDecay, clipNorm, zeroStage } = from.config.optimizer;
  const { provenLength, maxPositions } = from.imported;
  const tokenTypes = rowsReadBy(from.train, 'token_types');
  const limit = Math.min(provenLength ?? Infinity, maxPositions ?? Infinity);
  const reason =
    limit === maxPositions
      ? `the position table has ${limit} rows`
      : `the attention mask was proved up to ${limit} tokens`;
  return {
    format: 'ithaca-package',
    version: 1,
    ithaca: VERSION,
    name: path.basename(from.modelPath).replace(/\.onnx$/, ''),
    source: {
      file: path.basename(from.modelPath),
      sha256: from.model.sha256(),
      bytes: statSync(from.modelPath).size,
    },
    vocabulary: from.vocabulary,
    loss: from.loss,
    ...(tokenTypes === undefined ? {} : { tokenTypes }),
    ...(from.imported.padding === undefined ? {} : { padding: [...from.imported.padding] }),
    maxDegree: maxDegreeOf(from.train),
    ...(Number.isFinite(limit) ? { maxDocument: { tokens: limit, reason } } : {}),
    parameters,
    passes: from.records.map(({ name, options }) => ({ name, options: { ...options } })),
    optimizer: { beta1, beta2, eps, weightDecay, clipNorm, zeroStage },
    recognized: Object.fromEntries(from.recognized),
    notes: [...from.notes],
    programs: [...from.programs],
    ...(from.variants.length > 1 ? { checkpoint: [...from.variants] } : {}),
    files: [],
  };
}
