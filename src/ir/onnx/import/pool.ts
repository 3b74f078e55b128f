/**
 * Pooling. A model that classifies whole sequences reads one token of them, or their mean, and goes on with
 * [batch, …]. Here the batch is one row of packed documents, so that value becomes [S, …]: every token goes through
 * the head, and only the row of the token that the model reads counts, once for each document (docs/decisions/0006
 * and 0008). That is right as long as such rows meet nothing but themselves and weights, which is what is shown here.
 */
import { UserError } from '../../../errors.js';
import { poolText, samePool, type Pool } from '../../pooled.js';
import type { OnnxNode } from '../model.js';
import type { Classified } from './classify.js';
import { nodeText } from './context.js';
import { onnxOp } from './ops/index.js';
import { valueOperands, type ImportPlan } from './plan.js';
import { tokenRead } from './read.js';

/** What the rows of a value are: of every token, or of what stands for each document; absent: no rows. */
type Rows = 'every' | Pool;

const describe = (rows: Rows): string => (rows === 'every' ? 'all tokens' : poolText(rows));

export interface FoundPool {
  readonly pool: Pool;
  /** How it is known, where that takes more than a look. */
  readonly note?: string;
}

/**
 * Which token of a document the rows of `output` are meant for; undefined: all count.
 * @throws UserError naming the node where rows of different tokens meet
 */
export async function poolOf(
  classified: Classified,
  plan: ImportPlan,
  output: string,
): Promise<FoundPool | undefined> {
  const rows = new Map<string, Rows>();
  const notes: string[] = [];
  for (const [name, leaf] of plan.leaves)
    if (
      leaf.kind === 'tokens' ||
      leaf.kind === 'types' ||
      (leaf.kind === 'form' && leaf.form.kind !== 'fill')
    )
      rows.set(name, 'every');
  for (const node of plan.nodes) {
    const pool = classified.facts.get(node.outputs[0]!)?.pool;
    const operands = valueOperands(onnxOp(node)!, node, pool).flatMap((i) => rows.get(node.inputs[i]!) ?? []);
    const own = join(node, operands, pool !== undefined);
    if (pool === 'read') {
      const read = await tokenRead(classified, node);
      notes.push(`${nodeText(node)} reads ${poolText(read)}, as it does in every sequence tried`);
      rows.set(node.outputs[0]!, read);
    } else if (pool !== undefined) rows.set(node.outputs[0]!, pool);
    else if (own !== undefined) for (const name of node.outputs) rows.set(name, own);
  }
  const found = rows.get(output);
  if (found === undefined || found === 'every') return undefined;
  return { pool: found, ...(notes.length === 0 ? {} : { note: notes.join('; ') }) };
}

/** Rows that meet: a mean is the same in every row, so it goes with those of any one token. */
function join(node: OnnxNode, operands: readonly Rows[], pools: boolean): Rows | undefined {
  const kinds: Rows[] = [];
  for (const rows of operands)
    if (!kinds.some((k) => k === rows || (k !== 'every' && rows !== 'every' && samePool(k, rows))))
      kinds.push(rows);
  const single = kinds.filter((rows) => rows === 'every' || rows.kind !== 'mean');
  if (
    single.length > 1 ||
    (single.includes('every') && kinds.length > 1) ||
    (pools && !kinds.includes('every'))
  )
    throw new UserError(
      `${nodeText(node)}: puts ${kinds.map(describe).join(' and ')} together`,
      'export a model that pools once (the first token, the last, or the mean), or none at all',
    );
  return single[0] ?? kinds[0];
}
