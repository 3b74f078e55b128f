import type { Lowered } from '../../src/compile/compile.js';
import { costOf } from '../../src/compile/cost.js';
import { inputName, inputRole, type Graph } from '../../src/ir/graph.js';
import { constantOf } from '../../src/ir/size.js';
import { parseGraph } from '../../src/ir/text/parse.js';
import { emitProgram } from '../../src/passes/emit/program.js';
import { runPasses } from '../../src/passes/manager.js';
import { PIPELINES, stepsOf } from '../../src/passes/pipeline.js';
import type { ReportManifest, ReportSource } from '../../src/report/data.js';

/** What a compiled model gives to the page. */
export const sourceOfLowered = ({ manifest, programs, graphs, cost }: Lowered): ReportSource => ({
  manifest,
  programs: new Map([...programs].map(([name, program]) => [name, { program, graph: graphs.get(name)! }])),
  flops: new Map([...programs.keys()].map((name) => [name, cost[name]!.flops])),
});

export interface Names {
  /** Of a node or parameter, given what it is called in a tame model. */
  readonly rename?: (name: string) => string;
  readonly model?: string;
  readonly notes?: readonly string[];
}

/** A transformer of any number of equal layers (8 heads over 2), compiled, with names of one's choice. */
export function layeredSource(
  layers: number,
  { rename = (n) => n, model = 'layered', notes = [] }: Names = {},
): ReportSource {
  const front = parseGraph(textOf(layers, rename));
  const lower = (pipeline: 'train' | 'eval'): Graph => ({
    ...runPasses(front, stepsOf(PIPELINES[pipeline], {}), { given: ['recognized', 'unplaced', 'simplified'] })
      .graph,
    name: pipeline,
  });
  const graphs = [lower('train'), lower('eval')];
  const files = new Map<string, Uint8Array>();
  return {
    manifest: { ...manifestOf(front, layers), name: model, notes: [...notes] },
    programs: new Map(
      graphs.map((graph) => [graph.name, { graph, program: emitProgram(graph, files, ['logits']) }]),
    ),
    flops: new Map(graphs.map((graph) => [graph.name, costOf(graph).flops])),
  };
}

const q = (name: string): string => JSON.stringify(name);

function textOf(layers: number, rename: (name: string) => string): string {
  const parameters: string[] = [];
  const lines: string[] = [];
  let [next, stream] = [0, ''];
  const op = (text: string, type: string, loc: string): string => {
    lines.push(`  %${next} = ${text} : ${type} @${q(rename(loc))}`);
    return `%${next++}`;
  };
  const parameter = (name: string, shape: string): string => {
    parameters.push(`  %${q(rename(name))}: f32[${shape}] {role = "parameter", trainable = true}`);
    return `%${q(rename(name))}`;
  };
  stream = op(`gather ${parameter('model.embed.weight', '128, 64')}, %tokens`, 'f32[S, 64]', '/embed/Gather');
  for (let i = 0; i < layers; i++) {
    const at = (name: string): string => `/model/layers.${i}/${name}`;
    const weight = (name: string, shape: string): string =>
      parameter(`model.layers.${i}.${name}.weight`, shape);
    const norm = op(
      `rms_norm ${stream}, ${weight('norm', '64')} {eps = 0.00001}`,
      'f32[S, 64]',
      at('norm/Mul'),
    );
    const heads = (name: string, n: number): string => {
      const product = op(
        `matmul ${norm}, ${weight(name, `64, ${n * 8}`)}`,
        `f32[S, ${n * 8}]`,
        at(`${name}/MatMul`),
      );
      return op(`reshape ${product} {shape = [S, ${n}, 8]}`, `f32[S, ${n}, 8]`, at(`${name}/Reshape`));
    };
    const [query, key, value] = [heads('q', 8), heads('k', 2), heads('v', 2)];
    const out = op(
      `attention ${query}, ${key}, ${value}, %documents {mask = "causal", scale = 0.5}`,
      'f32[S, 8, 8], f32[S, 8]',
      at('attn/Softmax'),
    );
    const flat = op(`reshape ${out}#0 {shape = [S, 64]}`, 'f32[S, 64]', at('o/Reshape'));
    const mixed = op(`matmul ${flat}, ${weight('o', '64, 64')}`, 'f32[S, 64]', at('o/MatMul'));
    const residual = op(`add ${stream}, ${mixed}`, 'f32[S, 64]', at('Add'));
    const up = op(`matmul ${residual}, ${weight('up', '64, 128')}`, 'f32[S, 128]', at('up/MatMul'));
    const silu = op(`silu ${up}`, 'f32[S, 128]', at('act/Mul'));
    const down = op(`matmul ${silu}, ${weight('down', '128, 64')}`, 'f32[S, 64]', at('down/MatMul'));
    stream = op(`add ${residual}, ${down}`, 'f32[S, 64]', at('Add_1'));
  }
  const last = op(
    `rms_norm ${stream}, ${parameter('model.norm.weight', '64')} {eps = 0.00001}`,
    'f32[S, 64]',
    '/norm/Mul',
  );
  const logits = op(
    `matmul ${last}, ${parameter('lm_head.weight', '64, 128')}`,
    'f32[S, 128]',
    '/lm_head/MatMul',
  );
  const inputs = ['  %tokens: i32[S] {role = "data"}', '  %documents: i32[S] {role = "data"}', ...parameters];
  return `graph @layered mesh {} (\n${inputs.join(',\n')}) {\n${lines.join('\n')}\n  return "logits" = ${logits}\n}`;
}

function manifestOf(graph: Graph, layers: number): ReportManifest {
  return {
    ithaca: '0.0.0',
    name: '',
    source: { file: 'layered.onnx', sha256: '0'.repeat(64), bytes: 1 },
    vocabulary: 128,
    loss: { kind: 'next-token', classes: 128 },
    maxDegree: 8,
    maxDocument: { tokens: 8192, reason: 'this test says so' },
    parameters: graph.inputs
      .filter((v) => inputRole(v) === 'parameter')
      .map((v) => ({
        name: inputName(v),
        torchName: inputName(v),
        shape: v.type.dims.map((d) => constantOf(d.size)!),
        trainable: true,
        reason: 'used beside activations',
        weight: { kind: 'absent' as const },
      })),
    passes: [{ name: 'ulysses', options: {} }],
    optimizer: { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1, clipNorm: 1, zeroStage: 0 },
    recognized: { attention: layers, rms_norm: layers + 1 },
    notes: [],
  };
}
