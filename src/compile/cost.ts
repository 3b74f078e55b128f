import { topologicalOrder, type Graph } from '../ir/graph.js';
import { opDef } from '../ir/ops/index.js';
import { TILE } from '../ir/placement.js';
import { addSizes, constantSize, renameSymbol, type Size } from '../ir/size.js';

/** Floating-point operations of a program by op, as polynomials in S (tokens of a group) and A_… (attended pairs). */
export interface ProgramCost {
  readonly flops: string;
  readonly byOp: Readonly<Record<string, string>>;
  /** all_to_all instructions before and after the loss. */
  readonly exchanges: { readonly forward: number; readonly backward: number };
}

/** Reads a program's cost off its graph. All tiles of a tiled op together are all tokens. */
export function costOf(graph: Graph): ProgramCost {
  const byOp = new Map<string, Size>();
  let [forward, backward, afterLoss] = [0, 0, false];
  const visit = (inner: Graph): void => {
    for (const node of topologicalOrder(inner)) {
      if (node.region !== undefined) {
        visit(node.region);
        afterLoss = true;
      }
      if (node.op === 'all_to_all' && afterLoss) backward++;
      else if (node.op === 'all_to_all') forward++;
      const flops = opDef(node.op).flops?.({
        types: node.operands.map((v) => v.type),
        attrs: node.attrs,
        region: node.region,
      });
      if (flops !== undefined)
        byOp.set(node.op, addSizes(byOp.get(node.op) ?? constantSize(0), renameSymbol(flops, TILE, 'S')));
    }
  };
  visit(graph);
  const total = [...byOp.values()].reduce(addSizes, constantSize(0));
  return {
    flops: total.key,
    byOp: Object.fromEntries([...byOp].map(([op, size]) => [op, size.key])),
    exchanges: { forward, backward },
  };
}
