/** One segment as one ONNX model. */
import { invariant } from '../../../errors.js';
import type { Node, Value } from '../../../ir/graph.js';
import { opDef } from '../../../ir/ops/index.js';
import type { OpName } from '../../../ir/ops/index.js';
import { modelBuilder, type ModelBuilder, type OrtValue } from './builder.js';
import type { KernelContext, OrtKernel } from './kernel.js';
import { typeOf } from './kernel.js';
import { absorbedNodes } from './kernels-linear.js';
import { ORT_KERNELS } from './kernels.js';
import type { LoweredSegment } from './lowered.js';

/** Compute between two instructions. `nodes` are in topological order and hold no instruction. */
export interface Segment {
  readonly inputs: readonly Value[];
  readonly nodes: readonly Node[];
  readonly outputs: readonly Value[];
}

export interface LowerOptions {
  /**
   * Outputs to which what is in their buffer is added: the model takes it as `acc_<output>`, and the runtime
   * may pass one buffer for both.
   */
  readonly accumulate?: ReadonlySet<Value>;
}

/**
 * Lowers a segment. IR types are global with placements, ONNX Runtime sees local tensors; bool tensors are
 * one byte an element.
 */
export function lowerSegment(segment: Segment, options: LowerOptions = {}): LoweredSegment {
  const build = modelBuilder();
  const values = new Map<Value, OrtValue>();
  segment.inputs.forEach((value, i) => values.set(value, build.input(`x${i}`, value.type)));
  const accumulators = new Map<Value, { name: string; value: OrtValue }>();
  segment.outputs.forEach((value, i) => {
    if (options.accumulate?.has(value) !== true) return;
    invariant(!accumulators.has(value), 'a value is accumulated into two outputs of a segment');
    const name = `acc_y${i}`;
    accumulators.set(value, { name, value: build.input(name, value.type) });
  });
  const taken = lowerNodes(segment, build, values, accumulators);
  const outputs = segment.outputs.map((value, i) => {
    const lowered = values.get(value);
    invariant(lowered !== undefined, `output ${i} of a segment is not computed in it`);
    const accumulator = accumulators.get(value);
    const sum =
      accumulator === undefined || taken.has(value)
        ? lowered
        : build.op('Add', [accumulator.value, lowered], value.type);
    return { name: `y${i}`, value: sum };
  });
  const built = build.finish(outputs);
  return {
    bytes: built.bytes,
    inputs: [...segment.inputs.map((_, i) => `x${i}`), ...[...accumulators.values()].map((a) => a.name)],
    outputs: outputs.map((output) => output.name),
    sizes: built.sizes,
    temporaries: built.temporaries,
  };
}

/** Lowers node by node into `values`. Returns the values that kernels have added to their accumulators. */
function lowerNodes(
  segment: Segment,
  build: ModelBuilder,
  values: Map<Value, OrtValue>,
  accumulators: ReadonlyMap<Value, { readonly value: OrtValue }>,
): ReadonlySet<Value> {
  const users = new Map<Value, Node[]>();
  for (const node of segment.nodes)
    for (const value of new Set(node.operands)) {
      const own = users.get(value);
      if (own === undefined) users.set(value, [node]);
      else own.push(node);
    }
  const absorbed = absorbedNodes(segment.nodes, users, new Set(segment.outputs));
  const taken = new Set<Value>();
  const lowered = (value: Value): OrtValue => {
    const known = values.get(value);
    invariant(known !== undefined, `${value.node.op} is used in a segment that neither holds nor takes it`);
    return known;
  };
  for (const node of segment.nodes) {
    if (absorbed.has(node)) continue;
    const kernel: OrtKernel = ORT_KERNELS[opDef(node.op).name as OpName];
    invariant(kernel.instruction !== true, `${node.op} is an instruction, it cannot be in a segment`);
    const context: KernelContext = {
      node,
      attrs: node.attrs,
      build,
      operand: (i) => lowered(node.operands[i]!),
      absorbed: (value) => (absorbed.has(value.node) ? value.node : undefined),
      lowered,
      takeAccumulator: () => {
        const [result] = node.results;
        const accumulator = accumulators.get(result!);
        if (accumulator === undefined || users.has(result!)) return undefined;
        if (segment.outputs.filter((v) => v === result).length > 1) return undefined;
        taken.add(result!);
        return accumulator.value;
      },
    };
    const results = kernel.lower(context);
    node.results.forEach((value, i) => {
      typeOf(results[i]!);
      values.set(value, results[i]!);
    });
  }
  return taken;
}
