import { invariant } from '../../errors.js';
import { attrsText } from '../../ir/attrs.js';
import { emit } from '../../ir/build.js';
import type { Node, Value } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { printType, sameType } from '../../ir/type.js';

/**
 * A rewrite of a node with one result: a value of the same type, or undefined. What it builds is itself
 * simplified, so a rule sees operands in normal form. A rule must come nearer to the normal form: it
 * may not build what another rule turns back.
 */
export type Rule = (node: Node, build: Builder) => Value | undefined;

const MAX_DEPTH = 400;

/**
 * Simplifies node by node: rules to a fixed point, then structural sharing. Rules look at operands only, so
 * that one sweep from operands to users reaches the normal form.
 */
export function simplifier(rules: readonly Rule[]): (node: Node) => readonly Value[] {
  const known = new Map<string, readonly Value[]>();
  const numbers = new Map<Value, number>();
  let depth = 0;

  const numberOf = (value: Value): number => {
    const number = numbers.get(value) ?? numbers.size;
    numbers.set(value, number);
    return number;
  };

  const keyOf = (node: Node): string =>
    `${node.op}(${node.operands.map(numberOf).join()})${attrsText(node.attrs)}`;

  const builder = (loc: string | undefined): Builder => {
    const build: (...args: Parameters<Builder>) => readonly Value[] = (op, operands, attrs, region) =>
      simplify(emit(op, operands, attrs, { loc, region })[0]!.node);
    return Object.assign(build, {
      one: (...args: Parameters<Builder>): Value => {
        const [result, ...others] = build(...args);
        invariant(result !== undefined && others.length === 0, `${args[0]} has not one result`);
        return result;
      },
    });
  };

  const rewritten = (node: Node): readonly Value[] | undefined => {
    if (node.results.length !== 1) return undefined;
    const type = node.results[0]!.type;
    const build = builder(node.loc);
    for (const rule of rules) {
      const value = rule(node, build);
      if (value === undefined) continue;
      invariant(
        sameType(value.type, type),
        `simplifying ${node.op} turned ${printType(type)} into ${printType(value.type)}`,
      );
      return [value];
    }
    return undefined;
  };

  const simplify = (node: Node): readonly Value[] => {
    if (node.op === 'input' || node.region !== undefined) return node.results;
    const key = keyOf(node);
    const before = known.get(key);
    if (before !== undefined) return before;
    invariant(++depth < MAX_DEPTH, `the rules for ${node.op} do not come to an end`);
    const results = rewritten(node) ?? node.results;
    depth--;
    known.set(key, results);
    return results;
  };
  return simplify;
}
