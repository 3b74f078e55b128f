import { invariant } from '../errors.js';
import { checkAttrs } from './attrs.js';
import { makeNode, type Attrs, type Graph, type Node, type Value } from './graph.js';
import type { Builder } from './op.js';
import { TypeMismatch } from './op.js';
import { opDef } from './ops/index.js';
import { placementFault, printType } from './type.js';

/** Builds one node, inferring its types. Throws `TypeMismatch`. */
export function emit(
  op: string,
  operands: readonly Value[],
  attrs: Attrs = {},
  options: { loc?: string | undefined; region?: Graph | undefined } = {},
): readonly Value[] {
  const def = opDef(op);
  const variadic = def.operands.at(-1)?.startsWith('...') === true;
  const fewest = def.operands.filter((name) => !name.endsWith('?')).length;
  if (operands.length < fewest || (!variadic && operands.length > def.operands.length))
    throw new TypeMismatch(`${op} takes (${def.operands.join(', ')}), got ${operands.length} operands`);
  checkAttrs(op, def.attrs ?? {}, attrs);
  if (options.region !== undefined && op !== 'tiled') throw new TypeMismatch(`${op} takes no body`);
  const types = def.infer({ types: operands.map((v) => v.type), attrs, region: options.region });
  for (const type of types) {
    const fault = placementFault(type);
    if (fault !== undefined) throw new TypeMismatch(`${op} would give ${printType(type)}: ${fault}`);
  }
  const node = makeNode({ op, operands, attrs, types, loc: options.loc, region: options.region });
  inferred.add(node);
  return node.results;
}

const inferred = new WeakSet<Node>();

/** Whether `emit` made the node: its types are those that its op infers, and nodes are frozen. */
export const isInferred = (node: Node): boolean => inferred.has(node);

/** A builder whose nodes carry the source location `loc`. */
export function builderAt(loc: string | undefined): Builder {
  const build = (op: string, operands: readonly Value[], attrs?: Attrs, region?: Graph): readonly Value[] =>
    emit(op, operands, attrs, { loc, region });
  return Object.assign(build, {
    one: (op: string, operands: readonly Value[], attrs?: Attrs, region?: Graph): Value => {
      const results = build(op, operands, attrs, region);
      invariant(results.length === 1, `${op} has ${results.length} results, not one`);
      return results[0]!;
    },
  });
}

/** The same node with other operands; types are inferred anew. */
export const rebuildNode = (node: Node, operands: readonly Value[]): readonly Value[] =>
  emit(node.op, operands, node.attrs, { loc: node.loc, region: node.region });
