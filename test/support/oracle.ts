import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { SafetensorsReader } from '../../src/files/safetensors.js';

/** Models in test/models whose oracle is of the kind ithaca trains. */
export const ORACLE_MODELS = [
  'llama',
  'gpt2',
  'gpt2-ts',
  'gpt2-hf',
  'llama-ts',
  'llama-hf',
  'llama-ids',
  'llama-packed',
  'llama-opset23',
  'llama-opset23-ops',
  'llama-opset23-nopos',
  'qwen3',
  'mistral',
  'mixtral',
  'bert',
  'bert-tokens',
];

/** Folder of a model in test/models, wherever the compiled tests run. */
export const modelFolder = (name: string): string =>
  path.join(
    fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]support[\\/].*$/, ''),
    'test',
    'models',
    name,
  );

interface Mapping {
  readonly initializers: Readonly<Record<string, { param: string; layout: string; shape: number[] }>>;
}

interface OracleJson {
  /** Other than `causal`: a label belongs to its own token. */
  readonly kind: 'causal' | 'mlm' | 'token-classification' | 'document-classification' | 'regression';
  readonly cases: Readonly<
    Record<
      string,
      {
        loss: number;
        predicted_tokens: number;
        params: Record<string, { norm: number; index: number[]; value: number[] }>;
      }
    >
  >;
  readonly adamw: {
    lr: number;
    betas: [number, number];
    eps: number;
    weight_decay: number;
    losses: number[];
    params: Record<string, { noise_max: number }>;
  };
}

/** A document of a case: token ids, and labels as in Hugging Face (aligned with the tokens). */
export interface OracleDocument {
  readonly ids: number[];
  readonly labels: number[];
  /** Segments of the tokens, where the model reads them. */
  readonly types?: number[];
  /** A label belongs to its own token. */
  readonly aligned?: boolean;
}

/** What the token at each place is to predict: labels as the runtime takes them. */
export const targetsOf = ({ labels, aligned }: OracleDocument): number[] =>
  aligned === true ? labels : [...labels.slice(1), -100];

/** What PyTorch computed on the weights of one model in test/models. */
export interface Oracle {
  readonly json: OracleJson;
  readonly tensors: SafetensorsReader;
  readonly mapping: Mapping;
  /** The case as documents: rows, or the packed documents alone; padding is left out. */
  readonly documents: (name: string) => OracleDocument[];
  /** Ids of the documents of a case, whatever they are trained on. */
  readonly rows: (name: string) => number[][];
  /** Gradients by initialiser summed into gradients by torch parameter, in torch's layout. */
  readonly toTorch: (
    byInitializer: ReadonlyMap<string, ArrayLike<number>>,
    sum?: boolean,
  ) => Map<string, Float64Array>;
}

const floats = (tensors: SafetensorsReader, name: string): number[] =>
  Array.from(tensors.read(name) as ArrayLike<number | bigint>, Number);

