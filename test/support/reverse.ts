import { builderAt } from '../../src/ir/build.js';
import { inputName, makeInput, topologicalOrder, type Graph, type Value } from '../../src/ir/graph.js';
import { opDef } from '../../src/ir/ops/index.js';
import { shapeAttr } from '../../src/ir/ops/define.js';
import { cotangentType, printSplit } from '../../src/ir/type.js';

const build = builderAt(undefined);

/** Zeros with the type of a cotangent of `of`; a pending sum of zeros cannot be built from nothing. */
function zeros(of: Value): Value {
  const type = cotangentType(of.type);
  const zero = build.one('constant', [], { dtype: 'f32', shape: [], data: [0] });
  const axes = type.dims.map((d) => (d.split === undefined ? '' : printSplit(d.split)));
  return build.one('broadcast', [zero], { shape: shapeAttr(type), axes });
}

/** Whether a cotangent can reach each value: floats that come from the given roots. */
function active(graph: Graph, roots: readonly Value[]): Set<Value> {
  const reached = new Set(roots);
  for (const node of topologicalOrder(graph))
    if (node.operands.some((v) => reached.has(v)))
      for (const result of node.results) if (result.type.dtype === 'f32') reached.add(result);
  return reached;
}

/**
 * Reverse mode, as small as it can be, apart from the pass that it helps to test: cotangents of `wanted`
 * from those of the outputs (`seeds[i]` undefined: none).
 */
export function cotangents(
  graph: Graph,
  seeds: readonly (Value | undefined)[],
  wanted: readonly Value[],
): readonly (Value | undefined)[] {
  const gradients = new Map<Value, Value>();
  const accumulate = (value: Value, g: Value): void => {
    const before = gradients.get(value);
    gradients.set(value, before === undefined ? g : build.one('add', [before, g]));
  };
  graph.outputs.forEach(({ value }, i) => seeds[i] && accumulate(value, seeds[i]));
  const reached = active(graph, wanted);
  for (const node of [...topologicalOrder(graph)].reverse()) {
    const given = node.results.map((r) => gradients.get(r));
    if (node.op === 'input' || given.every((g) => g === undefined)) continue;
    const { vjp } = opDef(node.op);
    if (vjp === undefined) continue;
    const grads = vjp({
      operands: node.operands,
      results: node.results,
      attrs: node.attrs,
      region: node.region,
      cotangents: given,
      wanted: node.operands.map((v) => reached.has(v)),
      build,
      zeros,
      differentiate,
    });
    grads.forEach((g, i) => g && accumulate(node.operands[i]!, g));
  }
  return wanted.map((v) => gradients.get(v));
}

/** The body of a `tiled` VJP: inputs and cotangents of the outputs in, cotangents of the wanted inputs out. */
export function differentiate(region: Graph, wanted: readonly boolean[]): Graph {
  const seeds = region.outputs.map(({ name, value }) =>
    makeInput(`d_${name}`, 'gradient', cotangentType(value.type)),
  );
  const inputs = region.inputs.filter((_, i) => wanted[i]);
  const grads = cotangents(region, seeds, inputs);
  return {
    name: region.name,
    axes: region.axes,
    inputs: [...region.inputs, ...seeds],
    outputs: inputs.map((v, i) => ({ name: `d_${inputName(v)}`, value: grads[i] ?? zeros(v) })),
  };
}
