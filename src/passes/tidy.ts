import { z } from 'zod';
import { emit, rebuildNode } from '../ir/build.js';
import { rewriteGraph, type Graph } from '../ir/graph.js';
import { definePass } from './pass.js';
import { simplifier } from './simplify/engine.js';
import { placedRules } from './simplify/shape.js';

function tidyGraph(graph: Graph): Graph {
  const simplify = simplifier(placedRules);
  return rewriteGraph(
    graph,
    (node, operands) => {
      if (node.op === 'input') return undefined;
      const options = { loc: node.loc, region: node.region && tidyGraph(node.region) };
      if (options.region !== undefined) return emit(node.op, operands, node.attrs, options);
      const unchanged = operands.every((v, i) => v === node.operands[i]);
      return simplify(unchanged ? node : rebuildNode(node, operands)[0]!.node);
    },
    rebuildNode,
  );
}

export const tidy = definePass({
  name: 'tidy',
  doc: 'After differentiation, on placed types: shares equal nodes, drops dead ones, cancels reshapes and transposes, in tile bodies too.',
  requires: [],
  refuses: ['checkpointed'],
  ensures: [],
  numerics: 'exact',
  options: z.strictObject({}),
  run: tidyGraph,
});
