/**
 * Why a form that holds at the lengths tried holds at every length; the argument is in
 * docs/decisions/0002-recognition-by-evaluation.md.
 *
 * An element of a *uniform* subgraph depends on its row i and column j only through comparisons of i, j,
 * i − j and constants. Let K bound the sum of those constants. Moving two of 0, i, j and S that are more
 * than K apart further apart changes no comparison, so whatever happens at some length happens at length
 * 3·(K + 1) already.
 */
import { constantOf, subSizes } from '../../size.js';
import type { OnnxNode } from '../model.js';
import { isStandard, type Classified, type ValueFacts } from './classify.js';
import { isOne, tokens, type Dims } from './shapes.js';
import type { Form } from './forms.js';

/** What an element of a value is, as a function of its place. */
type Kind =
  /** The same everywhere. */
  | { readonly kind: 'constant'; readonly magnitude: number }
  /** One of finitely many constants, chosen by comparisons. */
  | { readonly kind: 'flag' }
  /** A row or column number plus a constant, or a constant. */
  | { readonly kind: 'index' }
  /** The difference of two of those. */
  | { readonly kind: 'difference' };

export interface Uniformity {
  /** K, when the subgraph is uniform. */
  readonly reach: number | undefined;
  /** Why it is not. */
  readonly obstacle: string | undefined;
  /** Forms of inner values that the argument uses; they must be checked at every length too. */
  readonly assumed: ReadonlyMap<string, Form>;
}

const flag: Kind = { kind: 'flag' };
const index: Kind = { kind: 'index' };
const constant = (magnitude: number): Kind => ({ kind: 'constant', magnitude });

/** Operand that carries elements; the others are shapes, axes or bounds. */
const MOVES = new Set([
  'Reshape',
  'Flatten',
  'Squeeze',
  'Unsqueeze',
  'Transpose',
  'Expand',
  'Tile',
  'Identity',
  'Cast',
  'Slice',
  'Trilu',
]);
const COMPARES = new Set(['Equal', 'Less', 'LessOrEqual', 'Greater', 'GreaterOrEqual']);
const LOGIC = new Set(['And', 'Or', 'Not', 'Xor', 'IsNaN']);

/** @param formOf forms that hold at a few small lengths */
export function uniformity(
  classified: Classified,
  inside: readonly string[],
  formOf: (name: string) => Form | undefined,
): Uniformity {
  const kinds = new Map<string, Kind>();
  const assumed = new Map<string, Form>();
  const names = new Set(inside);
  let reach = 0;
  const state: State = {
    classified,
    assume: (name) => {
      const form = formOf(name);
      if (form !== undefined && classified.facts.get(name)?.input === undefined) assumed.set(name, form);
      return form;
    },
    count: (magnitude) => (reach += magnitude),
    kindOf: (name) => kinds.get(name) ?? outerKind(classified.facts.get(name)),
  };
  for (const node of classified.nodes) {
    if (!node.outputs.some((name) => names.has(name)) || node.opType === 'Constant') continue;
    const kind = isStandard(node) ? kindOfNode(node, state) : undefined;
    const dims = classified.facts.get(node.outputs[0]!)?.dims ?? [];
    if (kind === undefined || !dims.every(isPlain))
      return { reach: undefined, obstacle: `${node.opType} node ${node.name}`, assumed: new Map() };
    state.count(dims.reduce((sum, size) => sum + Math.abs(constantOf(subSizes(size, tokens)) ?? 0), 0));
    for (const name of node.outputs) kinds.set(name, kind);
  }
  return { reach, obstacle: undefined, assumed };
}

interface State {
  readonly classified: Classified;
  assume(name: string): Form | undefined;
  count(magnitude: number): void;
  kindOf(name: string): Kind | undefined;
}

/** A constant, or S plus a constant. */
const isPlain = (size: Dims[number]): boolean =>
  constantOf(size) !== undefined || constantOf(subSizes(size, tokens)) !== undefined;

const MAX_CONSTANTS = 16;

