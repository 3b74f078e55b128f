/** Which stored tensors are parameters, and which of those are trained. */
import { UserError } from '../../../errors.js';
import { isFloat } from '../dtype.js';
import { torchName, type TorchName } from '../names.js';
import { findTiedInitializers } from '../tied.js';
import type { OnnxInitializer, OnnxModel, OnnxNode } from '../model.js';
import type { Classified } from './classify.js';
import { isSinusoidal } from './sinusoid.js';

export interface ParameterInfo {
  /** The ONNX initializer's. */
  readonly name: string;
  readonly shape: readonly number[];
  readonly trainable: boolean;
  /** Why it is trained, or not. */
  readonly reason: string;
  readonly torchName?: TorchName;
  /** Another parameter with the same content: gradients are summed, both are updated alike. */
  readonly tiedTo?: { readonly name: string; readonly transposed: boolean };
}

/**
 * Globs (`*` and `?`) over ONNX or torch names that overrule which parameters are trained. `include` wins:
 * exclude ['*'] with include ['*.norm.*'] trains the norms only.
 */
export interface TrainableOptions {
  readonly include?: readonly string[];
  readonly exclude?: readonly string[];
}

/** How a stored tensor takes part. */
export interface Decision {
  readonly trainable: boolean;
  readonly reason: string;
}

/** How a value reaches what depends on the tokens. */
type Role =
  /** As an operand beside activations. */
  | 'data'
  /** Within a function of positions. */
  | 'index'
  /** As a table read at positions. */
  | 'table'
  /** Only inside a cosine or sine. */
  | 'angle';

/**
 * The rule, for every float tensor with more than one element, and biases of one output, that the translated nodes read:
 * beside activations: trained. A table read at positions: trained, unless its columns are cosines and sines.
 * Within cosines and sines of positions only: frequencies, not trained. Within other functions of
 * positions: trained where the file knows it as a module's weight or bias.
 * @param translated in execution order
 */
export function decideTrainable(
  classified: Classified,
  translated: readonly OnnxNode[],
  stored: readonly OnnxInitializer[],
): ReadonlyMap<string, Decision> {
  const roles = rolesOf(classified, translated);
  return new Map(
    stored.map((tensor) => [
      tensor.name,
      decide(classified, tensor, roles.get(tensor.name) ?? new Set(['data'])),
    ]),
  );
}

function decide(classified: Classified, tensor: OnnxInitializer, roles: ReadonlySet<Role>): Decision {
  const { model } = classified;
  if (!model.initializers.has(tensor.name))
    return { trainable: false, reason: 'a Constant node: a trained value could not be written back' };
  if (isUnitBias(classified, tensor.name)) return { trainable: true, reason: 'the bias of one output' };
  if (tensor.elementCount <= 1) return { trainable: false, reason: 'a single number' };
  if (roles.has('data')) return { trainable: true, reason: 'used beside activations' };
  if (roles.has('table')) {
    return isSinusoidal(tensor)
      ? { trainable: false, reason: 'a table of cosines and sines' }
      : { trainable: true, reason: 'a table read at positions' };
  }
  if (!roles.has('index')) return { trainable: false, reason: 'frequencies of cosines and sines' };
  return torchName(model, tensor.name) === undefined
    ? { trainable: false, reason: 'a constant within functions of positions' }
    : { trainable: true, reason: 'a weight within a function of positions' };
}

/** Whether a single number is the bias of a product of one column: a head of one output. */
export function isUnitBias(classified: Classified, name: string): boolean {
  const stored = classified.model.initializers.get(name);
  if (stored?.dims.length !== 1 || stored.dims[0] !== 1 || !isFloat(stored.dtype)) return false;
  const known = addedToProducts.get(classified) ?? findAdded(classified);
  addedToProducts.set(classified, known);
  return known.has(name);
}

const addedToProducts = new WeakMap<Classified, ReadonlySet<string>>();

/** What is added to a product of one column, as a bias is. */
function findAdded({ nodes, facts }: Classified): ReadonlySet<string> {
  const isProduct = (name: string): boolean => {
    const product = facts.get(name)?.node;
    const weight = product?.opType === 'MatMul' ? facts.get(product.inputs[1] ?? '') : undefined;
    return weight?.stored?.dims.at(-1) === 1;
  };
  const found = new Set<string>();
  for (const { opType, inputs } of nodes) {
    const [a = '', b = '', c = ''] = inputs;
    if (opType === 'Gemm') found.add(c);
    if (opType === 'Add' && isProduct(b)) found.add(a);
    if (opType === 'Add' && isProduct(a)) found.add(b);
  }
  return found;
}

/** Most values have one role: they share these. */
const ALONE: { readonly [R in Role]: ReadonlySet<Role> } = {
  data: new Set(['data']),
  index: new Set(['index']),
  table: new Set(['table']),
  angle: new Set(['angle']),
};

function rolesOf(
  classified: Classified,
  translated: readonly OnnxNode[],
): ReadonlyMap<string, ReadonlySet<Role>> {
  const roles = new Map<string, ReadonlySet<Role>>();
  const give = (name: string, role: Role): void => {
    const known = roles.get(name);
    if (known === undefined) roles.set(name, ALONE[role]);
    else if (!known.has(role)) roles.set(name, new Set([...known, role]));
  };
  for (const node of translated.toReversed()) {
    const result = classified.facts.get(node.outputs[0]!)!;
    const own = result.data ? ALONE.data : (roles.get(node.outputs[0]!) ?? new Set<Role>());
    node.inputs.forEach((name, i) => {
      for (const role of own) give(name, passed(role, node, i, result));
    });
  }
  return roles;
}

