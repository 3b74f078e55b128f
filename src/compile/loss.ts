import type { Config } from '../config.js';
import { UserError } from '../errors.js';
import { topologicalOrder, type Graph, type Value } from '../ir/graph.js';
import type { OwnLoss } from '../ir/onnx/import/own-loss.js';
import { poolText, type Pool } from '../ir/pooled.js';
import { constantOf } from '../ir/size.js';
import type { LossEntry } from '../package/manifest.js';
import type { LossTerms } from '../passes/loss/terms.js';

type Kind = LossEntry['kind'];
type Wanted = NonNullable<Config['loss']>;

export interface ChosenLoss {
  /** Token ids are below it. */
  readonly vocabulary: number;
  readonly loss: LossEntry;
  /** Why, when the config did not say. */
  readonly note: string | undefined;
}

/** What the import found out about the loss. */
export interface LossFacts {
  /** Absent: every token has logits. */
  readonly pool?: Pool;
  /** The loss that the model computes itself, in an output. */
  readonly ownLoss?: OwnLoss;
}

const OTHER = '; another is chosen in the config: loss: { kind: … }';

/** Losses of documents, which have one row of logits each. */
const OF_DOCUMENTS: ReadonlySet<Kind> = new Set<Kind>(['document-classification', 'regression']);
/** Losses whose labels are token ids. */
const OF_IDS: ReadonlySet<Kind> = new Set<Kind>(['next-token', 'masked-lm']);

/**
 * The loss of a recognised graph: what the config says, or the one that the model computes itself, or a guess from
 * its logits and from how it looks at tokens.
 * @throws UserError when the logits or the options do not fit
 */
export function chooseLoss(graph: Graph, { pool, ownLoss }: LossFacts, wanted: Config['loss']): ChosenLoss {
  const classes = classesOf(graph);
  const rows = rowsReadBy(graph, 'tokens') ?? classes;
  const asked = wanted?.kind === 'distillation' ? wanted.of : wanted?.kind;
  if (asked === undefined && ownLoss !== undefined && 'unknown' in ownLoss)
    throw new UserError(
      `the model's own loss, its output '${ownLoss.output}', is not recognised: ${ownLoss.unknown}`,
      "choose the loss that ithaca computes instead: loss: { kind: 'next-token' } (or another) in the config",
    );
  const guessed = asked === undefined ? guess(graph, pool, ownLoss, rows, classes) : undefined;
  const kind = asked ?? guessed!.kind;
  requireFit(kind, wanted, pool, classes);
  // Ids are labels too in language modelling: those that the head cannot predict are refused with the ids.
  const vocabulary = OF_IDS.has(kind) ? Math.min(rows, classes) : rows;
  const mlm = wanted?.kind === 'masked-lm' ? wanted.mlm : undefined;
  const stray = mlm && [mlm.maskId, ...mlm.special].find((id) => id >= vocabulary);
  if (stray !== undefined)
    throw new UserError(
      `loss.mlm has the id ${stray}, outside the model's vocabulary of ${vocabulary}`,
      'take maskId and special from the tokenizer of the model',
    );
  return {
    vocabulary,
    loss: {
      kind,
      classes,
      ...(pool && { pool }),
      ...(mlm && { mlm }),
      ...(wanted?.kind === 'distillation' && { distillation: teacherOf(wanted, classes) }),
    },
    note: guessed?.note ?? ownLossNote(ownLoss, kind),
  };
}

const teacherOf = (
  { temperature, alpha, topK }: Extract<Wanted, { kind: 'distillation' }>,
  classes: number,
): LossEntry['distillation'] => ({ temperature, alpha, topK: Math.min(topK, classes) });

/** Options of the pass `loss`. */
export const termsOf = ({ kind, distillation }: LossEntry): Partial<LossTerms> => ({
  kind: kind === 'regression' ? 'squared-error' : 'cross-entropy',
  distillation,
});

function ownLossNote(ownLoss: OwnLoss | undefined, kind: Kind): string | undefined {
  if (ownLoss === undefined || ('kind' in ownLoss && ownLoss.kind === kind)) return undefined;
  return `the model's own loss, its output '${ownLoss.output}', is left out: the config chooses ${kind}`;
}

