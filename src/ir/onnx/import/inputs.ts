/** Roles of graph inputs, by the names that Hugging Face exports give them. */
import { UserError } from '../../../errors.js';
import type { OnnxDtype, OnnxModel, OnnxValueInfo } from '../model.js';
import { constantSize } from '../../size.js';
import { one, tokens, zero, type Dims } from './shapes.js';

/**
 * `tokens`: token ids. `positions`: position within the document. `ones`: a padding mask, all true, because
 * training packs documents and never pads. `types`: the segment of each token, from the data.
 * `labels`: what a loss of the model's own compares logits with; its shape only may matter to the logits.
 * `past`: a KV cache, empty. `prefill`: whether a cache is read, which it is not.
 */
export type InputRole = 'tokens' | 'positions' | 'ones' | 'types' | 'labels' | 'past' | 'prefill';

export interface BoundInput {
  readonly name: string;
  readonly role: InputRole;
  readonly dtype: OnnxDtype;
  readonly dims: Dims;
}

const ROLES: ReadonlyMap<string, InputRole> = new Map<string, InputRole>([
  ['input_ids', 'tokens'],
  ['position_ids', 'positions'],
  ['attention_mask', 'ones'],
  ['token_type_ids', 'types'],
]);

const LABELS: ReadonlySet<string> = new Set(['labels', 'label', 'targets', 'target']);

/** Whether an input has the name of labels. */
export const isLabels = ({ name }: OnnxValueInfo): boolean => LABELS.has(name);

/** What an input is by its name; undefined: not one of those that models take. */
export const roleOf = (input: OnnxValueInfo): InputRole | undefined =>
  isLabels(input) ? 'labels' : ROLES.get(input.name);

const DYNAMIC_FLAG =
  'export with dynamic axes: dynamic_shapes={"input_ids": {0: "batch", 1: "sequence"}, …}, the same for every input';

/**
 * Binds the batch to 1 and the sequence to S, whatever their symbols are called.
 * @param used names of the inputs that the logits depend on
 * @throws UserError naming the input that cannot be bound, with the export flag that would change it
 */
export function bindInputs(model: OnnxModel, used: ReadonlySet<string>): ReadonlyMap<string, BoundInput> {
  const bound = new Map<string, BoundInput>();
  for (const input of model.inputs) if (used.has(input.name)) bound.set(input.name, bindInput(model, input));
  return bound;
}

function bindInput(model: OnnxModel, input: OnnxValueInfo): BoundInput {
  const fail = (problem: string, hint: string): never => {
    throw new UserError(`${model.path}: input '${input.name}' ${problem}`, hint);
  };
  if (input.name === 'use_cache_branch' && input.elemType === 'bool')
    return { name: input.name, role: 'prefill', dtype: 'bool', dims: [one] };
  if (/past|cache/i.test(input.name)) return emptyCache(input, fail);
  if (isLabels(input)) return labelsInput(input);
  const role =
    ROLES.get(input.name) ??
    fail(
      `is unknown, expected ${[...ROLES.keys()].join(', ')}`,
      'export a decoder or encoder that takes token ids, or rename the input',
    );
  const integers: readonly OnnxDtype[] = ['i64', 'i32'];
  const allowed = role === 'ones' ? [...integers, 'bool', 'f32'] : integers;
  const dtype = input.elemType;
  if (dtype === undefined || !allowed.includes(dtype))
    return fail(
      `has element type ${dtype ?? 'unknown'}, expected ${allowed.join(' or ')}`,
      'export the model again',
    );
  const dims = input.dims ?? fail('declares no shape', DYNAMIC_FLAG);
  if (dims.length !== 2)
    fail(
      `has ${dims.length} dims, expected [batch, sequence]`,
      role === 'ones' ? 'export with the 2-D padding mask, not a 4-D one' : 'export the model for text only',
    );
  const [batch, sequence] = dims;
  if (typeof batch === 'number' && batch !== 1) fail(`has a batch frozen at ${batch}`, DYNAMIC_FLAG);
  if (typeof sequence === 'number') fail(`has a sequence frozen at ${sequence} tokens`, DYNAMIC_FLAG);
  return { name: input.name, role, dtype, dims: [one, tokens] };
}

/** A batch of one: every other open dim is the sequence. */
function labelsInput({ name, elemType, dims = [] }: OnnxValueInfo): BoundInput {
  const sizes = dims.map((size, i) =>
    typeof size === 'number' ? constantSize(size) : i === 0 ? one : tokens,
  );
  return { name, role: 'labels', dtype: elemType ?? 'i64', dims: sizes };
}

/** A cache of no tokens: its batch is 1, its other open dims (the length, and in some files the head size) are 0. */
function emptyCache(input: OnnxValueInfo, fail: (problem: string, hint: string) => never): BoundInput {
  const floats: readonly OnnxDtype[] = ['f32', 'f16', 'bf16'];
  const { elemType: dtype, dims = [] } = input;
  const open = dims.slice(1).filter((size) => typeof size !== 'number');
  if (dtype === undefined || !floats.includes(dtype) || open.length === 0)
    return fail(
      `is no KV cache of open length, it is ${dtype ?? 'unknown'}[${dims.join(', ')}]`,
      'export the model with use_cache=False',
    );
  const sizes = dims.map((size, i) => (i === 0 ? one : typeof size === 'number' ? constantSize(size) : zero));
  return { name: input.name, role: 'past', dtype, dims: sizes };
}
