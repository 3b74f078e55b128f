import { expect, test } from 'vitest';
import { topologicalOrder } from '../../src/ir/graph.js';
import { emitProgram } from '../../src/passes/emit/program.js';
import { isInstruction } from '../../src/passes/schedule.js';
import { instructionsOf } from '../../src/report/align.js';
import { biasedGraph, trainGraph } from '../runtime/session/packages.js';

test.each(['trained', 'constant'] as const)('attention with a %s bias is where it runs', (kind) => {
  const graph = { ...trainGraph(biasedGraph('"full"', kind)), name: 'train' };
  const program = emitProgram(graph, new Map());
  const found = instructionsOf(graph, program);
  for (const node of topologicalOrder(graph)) {
    const instruction = program.instructions[found.get(node) ?? -1];
    if (isInstruction(node))
      expect(instruction?.kind === 'collective' ? instruction.op : instruction?.kind).toBe(node.op);
    else if (instruction !== undefined) expect(instruction.kind).toBe('run');
  }
  const named = new Set(found.values());
  const apart = program.labels.filter((_, i) => !named.has(i));
  expect(apart).toEqual(kind === 'constant' ? ['constant'] : []);
});
