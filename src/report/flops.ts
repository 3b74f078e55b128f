import { topologicalOrder, type Node } from '../ir/graph.js';
import { opDef } from '../ir/ops/index.js';
import { TILE } from '../ir/placement.js';
import { addSizes, constantSize, renameSymbol, type Size } from '../ir/size.js';

/** Floating-point operations of a node of the whole group, in S and A_…; all tiles of a tiled op together. */
export function flopsOf(node: Node): Size {
  if (node.region !== undefined)
    return topologicalOrder(node.region).map(flopsOf).reduce(addSizes, constantSize(0));
  const types = node.operands.map((v) => v.type);
  const flops = opDef(node.op).flops?.({ types, attrs: node.attrs, region: undefined });
  return flops === undefined ? constantSize(0) : renameSymbol(flops, TILE, 'S');
}