function requireFit(kind: Kind, wanted: Config['loss'], pool: Pool | undefined, classes: number): void {
  if (wanted?.kind === 'distillation' && pool !== undefined)
    throw new UserError(
      `the loss distillation needs logits for every token, this model has them for ${poolText(pool)} only`,
      'distil a model that predicts tokens, or choose another loss',
    );
  if (OF_DOCUMENTS.has(kind) !== (pool !== undefined))
    throw new UserError(
      pool === undefined
        ? `the loss ${kind} needs a model with logits for documents, this one has logits for every token`
        : `the loss ${kind} needs logits for every token, this model has them for ${poolText(pool)} only`,
      pool === undefined
        ? 'leave loss out, and it is guessed'
        : "choose loss: { kind: 'document-classification' } or { kind: 'regression' }",
    );
  if (classes < 2 && kind !== 'regression')
    throw new UserError(
      `the model has one logit for a ${pool === undefined ? 'token' : 'document'}, which is no choice between classes`,
      pool === undefined
        ? 'export a model with a logit for each class'
        : "choose loss: { kind: 'regression' }, or export a model with a logit for each class",
    );
}

/** The loss that the model computes itself, or that its logits and masks speak for. */
function guess(
  graph: Graph,
  pool: Pool | undefined,
  ownLoss: OwnLoss | undefined,
  rows: number,
  classes: number,
): { kind: Kind; note: string | undefined } {
  if (ownLoss !== undefined && 'kind' in ownLoss)
    return {
      kind: ownLoss.kind === 'aligned' ? alignedKind(rows, classes) : ownLoss.kind,
      note: `the loss is the model's own, its output '${ownLoss.output}': ${ownLoss.proof}; ithaca computes it from '${ownLoss.logits}'${OTHER}`,
    };
  if (pool?.kind === 'last' && classes >= rows)
    throw new UserError(
      `the model has logits for ${poolText(pool)} only, one for each of ${classes} ids`,
      'export it without logits_to_keep, or choose a loss in the config if these are classes',
    );
  if (pool !== undefined)
    return {
      kind: classes === 1 ? 'regression' : 'document-classification',
      note:
        classes === 1
          ? `the loss is regression: one number from ${poolText(pool)}`
          : `the loss is document-classification: ${poolText(pool)} is classified${OTHER}`,
    };
  if (2 * classes < rows)
    return {
      kind: 'token-classification',
      note: `the loss is token-classification: ${classes} logits a token for a vocabulary of ${rows}${OTHER}`,
    };
  const attentions = topologicalOrder(graph).filter((n) => n.op === 'attention');
  if (attentions.some(({ attrs }) => attrs['mask'] === 'full' || attrs['ahead'] !== undefined))
    return { kind: 'masked-lm', note: `the loss is masked-lm: attention sees both ways${OTHER}` };
  return { kind: 'next-token', note: `the loss is next-token: attention sees no later token${OTHER}` };
}

const alignedKind = (rows: number, classes: number): Kind =>
  2 * classes < rows ? 'token-classification' : 'masked-lm';

function classesOf(graph: Graph): number {
  const logits = graph.outputs.find((o) => o.name === 'logits');
  const size = logits && constantOf(logits.value.type.dims.at(-1)!.size);
  if (size === undefined)
    throw new UserError(
      'the model has no output `logits` with a constant vocabulary',
      'export the model with its language-model head',
    );
  return size;
}

/** Fewest rows of the tables that a data input is looked up in; undefined: none is. */
export function rowsReadBy(graph: Graph, input: string): number | undefined {
  const indices = new Set<Value>();
  let rows: number | undefined;
  for (const node of topologicalOrder(graph)) {
    const isInput = node.op === 'input' && node.attrs['name'] === input;
    const moved = ['reshape', 'broadcast', 'transpose'].includes(node.op) && indices.has(node.operands[0]!);
    if (isInput || moved) indices.add(node.results[0]!);
    if (node.op !== 'gather' || !indices.has(node.operands[1]!)) continue;
    rows = Math.min(rows ?? Infinity, constantOf(node.operands[0]!.type.dims[0]!.size) ?? Infinity);
  }
  return rows;
}
