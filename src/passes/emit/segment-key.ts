import { attrsText } from '../../ir/attrs.js';
import type { Value } from '../../ir/graph.js';
import { printType } from '../../ir/type.js';
import type { Segment } from './ort/segment.js';

/**
 * All that the lowering of a segment depends on: its ops, their attributes, types and wiring. Segments of
 * equal keys have the same model, so that of 32 equal layers one is lowered.
 */
export function segmentKey({ inputs, nodes, outputs }: Segment, accumulate: ReadonlySet<Value>): string {
  const numbers = new Map<Value, number>();
  const define = (value: Value): string => {
    numbers.set(value, numbers.size);
    return printType(value.type);
  };
  const lines = [inputs.map(define).join()];
  for (const node of nodes) {
    const operands = node.operands.map((value) => numbers.get(value)).join();
    lines.push(`${node.op}(${operands}){${attrsText(node.attrs)}}${node.results.map(define).join()}`);
  }
  lines.push(outputs.map((value) => `${numbers.get(value)}${accumulate.has(value) ? '+' : ''}`).join());
  return lines.join('\n');
}
