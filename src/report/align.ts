import { UserError } from '../errors.js';
import { topologicalOrder, type Graph, type Node } from '../ir/graph.js';
import type { Program } from '../package/program.js';
import { CONSTANT } from '../passes/emit/program.js';
import { isInstruction } from '../passes/schedule.js';

/**
 * The instruction that each node of a scheduled graph runs in. Between two instructions of their own (exchanges,
 * attention, tiles) stands one run at most, and those that make their constants; compute that nothing reads has none.
 * Inputs and constants have none.
 *
 * @throws UserError when the text of a program does not belong to its instructions
 */
export function instructionsOf(graph: Graph, program: Program): ReadonlyMap<Node, number> {
  const mismatch = (at: number, found: string): UserError =>
    new UserError(
      `program ${program.name}: its text has ${found} where instruction ${at} is ${program.labels[at] ?? 'the end'}`,
      'compile the model again',
    );
  const found = new Map<Node, number>();
  const isConstant = (at: number): boolean => program.labels[at] === CONSTANT;
  let next = 0;
  let run: number | undefined;
  let inGroup = false;
  for (const node of topologicalOrder(graph)) {
    if (node.op === 'input' || node.op === 'constant') continue;
    if (isInstruction(node)) while (isConstant(next)) next++;
    const instruction = program.instructions[next];
    if (isInstruction(node)) {
      if (instruction === undefined || instruction.kind === 'run') throw mismatch(next, node.op);
      found.set(node, next++);
      inGroup = false;
      continue;
    }
    if (!inGroup) {
      run = instruction?.kind === 'run' && !isConstant(next) ? next++ : undefined;
      inGroup = true;
    }
    if (run !== undefined) found.set(node, run);
  }
  if (next !== program.instructions.length) throw mismatch(next, 'no more nodes');
  return found;
}
