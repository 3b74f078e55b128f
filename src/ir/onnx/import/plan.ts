/** The walk back from the logits: what is recognised as a whole, what is stored, what is translated. */
import { UserError } from '../../../errors.js';
import { constantOf } from '../../size.js';
import type { OnnxNode } from '../model.js';
import type { Classified, ValueFacts } from './classify.js';
import { nodeText, type OnnxOp } from './context.js';
import { formText, type Form } from './forms.js';
import { lengthOf, lengthText, type LengthForm } from './length.js';
import { onnxOp } from './ops/index.js';
import { isUnitBias } from './parameters.js';
import { isTokens } from './shapes.js';
import { MAX_LITERAL, recognizer, type Recognizer } from './recognize.js';

/** A value that the IR gets without translating a node. */
export type Leaf =
  | { readonly kind: 'tokens' | 'types' }
  | { readonly kind: 'form'; readonly form: Form }
  /** A number for each token that is the same all over its document, of so many dims. */
  | { readonly kind: 'length'; readonly form: LengthForm; readonly rank: number }
  | { readonly kind: 'literal'; readonly data: readonly number[] }
  | { readonly kind: 'stored' };

export interface ImportPlan {
  readonly leaves: ReadonlyMap<string, Leaf>;
  /** Nodes to translate, in execution order. */
  readonly nodes: readonly OnnxNode[];
  readonly notes: readonly string[];
  /** Longest document for which every recognised form was proved; undefined: any. */
  readonly provenLength: number | undefined;
}

/** Positions of the operands of a node that become IR values; where it pools, only what it pools does. */
export const valueOperands = (op: OnnxOp, node: OnnxNode, pool: ValueFacts['pool']): readonly number[] => {
  const read = pool === undefined ? (op.values ?? node.inputs.map((_, i) => i)) : [0];
  return read.filter((i) => (node.inputs[i] ?? '') !== '');
};

/** Most values: computed from the tokens, and no leaf. */
const isActivation = ({ data, input, ints, stored }: ValueFacts): boolean =>
  data && input === undefined && ints === undefined && stored === undefined;

/** @throws UserError naming the first node that neither has a closed form nor can be translated */
export async function planImport(classified: Classified, output: string): Promise<ImportPlan> {
  const recognition = await recognizer(classified);
  const leaves = new Map<string, Leaf>();
  const nodes = new Set<OnnxNode>();
  const notes: string[] = [];
  const seen = new Set<string>();
  let provenLength: number | undefined;
  const pending = [{ name: output, reader: undefined as OnnxNode | undefined }];
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { name, reader } = next;
    if (seen.has(name)) continue;
    seen.add(name);
    const facts = classified.facts.get(name)!;
    const found = isActivation(facts)
      ? undefined
      : ((await scaleOf(classified, name, reader, recognition)) ??
        (isUnitBias(classified, name) ? { leaf: { kind: 'stored' as const } } : undefined) ??
        (await leafOf(name, facts, reader, recognition)));
    if (found !== undefined) {
      leaves.set(name, found.leaf);
      if (found.note !== undefined) notes.push(found.note);
      if (found.provenLength !== undefined)
        provenLength = Math.min(provenLength ?? Infinity, found.provenLength);
      continue;
    }
    const node = facts.node!;
    if (nodes.has(node)) continue;
    nodes.add(node);
    const op = onnxOp(node);
    if (op?.translate === undefined || isNewMatrix(classified, node, facts))
      throw untranslatable(node, name, facts, recognition);
    for (const i of valueOperands(op, node, facts.pool))
      pending.push({ name: node.inputs[i]!, reader: node });
  }
  return { leaves, nodes: classified.nodes.filter((node) => nodes.has(node)), notes, provenLength };
}

/**
 * Whether a node first pairs rows with columns. Translated, it would mix the tokens of all documents: what
 * pairs tokens must be recognised.
 */
function isNewMatrix(classified: Classified, node: OnnxNode, facts: ValueFacts): boolean {
  const pairs = (dims: ValueFacts['dims']): boolean => dims.filter(isTokens).length > 1;
  if (facts.data || !pairs(facts.dims)) return false;
  return !node.inputs.some((name) => pairs(classified.facts.get(name)?.dims ?? []));
}

