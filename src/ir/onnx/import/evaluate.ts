/** Values of index subgraphs at a length, by onnxruntime: one document alone, nothing padded. */
import { UserError } from '../../../errors.js';
import { evaluateSize } from '../../size.js';
import { createEvaluator } from '../evaluate.js';
import type { OnnxDtype, TensorData, TensorValue } from '../model.js';
import type { Classified, ValueFacts } from './classify.js';
import { checkEvaluable, MAX_VALUE_BYTES, runBytes, spend } from './budget.js';
import type { InputRole } from './inputs.js';
import { otherId } from './padding.js';
import { TOKENS, type Dims } from './shapes.js';

export { MAX_VALUE_BYTES } from './budget.js';

export interface IndexEvaluator {
  /** Values by name, at a length. @throws UserError when onnxruntime refuses */
  run(length: number): Promise<ReadonlyMap<string, TensorValue>>;
  release(): Promise<void>;
  /** Values computed on the way, with the results. */
  readonly inside: readonly string[];
  /** Values given from outside, by name. */
  readonly given: readonly string[];
}

const EVALUABLE: ReadonlySet<OnnxDtype> = new Set<OnnxDtype>(['f32', 'f64', 'i64', 'i32', 'bool']);

/** Whether onnxruntime can be asked for a value. */
export const isEvaluable = (facts: ValueFacts): boolean =>
  EVALUABLE.has(facts.dtype) && !facts.data && !facts.weights;

export const lengthSymbols = (length: number): ReadonlyMap<string, number> => new Map([[TOKENS, length]]);

const isGiven = (facts: ValueFacts): boolean =>
  facts.stored === undefined &&
  EVALUABLE.has(facts.dtype) &&
  (facts.input !== undefined || facts.ints !== undefined);

/** The values that `names` are computed from, down to known ones; `names` are index values. */
export function insideOf(
  classified: Classified,
  names: readonly string[],
): { inside: string[]; given: string[] } {
  const [inside, given, seen] = [[] as string[], [] as string[], new Set<string>()];
  const pending = [...names];
  for (let name = pending.pop(); name !== undefined; name = pending.pop()) {
    const facts = classified.facts.get(name);
    if (facts === undefined || seen.has(name)) continue;
    seen.add(name);
    if (isGiven(facts)) given.push(name);
    else {
      inside.push(name);
      if (facts.stored === undefined) for (const input of facts.node?.inputs ?? []) pending.push(input);
    }
  }
  return { inside, given };
}

export async function indexEvaluator(
  classified: Classified,
  names: readonly string[],
): Promise<IndexEvaluator> {
  const { inside, given } = insideOf(classified, names);
  checkEvaluable(classified, inside);
  const kept = new Set(names);
  const fed = otherId(classified.padding);
  const dtypes = new Map(given.map((name) => [name, classified.facts.get(name)!.dtype]));
  const evaluator = await createEvaluator(classified.model, names, dtypes, { maxBytes: MAX_VALUE_BYTES });
  return {
    inside,
    given,
    run: (length) => {
      spend(classified, names, runBytes(classified, inside, length, kept));
      return evaluator.run(
        new Map(given.map((name) => [name, givenValue(classified.facts.get(name)!, length, fed)])),
      );
    },
    release: () => evaluator.release(),
  };
}

/** What evaluating a subgraph at a length costs, as the size of a value: see `runBytes`. */
export const peakBytes = (classified: Classified, inside: readonly string[], length: number): number =>
  runBytes(classified, inside, length);

const shapeAt = (dims: Dims, length: number): number[] =>
  dims.map((size) => evaluateSize(size, lengthSymbols(length)));

/** @param id of every token, where tokens are compared with padding */
export function givenValue(facts: ValueFacts, length: number, id = 0): TensorValue {
  const dims = shapeAt(facts.dims, length);
  const elements =
    facts.input === undefined
      ? facts.ints!.map((size) => evaluateSize(size, lengthSymbols(length)))
      : Array.from({ length: dims.reduce((product, n) => product * n, 1) }, (_, i) =>
          elementOf(facts.input!.role, i, id),
        );
  return { dtype: facts.dtype, dims, data: typed(facts.dtype, elements) };
}

function elementOf(role: InputRole, i: number, id: number): number {
  if (role === 'positions') return i;
  return role === 'tokens' ? id : Number(role === 'ones');
}

/** Elements as they are fed. @throws UserError for types that are not */
export function typed(dtype: OnnxDtype, elements: readonly number[]): TensorData {
  switch (dtype) {
    case 'i64':
      return BigInt64Array.from(elements, BigInt);
    case 'i32':
      return Int32Array.from(elements);
    case 'f32':
      return Float32Array.from(elements);
    case 'f64':
      return Float64Array.from(elements);
    case 'bool':
      return Uint8Array.from(elements);
    default:
      throw new UserError(`values of type ${dtype} cannot be evaluated`, 'export the model in float32');
  }
}
