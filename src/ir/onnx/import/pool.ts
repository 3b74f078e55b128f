/**
 * Pooling. A model that classifies whole sequences reads one token of them and goes on with [batch, …]. Here the
 * batch is one row of packed documents, so that value becomes [S, …]: every token goes through the head, and only
 * the row of the token that the model reads counts, once for each document (docs/decisions/0006). That is
 * right as long as such rows meet nothing but themselves and weights, which is what is shown here.
 */
import { UserError } from '../../../errors.js';
import type { Classified } from './classify.js';
import { nodeText, type Pool } from './context.js';
import { onnxOp } from './ops/index.js';
import { valueOperands, type ImportPlan } from './plan.js';

/** What the rows of a value are: of every token, or of the first or last of each document; absent: no rows. */
type Rows = 'every' | Pool;

const describe = (rows: Rows): string =>
  rows === 'every' ? 'all tokens' : `the ${rows} token of a document`;

/**
 * Which token of a document the rows of `output` are meant for; undefined: all count.
 * @throws UserError naming the node where rows of different tokens meet
 */
export function poolOf({ facts }: Classified, plan: ImportPlan, output: string): Pool | undefined {
  const rows = new Map<string, Rows>();
  for (const [name, leaf] of plan.leaves)
    if (
      leaf.kind === 'tokens' ||
      leaf.kind === 'types' ||
      (leaf.kind === 'form' && leaf.form.kind !== 'fill')
    )
      rows.set(name, 'every');
  for (const node of plan.nodes) {
    const operands = valueOperands(onnxOp(node)!, node).flatMap((i) => rows.get(node.inputs[i]!) ?? []);
    const kinds = new Set(operands);
    const pool = node.opType === 'Gather' ? facts.get(node.outputs[0]!)?.pool : undefined;
    if (kinds.size > 1 || (pool !== undefined && !kinds.has('every')))
      throw new UserError(
        `${nodeText(node)}: puts ${[...kinds].map(describe).join(' and ')} together`,
        'export a model that pools once (the first token, or the last), or none at all',
      );
    const [own] = pool === undefined ? kinds : [pool];
    if (own !== undefined) for (const name of node.outputs) rows.set(name, own);
  }
  const found = rows.get(output);
  return found === 'every' ? undefined : found;
}
