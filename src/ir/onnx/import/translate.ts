/** Builds the IR graph of a plan. */
import { UserError, invariant } from '../../../errors.js';
import { builderAt } from '../../build.js';
import { makeInput, type Attrs, type Graph, type Value } from '../../graph.js';
import { TypeMismatch, type Builder } from '../../op.js';
import { tensorType } from '../../type.js';
import type { OnnxNode } from '../model.js';
import { contextOf, type Classified, type ValueFacts } from './classify.js';
import { irDtype, nodeText, shapeAttribute, type TranslateContext } from './context.js';
import type { DistanceForm } from './distance.js';
import type { Form, MaskForm } from './forms.js';
import { onnxOp } from './ops/index.js';
import type { Decision } from './parameters.js';
import type { ImportPlan, Leaf } from './plan.js';
import type { RelativeForm } from './relative.js';
import { isTokens, numericDims, one, printDims, rowsOf, sameDims, tokens, type Dims } from './shapes.js';

/** Constants of this many elements or fewer stand in the graph itself. */
const MAX_INLINE = 16;

/** Labels and messages hold the names of nodes; longer ones are cut. */
const MAX_LOC = 1000;

function builderFor(node: OnnxNode | undefined): Builder {
  const name = node?.name;
  return builderAt(name === undefined || name.length <= MAX_LOC ? name : `${name.slice(0, MAX_LOC)}…`);
}

export const isInlined = (elements: number, decision: Decision): boolean =>
  elements <= MAX_INLINE && !decision.trainable;

/** Data inputs of the program; `token_types` and `lengths` only where the model reads them. */
type DataInput = 'tokens' | 'positions' | 'documents' | 'token_types' | 'lengths';

interface Translation {
  readonly classified: Classified;
  readonly plan: ImportPlan;
  readonly decisions: ReadonlyMap<string, Decision>;
  readonly values: Map<string, Value>;
  readonly data: Map<DataInput, Value>;
  readonly masks: Map<string, Value>;
  readonly parameters: Map<string, Value>;
}

/** @returns the graph and the names of its parameters */
export function translate(
  classified: Classified,
  plan: ImportPlan,
  decisions: ReadonlyMap<string, Decision>,
  output: string,
  name: string,
): { graph: Graph; parameters: readonly string[] } {
  const typed = [...plan.leaves.values()].some((leaf) => leaf.kind === 'types');
  const names: readonly DataInput[] = [
    'tokens',
    'positions',
    'documents',
    ...(typed ? ['token_types' as const] : []),
  ];
  const data = new Map(
    names.map((input) => [input, makeInput(input, 'data', tensorType('i32', [tokens]))] as const),
  );
  const state: Translation = {
    classified,
    plan,
    decisions,
    values: new Map(),
    data,
    masks: new Map(),
    parameters: new Map(),
  };
  for (const node of plan.nodes) translateNode(state, node);
  const logits = valueOf(state, output);
  const { dims } = classified.facts.get(output)!;
  const build = builderFor(classified.facts.get(output)!.node);
  const flat = build.one('reshape', [logits], { shape: shapeAttribute(rowsOf(dims)!) });
  const graph: Graph = {
    name,
    axes: [],
    inputs: [...data.values(), ...state.masks.values(), ...state.parameters.values()],
    outputs: [{ name: 'logits', value: flat }],
  };
  return { graph, parameters: [...state.parameters.keys()] };
}

function translateNode(state: Translation, node: OnnxNode): void {
  const { classified } = state;
  const results = node.outputs.map((name) => classified.facts.get(name));
  const context = translateContext(state, node, results as readonly ValueFacts[]);
  let values: readonly (Value | undefined)[];
  try {
    values = onnxOp(node)!.translate!(context);
  } catch (error) {
    if (!(error instanceof TypeMismatch)) throw error;
    const shapes = context.operands.map((operand) => `${operand.dtype}${printDims(operand.dims)}`).join(', ');
    throw new UserError(
      `${nodeText(node)} of ${shapes}: ${error.message}`,
      'export the model again with batch and sequence as the only dynamic axes',
      { cause: error },
    );
  }
  node.outputs.forEach((name, i) => {
    const [value, facts] = [values[i], results[i]];
    if (name === '' || value === undefined || facts === undefined) return;
    const dims = value.type.dims.map((d) => d.size);
    if (!sameDims(dims, facts.dims) || value.type.dtype !== irDtype(facts.dtype))
      throw new UserError(
        `${nodeText(node)}: its operands do not fit together: the result would be ${value.type.dtype}${printDims(dims)}, expected ${facts.dtype}${printDims(facts.dims)}`,
        'check the model with onnx.checker, or export it again',
      );
    state.values.set(name, value);
  });
}

