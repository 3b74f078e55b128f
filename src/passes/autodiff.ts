import { z } from 'zod';
import { UserError, invariant } from '../errors.js';
import { builderAt } from '../ir/build.js';
import {
  inputName,
  inputRole,
  makeInput,
  topologicalOrder,
  type Graph,
  type Node,
  type Value,
} from '../ir/graph.js';
import { scalarConstant, shapeAttr } from '../ir/ops/define.js';
import { opDef } from '../ir/ops/index.js';
import { cotangentType, printType, sameType } from '../ir/type.js';
import { definePass } from './pass.js';

/** Name of the output that holds a parameter's gradient. */
export const gradientName = (parameter: string): string => `grad/${parameter}`;

/** Zeros of a value's cotangent type. */
function zerosFor(value: Value): Value {
  const build = builderAt(value.node.loc);
  const zero = scalarConstant(build, 0);
  const { dims } = cotangentType(value.type);
  if (dims.length === 0) return zero;
  return build.one('broadcast', [zero], {
    shape: shapeAttr(value.type),
    axes: dims.map((d) => d.split?.axis ?? ''),
  });
}

/** Nodes whose results depend on one of the values, through floating-point results only. */
function dependents(order: readonly Node[], sources: ReadonlySet<Value>): Set<Value> {
  const active = new Set(sources);
  for (const node of order)
    if (node.operands.some((v) => active.has(v)))
      for (const result of node.results) if (result.type.dtype === 'f32') active.add(result);
  return active;
}

/**
 * Reverse mode: cotangents of `wanted` inputs, given cotangents of outputs. Cotangents are typed by the
 * dual rule (`cotangentType`), so that placements of gradients need no rule of their own.
 */
export function cotangents(
  graph: Graph,
  seeds: ReadonlyMap<Value, Value>,
  wanted: readonly Value[],
): ReadonlyMap<Value, Value> {
  const order = topologicalOrder(graph);
  const active = dependents(order, new Set(wanted));
  const sums = new Map<Value, Value>(seeds);
  const accumulate = (of: Value, cotangent: Value): void => {
    const expected = cotangentType(of.type);
    invariant(
      sameType(expected, cotangent.type),
      `the cotangent of ${of.node.op} ${printType(of.type)} is ${printType(cotangent.type)}, expected ${printType(expected)}`,
    );
    const before = sums.get(of);
    sums.set(of, before === undefined ? cotangent : builderAt(of.node.loc).one('add', [before, cotangent]));
  };
  for (const node of [...order].reverse()) {
    if (node.op === 'input' || !node.results.some((r) => sums.has(r) && active.has(r))) continue;
    const needed = node.operands.map((v) => active.has(v) && v.type.dtype === 'f32');
    if (!needed.includes(true)) continue;
    const def = opDef(node.op);
    if (def.vjp === undefined)
      throw new UserError(
        `ONNX node ${node.loc ?? '(derived)'}: ${node.op} has no derivative, but a trained parameter is reached through it`,
        'freeze the parameters it reads: trainable.exclude in the config',
      );
    const grads = def.vjp({
      operands: node.operands,
      results: node.results,
      attrs: node.attrs,
      region: node.region,
      cotangents: node.results.map((r) => sums.get(r)),
      wanted: needed,
      build: builderAt(node.loc),
      zeros: zerosFor,
      differentiate: differentiateRegion,
    });
    node.operands.forEach((operand, i) => {
      const grad = grads[i];
      if (needed[i] && grad !== undefined) accumulate(operand, grad);
    });
  }
  return sums;
}

/** A body whose inputs are the region's and the cotangents of its outputs, and whose outputs are the wanted cotangents. */
export function differentiateRegion(region: Graph, wanted: readonly boolean[]): Graph {
  const seeds = region.outputs.map(({ value }, i) =>
    makeInput(`cotangent_${i}`, 'data', cotangentType(value.type)),
  );
  const targets = region.inputs.filter((_, i) => wanted[i]);
  const found = cotangents(
    region,
    new Map(region.outputs.map(({ value }, i) => [value, seeds[i]!])),
    targets,
  );
  return {
    name: `${region.name}_vjp`,
    axes: region.axes,
    inputs: [...region.inputs, ...seeds],
    outputs: targets.map((value) => ({
      name: gradientName(inputName(value)),
      value: found.get(value) ?? zerosFor(value),
    })),
  };
}

const isTrainable = (value: Value): boolean =>
  inputRole(value) === 'parameter' && value.node.attrs['trainable'] === true;

export const autodiff = definePass({
  name: 'autodiff',
  doc: 'Reverse mode over the placed IR: adds the gradient of loss_sum for every trainable parameter. Frozen ones cost nothing.',
  requires: ['recognized', 'lossy'],
  ensures: ['differentiated'],
  numerics: 'exact',
  options: z.strictObject({}),
  run: (graph, _options, context) => {
    const loss = graph.outputs.find((o) => o.name === 'loss_sum')?.value;
    invariant(loss !== undefined, 'autodiff needs the output loss_sum');
    const parameters = graph.inputs.filter(isTrainable);
    const seed = scalarConstant(builderAt(undefined), 1);
    const found = cotangents(graph, new Map([[loss, seed]]), parameters);
    const reached = parameters.filter((p) => found.has(p));
    for (const parameter of parameters)
      if (!found.has(parameter))
        context.note(`parameter ${inputName(parameter)} has no influence on the loss: it is not trained`);
    return {
      ...graph,
      outputs: [
        ...graph.outputs,
        ...reached.map((p) => ({ name: gradientName(inputName(p)), value: found.get(p)! })),
      ],
    };
  },
});