/** What pooled rows are multiplied or divided by, where that is a function of the length of their document. */
async function scaleOf(
  classified: Classified,
  name: string,
  reader: OnnxNode | undefined,
  recognition: Recognizer,
): Promise<FoundLeaf | undefined> {
  if (reader === undefined || !['Mul', 'Div'].includes(reader.opType)) return undefined;
  const rows = reader.inputs
    .map((input) => classified.facts.get(input))
    .find((other) => other?.rows === true);
  if (rows === undefined) return undefined;
  const form = await lengthOf(classified, name, async (inner) => {
    const found = await recognition.recognize(inner);
    const holds = found?.kind === 'form' && found.provenLength === undefined;
    return holds ? found.form : undefined;
  });
  return (
    form && {
      leaf: { kind: 'length', form, rank: rows.dims.length },
      note: `${name} is ${lengthText(form)}, proved for every length`,
    }
  );
}

interface FoundLeaf {
  readonly leaf: Leaf;
  readonly note?: string;
  readonly provenLength?: number | undefined;
}

async function leafOf(
  name: string,
  facts: ValueFacts,
  reader: OnnxNode | undefined,
  recognition: Recognizer,
): Promise<FoundLeaf | undefined> {
  const role = facts.input?.role;
  if (role === 'tokens') return { leaf: { kind: role } };
  if (role === 'types')
    return { leaf: { kind: role }, note: `${name} is read from the data, 0 where a document has none` };
  if (role === 'labels')
    throw new UserError(
      `${reader === undefined ? 'the output' : nodeText(reader)}: the logits are computed from the labels '${name}'`,
      'export the model without labels, or give it decoder inputs of their own',
    );
  if (role === 'past') return { leaf: { kind: 'literal', data: [] } };
  if (facts.ints !== undefined) {
    const data = facts.ints.map(constantOf);
    if (data.every((element) => element !== undefined)) return { leaf: { kind: 'literal', data } };
    throw new UserError(
      `${reader === undefined ? 'the output' : nodeText(reader)}: computes with the sequence length (${facts.ints[0]!.key})`,
      'a packed sequence has no one length: use a model whose values do not depend on it (no pooling, no length scaling)',
    );
  }
  if (facts.stored !== undefined) return { leaf: storedLeaf(name, facts) };
  if (facts.data || facts.weights) return undefined;
  const found = await recognition.recognize(name);
  if (found === undefined) return undefined;
  if (found.kind === 'literal') return { leaf: found };
  const { form, provenLength } = found;
  const notable = (form.kind !== 'fill' || provenLength !== undefined) && facts.input === undefined;
  const proof =
    provenLength === undefined ? 'proved for every length' : `proved up to ${provenLength} tokens`;
  return {
    leaf: { kind: 'form', form },
    ...(notable ? { note: `${name} is ${formText(form)}, ${proof}` } : {}),
    provenLength,
  };
}

function storedLeaf(name: string, facts: ValueFacts): Leaf {
  const stored = facts.stored!;
  const isFloat = ['f32', 'f64', 'f16', 'bf16'].includes(stored.dtype);
  if (isFloat && (stored.elementCount > 1 || !stored.isPresent())) return { kind: 'stored' };
  if (stored.elementCount > MAX_LITERAL)
    throw new UserError(
      `the constant '${name}' is a table of ${stored.elementCount} ${stored.dtype} elements used beside activations`,
      'only floating tables can be read at run time; export the model without it',
    );
  return { kind: 'literal', data: Array.from(stored.read().toFloat64()) };
}

function dataHint(opType: string): string {
  if (opType === 'CumSum')
    return 'positions may not be counted from the tokens (as RoBERTa does): export with position_ids as an input';
  return 'use a plain decoder or encoder in eager attention mode';
}

function untranslatable(node: OnnxNode, name: string, facts: ValueFacts, recognition: Recognizer): UserError {
  if (facts.data)
    return new UserError(
      `${nodeText(node)}: operation ${node.opType} on values that depend on the tokens is not supported`,
      dataHint(node.opType),
    );
  return new UserError(
    `${nodeText(node)}: '${name}' is not recognised as a mask, positions or a constant: ${recognition.miss(name)}`,
    'export with a causal, windowed or full mask (attn_implementation="eager" or "sdpa") and standard position ids',
  );
}
