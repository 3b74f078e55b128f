import { z } from 'zod';
import { rebuildNode } from '../ir/build.js';
import { rewriteGraph, topologicalOrder, type Graph } from '../ir/graph.js';
import { definePass } from './pass.js';
import { algebraRules } from './simplify/algebra.js';
import { simplifier } from './simplify/engine.js';
import { foldRules } from './simplify/fold.js';
import { rowRules } from './simplify/rows.js';
import { shapeRules } from './simplify/shape.js';
import { transposeRules } from './simplify/transpose.js';
import { unitRules } from './simplify/units.js';

const RULES = [...foldRules, ...shapeRules, ...algebraRules, ...unitRules, ...rowRules, ...transposeRules];

/**
 * The normal form of an unplaced graph: constants folded, equal nodes shared, dead ones gone, no leading dims
 * of size 1 between inputs and outputs. Types of outputs stay. Mask inputs that nothing reads are dropped.
 */
export function simplifyGraph(graph: Graph): Graph {
  const simplify = simplifier(RULES);
  const result = rewriteGraph(
    graph,
    (node, operands) =>
      node.op === 'input' || node.region !== undefined
        ? undefined
        : simplify(
            operands.every((v, i) => v === node.operands[i]) ? node : rebuildNode(node, operands)[0]!.node,
          ),
    rebuildNode,
  );
  return withoutUnusedMasks(result);
}

export function withoutUnusedMasks(graph: Graph): Graph {
  const read = new Set(topologicalOrder(graph).flatMap((node) => [...node.operands]));
  for (const { value } of graph.outputs) read.add(value);
  return { ...graph, inputs: graph.inputs.filter((v) => v.node.attrs['form'] !== 'mask' || read.has(v)) };
}

export const simplify = definePass({
  name: 'simplify',
  doc: 'Folds constants, shares equal nodes, drops dead ones, removes the unit batch dims and transposes that cancel.',
  requires: ['unplaced'],
  refuses: ['checkpointed'],
  ensures: ['simplified'],
  numerics: 'exact',
  options: z.strictObject({}),
  run: (graph) => simplifyGraph(graph),
});