export function loadOracle(folder: string): Oracle {
  const json = JSON.parse(readFileSync(path.join(folder, 'oracle.json'), 'utf8')) as OracleJson;
  const mapping = JSON.parse(readFileSync(path.join(folder, 'mapping.json'), 'utf8')) as Mapping;
  const tensors = SafetensorsReader.open(path.join(folder, 'oracle.safetensors'));
  const optional = (name: string): number[] | undefined =>
    tensors.tensors.has(name) ? floats(tensors, name) : undefined;
  const rowsOf = (name: string): number[][] => {
    const ids = floats(tensors, `${name}.input_ids`);
    const [rows, columns] = tensors.info(`${name}.input_ids`).shape as [number, number];
    const segments = optional(`${name}.segment_ids`) ?? Array.from(ids, () => 0);
    const found: number[][] = [];
    for (let at = 0; at < rows * columns; at++) {
      if (at % columns === 0 || segments[at] !== segments[at - 1]) found.push([]);
      found.at(-1)!.push(ids[at]!);
    }
    return found;
  };
  const documents = (name: string): OracleDocument[] => {
    const [rows, columns] = tensors.info(`${name}.input_ids`).shape as [number, number];
    const [ids, labels] = [floats(tensors, `${name}.input_ids`), floats(tensors, `${name}.labels`)];
    const mask = optional(`${name}.attention_mask`);
    const segments = optional(`${name}.segment_ids`);
    const types = optional(`${name}.token_type_ids`);
    const found: OracleDocument[] = [];
    for (let row = 0; row < rows; row++) {
      const groups = new Map<number, { ids: number[]; labels: number[]; types?: number[] }>();
      for (let at = row * columns; at < (row + 1) * columns; at++) {
        if (mask?.[at] === 0) continue;
        const key = segments?.[at] ?? 0;
        if (!groups.has(key)) groups.set(key, { ids: [], labels: [], ...(types && { types: [] }) });
        groups.get(key)!.ids.push(ids[at]!);
        groups.get(key)!.labels.push(labels[at]!);
        groups.get(key)!.types?.push(types![at]!);
      }
      found.push(...groups.values());
    }
    return json.kind === 'causal' ? found : found.map((document) => ({ ...document, aligned: true }));
  };
  const toTorch = (
    byInitializer: ReadonlyMap<string, ArrayLike<number>>,
    sum = true,
  ): Map<string, Float64Array> => {
    const found = new Map<string, Float64Array>();
    for (const [name, { param, layout, shape }] of Object.entries(mapping.initializers)) {
      const values = byInitializer.get(name);
      if (values === undefined) continue;
      const turned =
        layout === 'transposed' ? transpose(values, shape[0]!, shape[1]!) : Float64Array.from(values);
      const before = found.get(param);
      if (before === undefined || !sum) found.set(param, turned);
      else turned.forEach((x, i) => (before[i]! += x));
    }
    return found;
  };
  return { json, tensors, mapping, documents, rows: rowsOf, toTorch };
}

const transpose = (data: ArrayLike<number>, rows: number, columns: number): Float64Array =>
  Float64Array.from({ length: rows * columns }, (_, i) => data[(i % rows) * columns + Math.floor(i / rows)]!);

/**
 * Error of a case's gradients against the oracle (the worst parameter): whole gradients where the oracle
 * holds them (case first), else its 16 sampled entries and the norm, relative to
 * max(‖g‖, 10⁻³·‖all‖/√n).
 */
export function oracleGradientError(
  oracle: Oracle,
  name: string,
  byInitializer: ReadonlyMap<string, ArrayLike<number>>,
): { worst: string; error: number } {
  const actual = oracle.toTorch(byInitializer);
  const params = Object.entries(oracle.json.cases[name]!.params);
  const all = Math.sqrt(params.reduce((sum, [, p]) => sum + p.norm ** 2, 0));
  let [worst, error] = ['', 0];
  for (const [param, sample] of params) {
    const values = actual.get(param);
    if (values === undefined) return { worst: `${param} is missing`, error: Infinity };
    const scale = Math.max(sample.norm, (1e-3 * all) / Math.sqrt(params.length));
    const whole = name === 'first' ? floats(oracle.tensors, `grad/${param}`) : undefined;
    const square = (f: (i: number) => number, n: number): number =>
      Array.from({ length: n }, (_, i) => f(i) ** 2).reduce((a, b) => a + b, 0);
    const difference =
      whole === undefined
        ? Math.max(
            Math.sqrt(square((i) => sample.value[i]! - values[sample.index[i]!]!, sample.index.length)),
            Math.abs(Math.sqrt(square((i) => values[i]!, values.length)) - sample.norm),
          )
        : Math.sqrt(square((i) => whole[i]! - values[i]!, whole.length));
    if (!(difference / scale <= error)) [worst, error] = [param, difference / scale];
  }
  return { worst, error };
}