/** Kind of a value that the subgraph is given. Lengths have none: they may stand as shapes and bounds only. */
function outerKind(facts: ValueFacts | undefined): Kind | undefined {
  if (facts?.input !== undefined) return facts.input.role === 'positions' ? index : constant(1);
  const elements = elementsOf(facts);
  return elements && constant(elements.reduce((most, value) => Math.max(most, Math.abs(value)), 0));
}

/** Elements of a small constant, in order. */
export function elementsOf(facts: ValueFacts | undefined): readonly number[] | undefined {
  if (facts?.ints !== undefined) {
    const numbers = facts.ints.map(constantOf);
    return numbers.length <= MAX_CONSTANTS && numbers.every((n) => n !== undefined) ? numbers : undefined;
  }
  const { stored } = facts ?? {};
  if (
    stored === undefined ||
    stored.elementCount > MAX_CONSTANTS ||
    stored.dtype === 'string' ||
    !stored.isPresent()
  )
    return undefined;
  return Array.from(stored.read().toFloat64());
}

function kindOfNode(node: OnnxNode, state: State): Kind | undefined {
  const { opType, inputs } = node;
  if (MOVES.has(opType)) return moved(node, state);
  if (opType === 'Range') return rangeKind(node, state);
  if (opType === 'ConstantOfShape') return filled(node);
  if (opType === 'CumSum') {
    const form = state.assume(inputs[0]!);
    if (form?.kind !== 'fill' || (form.value !== 0 && form.value !== 1)) return undefined;
    state.count(form.value);
    return form.value === 0 ? constant(0) : index;
  }
  if (opType === 'Gather' || opType === 'GatherND' || opType === 'GatherElements')
    return readKind(node, state);
  if (opType === 'ReduceMax' || opType === 'ReduceMin') return asFlag(state.kindOf(inputs[0]!));
  const kinds = inputs.map((name) => state.kindOf(name));
  if (kinds.some((kind) => kind === undefined)) return undefined;
  return combined(node, kinds as Kind[], state);
}

function filled(node: OnnxNode): Kind {
  const value = node.attributes.get('value');
  return constant(value?.kind === 'tensor' ? Math.abs(value.value.read().toFloat64()[0] ?? 0) : 0);
}

const asFlag = (kind: Kind | undefined): Kind | undefined =>
  kind?.kind === 'flag' || kind?.kind === 'constant' ? flag : undefined;

/** Elements move, or are repeated, or cut off; row and column numbers stay apart. */
function moved(node: OnnxNode, state: State): Kind | undefined {
  const kind = state.kindOf(node.inputs[0]!);
  const [from, to] = [node.inputs[0]!, node.outputs[0]!].map(
    (name) => state.classified.facts.get(name)!.dims,
  );
  if (node.opType === 'Reshape' && !sameExtents(from!, to!)) return undefined;
  if (node.opType === 'Slice' || node.opType === 'Trilu')
    for (const name of node.inputs.slice(1, 3)) {
      const facts = state.classified.facts.get(name);
      const numbers =
        facts?.ints?.map((size) => constantOf(size) ?? constantOf(subSizes(size, tokens)) ?? 0) ?? [];
      state.count(numbers.reduce((sum, n) => sum + (Math.abs(n) > 2 ** 30 ? 0 : Math.abs(n)), 0));
    }
  if (node.opType === 'Trilu') return asFlag(kind);
  if (node.opType !== 'Cast' || kind?.kind === 'constant') return kind;
  const { dtype } = state.classified.facts.get(node.outputs[0]!)!;
  // Narrower types would wrap or round large row numbers.
  const exact = ['i64', 'i32', 'f32', 'f64'].includes(dtype) || kind?.kind === 'flag';
  return dtype === 'bool' ? flag : exact ? kind : undefined;
}

const sameExtents = (a: Dims, b: Dims): boolean => {
  const [x, y] = [a, b].map((dims) =>
    dims
      .filter((size) => !isOne(size))
      .map((size) => size.key)
      .join(' '),
  );
  return x === y;
};

function rangeKind(node: OnnxNode, state: State): Kind | undefined {
  const [start, , step] = node.inputs.map((name) => elementsOf(state.classified.facts.get(name)));
  if (start?.length !== 1 || step?.[0] !== 1) return undefined;
  state.count(Math.abs(start[0]!));
  return index;
}