function translateContext(
  state: Translation,
  node: OnnxNode,
  results: readonly ValueFacts[],
): TranslateContext {
  const { facts, opset, limit } = state.classified;
  const context = contextOf(node, opset, facts, limit);
  const leaf = (index: number): Leaf | undefined => state.plan.leaves.get(node.inputs[index] ?? '');
  const build = builderFor(node);
  const value = (index: number): Value => {
    context.operand(index);
    return valueOf(state, node.inputs[index]!);
  };
  // Not spread into another object: that takes longer than most translations.
  return Object.assign(context, {
    build,
    value,
    results,
    positions: () => state.data.get('positions')!,
    documents: () => state.data.get('documents')!,
    lengths: () => lengthsInput(state),
    positionOffset: (index: number) => {
      const found = leaf(index);
      return found?.kind === 'form' && found.form.kind === 'iota' ? found.form.offset : undefined;
    },
    isData: (index: number) => facts.get(node.inputs[index]!)?.data === true,
    causalMask: (dims: Dims, window?: number) => {
      const form = { kind: 'mask', additive: true } as const;
      return maskInput(
        state,
        window === undefined ? { ...form, mask: 'causal' } : { ...form, mask: 'window', window },
        dims,
      );
    },
    additiveMask: (index: number) => {
      const [operand, found] = [context.operand(index), leaf(index)];
      if (irDtype(operand.dtype) !== 'bool') return value(index);
      if (found?.kind === 'form' && found.form.kind === 'mask')
        return maskInput(state, { ...found.form, additive: true }, operand.dims);
      const number = (data: number): Value =>
        build.one('constant', [], { dtype: 'f32', shape: [], data: [data] });
      return build.one('where', [value(index), number(0), number(-Infinity)]);
    },
  });
}

/** The IR value of a name: a translated node's, or a leaf's, made at its first use. */
function valueOf(state: Translation, name: string): Value {
  const known = state.values.get(name);
  if (known !== undefined) return known;
  const leaf = state.plan.leaves.get(name);
  const facts = state.classified.facts.get(name)!;
  if (leaf === undefined && facts.node !== undefined && state.plan.nodes.includes(facts.node))
    throw new UserError(
      `${nodeText(facts.node)}: its result '${name}' is not available while training`,
      'export the model without what reads it',
    );
  invariant(leaf !== undefined, `'${name}' is translated before its readers`);
  const value = leafValue(state, name, leaf, facts);
  state.values.set(name, value);
  return value;
}

function leafValue(state: Translation, name: string, leaf: Leaf, facts: ValueFacts): Value {
  const build = builderFor(facts.node);
  switch (leaf.kind) {
    case 'tokens':
    case 'types': {
      const input = state.data.get(leaf.kind === 'tokens' ? 'tokens' : 'token_types')!;
      return build.one('reshape', [input], { shape: shapeAttribute(facts.dims) });
    }
    case 'literal':
      return build.one('constant', [], {
        dtype: irDtype(facts.dtype),
        shape: numericDims(facts.dims)!,
        data: leaf.data,
      });
    case 'form':
      return formValue(state, leaf.form, facts);
    case 'length':
      return lengthValue(state, build, leaf);
    case 'stored':
      return storedValue(state, name, facts);
  }
}

/** Tokens of the document of each token, i32[S]. */
function lengthsInput({ data }: Translation): Value {
  const known = data.get('lengths') ?? makeInput('lengths', 'data', tensorType('i32', [tokens]));
  data.set('lengths', known);
  return known;
}

function lengthValue(
  state: Translation,
  build: Builder,
  { form: { triangle, factor, power }, rank }: Extract<Leaf, { kind: 'length' }>,
): Value {
  const number = (data: number): Value =>
    build.one('constant', [], { dtype: 'f32', shape: [], data: [data] });
  const n = build.one('cast', [lengthsInput(state)], { to: 'f32' });
  const half = (): Value => build.one('mul', [build.one('add', [n, number(1)]), number(0.5)]);
  const base = triangle ? build.one('mul', [n, half()]) : n;
  const raised = power === 1 ? base : build.one('pow', [base, number(power)]);
  const scaled = factor === 1 ? raised : build.one('mul', [raised, number(factor)]);
  const shape = shapeAttribute([tokens, ...Array.from({ length: rank - 1 }, () => one)]);
  return build.one('reshape', [scaled], { shape });
}