/** Operands that are tables of cosines and sines, by operation. */
const ROTARY_TABLES: Readonly<Record<string, readonly number[]>> = {
  RotaryEmbedding: [1, 2, 3],
  GroupQueryAttention: [7, 8],
};

/** A tensor that is repeated for every token is still itself. */
const MOVES: ReadonlySet<string> = new Set(
  'Expand Tile Reshape Squeeze Unsqueeze Transpose Identity Cast'.split(' '),
);

function passed(
  role: Role,
  node: OnnxNode,
  operand: number,
  result: { data: boolean; fixed: boolean },
): Role {
  if (ROTARY_TABLES[node.opType]?.includes(operand) === true) return 'table';
  if (result.data || result.fixed || (operand === 0 && MOVES.has(node.opType))) return role;
  if (node.opType === 'Cos' || node.opType === 'Sin') return 'angle';
  if ((node.opType === 'Gather' || node.opType === 'Slice') && operand === 0 && role !== 'angle')
    return 'table';
  return role === 'data' ? 'index' : role;
}

/** Inputs that programs have of their own: data, and what the update is given. */
const PROGRAM_INPUTS: ReadonlySet<string> = new Set(
  'tokens positions documents token_types lengths labels targets teacher_ids teacher_logits hidden count lr correction1 correction2'.split(
    ' ',
  ),
);
/** What programs call a parameter's gradient and moments. */
const DERIVED_NAME = /^(?:grad|m|v)\/(.*)$/s;

/** Programs hold the names of parameters, and of gradients and moments, which have them for a part. */
const MAX_NAME = 4000;

function checkNames(model: OnnxModel, names: ReadonlySet<string>): void {
  for (const name of names) {
    if (name.length > MAX_NAME)
      throw new UserError(
        `${model.path}: a parameter has a name of ${name.length} characters, more than ${MAX_NAME}: '${name.slice(0, 60)}…'`,
        'rename that initializer in the model',
      );
    const derived = DERIVED_NAME.exec(name)?.[1];
    if (
      PROGRAM_INPUTS.has(name) ||
      /^(?:mask|distance):/.test(name) ||
      (derived !== undefined && names.has(derived))
    )
      throw new UserError(
        `${model.path}: a parameter is called '${name}', a name that ithaca's programs use themselves`,
        'rename that initializer in the model',
      );
  }
}

/** Adds names, ties and the user's choice. @throws UserError for a pattern that names nothing */
export function parameterInfos(
  model: OnnxModel,
  parameters: readonly OnnxInitializer[],
  decisions: ReadonlyMap<string, Decision>,
  options: { readonly weights: boolean; readonly trainable?: TrainableOptions },
): readonly ParameterInfo[] {
  const own = new Set(parameters.map((tensor) => tensor.name));
  checkNames(model, own);
  const ties = new Map(
    (options.weights ? findTiedInitializers(model) : [])
      .filter(({ a, b }) => own.has(a) && own.has(b))
      .map(({ a, b, relation }) => [b, { name: a, transposed: relation === 'transposed' }] as const),
  );
  const [include, exclude] = [options.trainable?.include ?? [], options.trainable?.exclude ?? []].map(
    (globs) => globs.map((glob) => ({ glob, pattern: globPattern(glob), used: false })),
  );
  const matching = (names: readonly string[], globs: typeof include): string | undefined => {
    const hits = globs!.filter(({ pattern }) => names.some((name) => pattern.test(name)));
    for (const hit of hits) hit.used = true;
    return hits[0]?.glob;
  };
  const infos = parameters.map(({ name, dims }): ParameterInfo => {
    const torch = torchName(model, name);
    const names = torch === undefined ? [name] : [name, torch.name];
    const [included, excluded] = [matching(names, include), matching(names, exclude)];
    const chosen =
      included !== undefined
        ? { trainable: true, reason: `trainable.include '${included}'` }
        : excluded !== undefined
          ? { trainable: false, reason: `trainable.exclude '${excluded}'` }
          : decisions.get(name)!;
    const tiedTo = ties.get(name);
    return {
      name,
      shape: dims,
      ...chosen,
      ...(torch === undefined ? {} : { torchName: torch }),
      ...(tiedTo === undefined ? {} : { tiedTo }),
    };
  });
  const unused = [...include!, ...exclude!].find(({ used }) => !used);
  if (unused !== undefined)
    throw new UserError(
      `trainable: no parameter is called '${unused.glob}'`,
      `parameters are called like ${infos
        .slice(0, 3)
        .map((info) => info.torchName?.name ?? info.name)
        .join(', ')}; * stands for any text`,
    );
  return infos;
}

const globPattern = (glob: string): RegExp =>
  new RegExp(
    `^${glob
      .replace(/[.+^${}()|[\]\\]/g, String.raw`\$&`)
      .replace(/\*+/g, '.*')
      .replaceAll('?', '.')}$`,
    'su',
  );