/** Reading at an index: of something that is the same everywhere, or is its own index. */
function readKind(node: OnnxNode, state: State): Kind | undefined {
  const form = state.kindOf(node.inputs[0]!)?.kind === 'constant' ? undefined : state.assume(node.inputs[0]!);
  if (form === undefined) return state.kindOf(node.inputs[0]!)?.kind === 'constant' ? flag : undefined;
  const at = state.kindOf(node.inputs[1]!);
  if (form.kind === 'fill') return constant(Math.abs(form.value));
  if (
    form.kind !== 'iota' ||
    node.opType === 'GatherElements' ||
    (at?.kind !== 'index' && at?.kind !== 'constant')
  )
    return undefined;
  state.count(Math.abs(form.offset));
  return index;
}

function combined(node: OnnxNode, kinds: readonly Kind[], state: State): Kind | undefined {
  const all = (...allowed: readonly Kind['kind'][]): boolean =>
    kinds.every((kind) => allowed.includes(kind.kind));
  const magnitude = kinds.reduce((sum, kind) => sum + (kind.kind === 'constant' ? kind.magnitude : 0), 0);
  const differences = kinds.filter((kind) => kind.kind === 'difference').length;
  switch (node.opType) {
    case 'Add':
    case 'Sub': {
      if (all('constant')) return constant(magnitude);
      if (all('constant', 'flag')) return flag;
      const indices = kinds.filter((kind) => kind.kind === 'index').length;
      if (!all('constant', 'index', 'difference') || indices + 2 * differences > 2) return undefined;
      if (indices === 2) return node.opType === 'Sub' ? { kind: 'difference' } : undefined;
      // c − i and c − (i − j) turn around; only the second is still a difference.
      if (node.opType === 'Sub' && kinds[0]!.kind === 'constant' && indices === 1) return undefined;
      state.count(magnitude);
      return differences > 0 ? { kind: 'difference' } : index;
    }
    case 'Abs':
      // |i − j| ≤ c compares i − j with c and with −c.
      return all('constant') ? constant(magnitude) : all('constant', 'flag') ? flag : differenceOnly(kinds);
    case 'Mul':
      return productKind(node, kinds, state);
    case 'Max':
    case 'Min':
      if (all('constant')) return constant(magnitude);
      if (all('constant', 'flag')) return flag;
      state.count(magnitude);
      return all('constant', 'index') ? index : undefined;
    case 'Where':
      if (!['constant', 'flag'].includes(kinds[0]!.kind)) return undefined;
      if (kinds.slice(1).every((kind) => kind.kind === 'constant' || kind.kind === 'flag')) return flag;
      state.count(magnitude);
      return kinds.slice(1).every((kind) => kind.kind === 'constant' || kind.kind === 'index')
        ? index
        : undefined;
    case 'Concat': {
      if (all('constant', 'flag')) return flag;
      if (!all('constant', 'index')) return undefined;
      state.count(node.inputs.length + magnitude);
      return index;
    }
    default:
      if (LOGIC.has(node.opType)) return all('constant', 'flag') ? flag : undefined;
      if (!COMPARES.has(node.opType)) return undefined;
      if (all('constant', 'flag')) return flag;
      if (differences > 0 ? !(differences === 1 && all('constant', 'difference')) : !all('constant', 'index'))
        return undefined;
      state.count(magnitude);
      return flag;
  }
}

const differenceOnly = (kinds: readonly Kind[]): Kind | undefined =>
  kinds.every(({ kind }) => kind === 'difference') ? { kind: 'difference' } : undefined;

function productKind(node: OnnxNode, kinds: readonly Kind[], state: State): Kind | undefined {
  if (kinds.every((kind) => kind.kind === 'constant'))
    return constant(
      kinds.reduce((product, kind) => product * (kind.kind === 'constant' ? kind.magnitude : 1), 1),
    );
  if (kinds.every((kind) => kind.kind === 'constant' || kind.kind === 'flag')) return flag;
  for (const [i, name] of node.inputs.entries()) {
    const form = state.assume(name);
    if (form?.kind === 'fill' && form.value === 0) return constant(0);
    if (form?.kind === 'fill' && form.value === 1) return kinds[1 - i];
  }
  return undefined;
}
