import type { Config } from '../config.js';
import { UserError } from '../errors.js';
import { topologicalOrder, type Graph, type Value } from '../ir/graph.js';
import type { Pool } from '../ir/onnx/import/context.js';
import { constantOf } from '../ir/size.js';
import type { LossEntry } from '../package/manifest.js';

export interface ChosenLoss {
  /** Token ids are below it. */
  readonly vocabulary: number;
  readonly loss: LossEntry;
  /** Why, when the config did not say. */
  readonly note: string | undefined;
}

/**
 * The loss of a recognised graph: what the config says, or a guess from how the model looks at tokens.
 * @throws UserError when the logits or the options do not fit
 */
export function chooseLoss(graph: Graph, pool: Pool | undefined, wanted: Config['loss']): ChosenLoss {
  const classes = classesOf(graph);
  const rows = rowsReadBy(graph, 'tokens') ?? classes;
  const guessed = wanted === undefined ? guess(graph, pool, rows, classes) : undefined;
  const kind = wanted?.kind ?? guessed!.kind;
  if ((kind === 'document-classification') !== (pool !== undefined))
    throw new UserError(
      pool === undefined
        ? `the loss ${kind} needs a model that classifies documents, this one has logits for every token`
        : `the loss ${kind} needs logits for every token, this model has them for the ${pool} of a document only`,
      pool === undefined
        ? 'leave loss out, and it is guessed'
        : "choose loss: { kind: 'document-classification' }",
    );
  if (pool !== undefined && classes < 2)
    throw new UserError(
      'the model has one logit for a document: regression is not supported',
      'export a model with a logit for each of two or more classes',
    );
  // Ids are labels too in language modelling: those that the head cannot predict are refused with the ids.
  const vocabulary = isClassification(kind) ? rows : Math.min(rows, classes);
  const mlm = wanted?.kind === 'masked-lm' ? wanted.mlm : undefined;
  const stray = mlm && [mlm.maskId, ...mlm.special].find((id) => id >= vocabulary);
  if (stray !== undefined)
    throw new UserError(
      `loss.mlm has the id ${stray}, outside the model's vocabulary of ${vocabulary}`,
      'take maskId and special from the tokenizer of the model',
    );
  return {
    vocabulary,
    loss: { kind, classes, ...(pool && { pool }), ...(mlm && { mlm }) },
    note: guessed?.note,
  };
}

const isClassification = (kind: LossEntry['kind']): boolean =>
  kind === 'token-classification' || kind === 'document-classification';

function guess(
  graph: Graph,
  pool: Pool | undefined,
  rows: number,
  classes: number,
): { kind: LossEntry['kind']; note: string | undefined } {
  const other = `; another is chosen in the config: loss: { kind: … }`;
  if (pool !== undefined)
    return {
      kind: 'document-classification',
      note: `the loss is document-classification: the ${pool} token of a document is classified`,
    };
  if (2 * classes < rows)
    return {
      kind: 'token-classification',
      note: `the loss is token-classification: ${classes} logits a token for a vocabulary of ${rows}${other}`,
    };
  const masks = topologicalOrder(graph).flatMap((n) => (n.op === 'attention' ? [n.attrs['mask']] : []));
  if (masks.includes('full'))
    return { kind: 'masked-lm', note: `the loss is masked-lm: attention sees both ways${other}` };
  return { kind: 'next-token', note: `the loss is next-token: attention sees no later token${other}` };
}

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
