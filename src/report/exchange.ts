import type { Node } from '../ir/graph.js';
import { opDef } from '../ir/ops/index.js';
import { printType, sameType } from '../ir/type.js';

/**
 * Why a collective stands where it does: in one sentence, read off the types around it.
 * @param users nodes that read its results
 */
export function whyCollective(node: Node, users: readonly Node[]): string {
  switch (node.op) {
    case 'all_to_all':
      return whyExchange(node, users);
    case 'all_reduce':
      return `a sum still pending over ${axisOf(node)} is settled: every rank gets all of it`;
    case 'reduce_scatter':
      return `a sum still pending over ${axisOf(node)} is settled: every rank keeps its share of it`;
    case 'all_gather':
      return `what follows wants the whole value, every rank holds a share of it`;
    case 'shard':
      return `every rank keeps its share of dim 0: a copy, nothing is sent`;
    default:
      return `${node.op} moves values between ranks`;
  }
}

const axisOf = (node: Node): string => String(node.attrs['axis'] ?? 'sp');

function whyExchange(node: Node, users: readonly Node[]): string {
  const producer = node.operands[0]!.node;
  if (producer.op === 'attention_vjp')
    return 'the backward of the exchange before attention: the gradients of q, k and v go back from heads to tokens';
  if (producer.op === 'attention')
    return 'attention gives its output by heads; every op after it works on each token alone, so it goes back to split tokens';
  for (const user of users) {
    const wanted = demandOf(user, node);
    if (user.op === 'attention_vjp' && !isForwardUse(user, node))
      return 'the backward of the exchange after attention: the gradient of its output is traded, tokens for heads';
    if (wanted !== undefined)
      return `${user.op} wants its tokens whole (${wanted.wanted}), it got ${wanted.given}: heads are traded for tokens`;
  }
  return 'tokens are traded for heads';
}

/** q, k and v are the operands that the forward attention reads as well. */
const isForwardUse = (user: Node, node: Node): boolean =>
  user.operands.slice(0, 3).some((v) => v.node === node);

/** The first operand that `user` insists on having placed as `node` gives it. */
function demandOf(user: Node, node: Node): { wanted: string; given: string } | undefined {
  const types = user.operands.map((v) => v.type);
  const demands = opDef(user.op).demands?.({ types, attrs: user.attrs, region: user.region });
  const at = user.operands.findIndex((v) => v.node === node);
  const wanted = demands?.[at];
  const source = node.operands[user.operands[at]?.index ?? 0];
  if (wanted === undefined || source === undefined || sameType(wanted, source.type)) return undefined;
  return { wanted: printType(wanted), given: printType(source.type) };
}