function storedValue(state: Translation, name: string, facts: ValueFacts): Value {
  const stored = facts.stored!;
  // A Constant node's tensor is named after its output; an initializer after itself.
  const decision = state.decisions.get(stored.name)!;
  const shape = numericDims(facts.dims)!;
  if (isInlined(stored.elementCount, decision))
    return builderFor(facts.node).one('constant', [], {
      dtype: 'f32',
      shape,
      data: Array.from(stored.read().toFloat32()),
    });
  const value = makeInput(name, 'parameter', tensorType('f32', [...shape]), {
    trainable: decision.trainable,
  });
  state.parameters.set(name, value);
  return value;
}

function formValue(state: Translation, form: Form, facts: ValueFacts): Value {
  const build = builderFor(facts.node);
  const dtype = irDtype(facts.dtype);
  if (form.kind === 'mask') {
    const mask = maskInput(state, form, facts.dims);
    if (form.negated === true) return build.one('neg', [mask]);
    if (form.cast === true) return build.one('cast', [mask], { to: dtype });
    return form.inverted === true ? build.one('not', [mask]) : mask;
  }
  if (form.kind === 'distance' || form.kind === 'relative') return offsetInput(state, form, facts);
  if (form.kind === 'fill') {
    const scalar = build.one('constant', [], { dtype, shape: [], data: [form.value] });
    return facts.dims.length === 0
      ? scalar
      : build.one('broadcast', [scalar], { shape: shapeAttribute(facts.dims), axes: [] });
  }
  const positions = state.data.get('positions')!;
  const offset = (): Value => build.one('constant', [], { dtype: 'i32', shape: [], data: [form.offset] });
  const moved = form.offset === 0 ? positions : build.one('add', [positions, offset()]);
  const alone = facts.dims.map((size) => (isTokens(size) ? size : one));
  const open = alone.length === 1 ? moved : build.one('reshape', [moved], { shape: shapeAttribute(alone) });
  const shaped = sameDims(alone, facts.dims)
    ? open
    : build.one('broadcast', [open], { shape: shapeAttribute(facts.dims), axes: [] });
  return dtype === 'i32' ? shaped : build.one('cast', [shaped], { to: dtype });
}

/**
 * The input that stands for a recognised mask until attention is: one for each kind, shape and element type.
 * Its attributes say what it is; `recognize` consumes it, it is never fed.
 */
function maskInput(state: Translation, form: MaskForm, dims: Dims): Value {
  const window =
    form.mask === 'window'
      ? [form.window, ...(form.ahead === undefined ? [] : [form.ahead])].map((n) => `:${n}`).join('')
      : '';
  const stem = `mask:${form.mask}${window}:${form.additive ? 'additive' : 'bool'}`;
  const key = `${stem} ${printDims(dims)}`;
  const known = state.masks.get(key);
  if (known !== undefined) return known;
  const type = tensorType(form.additive ? 'f32' : 'bool', dims);
  const value = makeInput(`${stem}#${state.masks.size}`, 'data', type, {
    form: 'mask',
    kind: form.mask,
    ...(form.mask === 'window' ? { window: form.window } : {}),
    ...(form.mask === 'window' && form.ahead !== undefined ? { ahead: form.ahead } : {}),
    additive: form.additive,
  });
  state.masks.set(key, value);
  return value;
}

/** The input that stands for a function of the distance between tokens until attention takes it; like a mask. */
function offsetInput(
  state: Translation,
  form: DistanceForm | RelativeForm,
  { dims, dtype }: ValueFacts,
): Value {
  const { kind: _kind, ...rest } = form;
  const stem = form.kind === 'distance' ? `distance:${form.of}` : 'relative';
  const key = `${stem} ${printDims(dims)} ${dtype} ${JSON.stringify(rest)}`;
  const known = state.masks.get(key);
  if (known !== undefined) return known;
  const attrs: Attrs =
    form.kind === 'distance'
      ? { kind: 'distance', of: form.of, factors: [...form.factors] }
      : { kind: 'relative', before: form.before, count: form.count, table: [...form.table] };
  const type = tensorType(irDtype(dtype), dims);
  const value = makeInput(`${stem}#${state.masks.size}`, 'data', type, { form: 'mask', ...attrs });
  state.masks.set(key, value);
  return value;
}
