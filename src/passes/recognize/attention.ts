import type { Node, Value } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { constantOf, productOfSizes, symbolSize } from '../../ir/size.js';
import { tensorType, type Dim, type Type } from '../../ir/type.js';
import { eitherOrder, isSymbolic, operandsOf, permute, reshapeTo, uniformOf } from '../match.js';
import { additiveMask, booleanMask, bothMasks, FULL, hides, type Mask } from './mask.js';
import {
  alignedRoles,
  asTokensHeadsFeatures,
  FEATURE,
  headRoles,
  headsOf,
  KEY,
  QUERY,
  throughElementwise,
  throughMove,
  type Located,
  type Role,
} from './roles.js';
import { describe, isNearMiss, type NearMiss } from './rule.js';
import { softmaxDim, unguarded } from './softmax.js';

/** The tokens of a group: the row that `documents` divides. */
export const TOKENS = symbolSize('S');

/** Softmax between two contractions, read off as operands of the op `attention`. */
interface Reading {
  readonly q: Located;
  readonly k: Located;
  readonly v: Located;
  readonly scale: number;
  readonly mask: Mask;
}

/** A value, and the product of the numbers it was multiplied by on the way to it. */
interface Scaled {
  readonly here: Located;
  readonly scale: number;
}

export interface AttentionFound {
  /** The softmax it was read from. */
  readonly softmax: Node;
  readonly found: ((build: Builder, documents: Value) => Value) | NearMiss;
}

/**
 * Reads attention from its second contraction, P·V (or Vᵀ·Pᵀ). Undefined when no operand is a softmax over
 * tokens. Layouts do not matter: every dim's meaning (`Role`) is followed through reshapes and transposes.
 */
export function attentionAt(node: Node): AttentionFound | undefined {
  if (node.op !== 'matmul') return undefined;
  const [a, b] = node.operands as readonly [Value, Value];
  const lead = node.results[0]!.type.dims.slice(0, -2);
  const heads = headRoles(lead);
  if (heads === undefined) return undefined;
  const place = (x: Value, last: readonly [Role, Role]): Located => {
    const roles = alignedRoles(heads, lead, x.type.dims.slice(0, -2)) ?? [];
    return { value: x, roles: [...roles, ...last] };
  };
  return (
    readAt(node, lead, place(a, [QUERY, KEY]), place(b, [KEY, FEATURE])) ??
    readAt(node, lead, place(b, [KEY, QUERY]), place(a, [FEATURE, KEY]))
  );
}

function readAt(node: Node, lead: readonly Dim[], weights: Located, v: Located): AttentionFound | undefined {
  const softmax = softmaxBelow(weights);
  if (softmax === undefined) return undefined;
  const queryHeads = constantOf(productOfSizes(lead.map((d) => d.size)))!;
  const reading = readScores(softmax, v);
  const found = isNearMiss(reading) ? reading : attentionFrom(reading, queryHeads, node.results[0]!.type);
  return { softmax: softmax.value.node, found };
}

/** The softmax over keys that a value is, through guards and moves. */
function softmaxBelow(weights: Located): Located | undefined {
  let here = weights;
  for (;;) {
    const { value, roles } = here;
    if (value.node.op === 'softmax') {
      const dim = softmaxDim(value);
      return roles[dim]!.kind === 'key' && isSymbolic(value.type.dims[dim]!) ? here : undefined;
    }
    const guarded = unguarded(value);
    const next = guarded ? throughElementwise(here, guarded) : throughMove(here);
    if (next === undefined) return undefined;
    here = next;
  }
}

/** From softmax back to the product q·kᵀ, gathering scales and masks. */
function readScores(softmax: Located, v: Located): Reading | NearMiss {
  let here: Located = { value: softmax.value.node.operands[0]!, roles: softmax.roles };
  let [scale, mask]: [number, Mask] = [1, FULL];
  for (;;) {
    if (here.value.node.op === 'matmul') return contraction(here, v, scale, mask);
    const masked = unmasked(here);
    if (masked !== undefined) {
      if (isNearMiss(masked)) return masked;
      if (masked.mask !== FULL && scale <= 0)
        return { nearMiss: 'the masked scores are scaled by a negative number' };
      mask = bothMasks(mask, masked.mask);
      here = masked.here;
      continue;
    }
    const less = unscaled(here);
    const next = less?.here ?? throughMove(here);
    if (next === undefined) return { nearMiss: blocked(here.value.node) };
    scale *= less?.scale ?? 1;
    here = next;
  }
}

const blocked = ({ op, operands, ...node }: Node): string => {
  const name = describe({ op, operands, ...node });
  if (op === 'input' || operands.length === 0) return `the scores are ${name}, not a product of q and k`;
  return operands.length === 1
    ? `the scores pass through ${name} before softmax`
    : `the scores pass through ${name} with a value that is neither a mask nor a number before softmax`;
};

/** Scores without their mask; undefined when this is no place for one. */
function unmasked(here: Located): { here: Located; mask: Mask } | NearMiss | undefined {
  for (const [scores, addend] of eitherOrder(here.value, 'add')) {
    const aligned = throughElementwise(here, addend);
    const mask = aligned && additiveMask(aligned);
    if (mask === undefined) continue;
    return isNearMiss(mask) ? mask : unbroadcastScores(here, scores, mask);
  }
  if (here.value.node.op === 'add')
    return { nearMiss: `a bias is added to the scores by ${describe(here.value.node)}: it is not a mask` };
  const [condition, scores, hidden] = operandsOf(here.value, 'where') ?? [];
  if (condition === undefined) return undefined;
  const aligned = hides(hidden!) ? throughElementwise(here, condition) : undefined;
  const mask = aligned && booleanMask(aligned);
  if (mask === undefined)
    return {
      nearMiss: `the condition ${describe(condition.node)} of ${describe(here.value.node)} is not a mask`,
    };
  return isNearMiss(mask) ? mask : unbroadcastScores(here, scores!, mask);
}

function unbroadcastScores(
  here: Located,
  scores: Value,
  mask: Mask,
): { here: Located; mask: Mask } | NearMiss {
  const inner = throughElementwise(here, scores);
  return inner === undefined
    ? { nearMiss: `the scores are repeated over tokens by ${describe(here.value.node)}` }
    : { here: inner, mask };
}

/** A value without a scaling by one number. */
function unscaled(here: Located): Scaled | undefined {
  const { value } = here;
  const [a, b] = operandsOf(value, 'mul') ?? operandsOf(value, 'div') ?? [];
  if (a === undefined || b === undefined) return undefined;
  const inverse = value.node.op === 'div';
  const [x, number] = uniformOf(b) === undefined && !inverse ? [b, uniformOf(a)] : [a, uniformOf(b)];
  if (number === undefined || number === 0) return undefined;
  const inner = throughElementwise(here, x);
  return inner && { here: inner, scale: inverse ? 1 / number : number };
}

/** The operands of the score product, without their scalings. */
function contraction(scores: Located, v: Located, scale: number, mask: Mask): Reading | NearMiss {
  const { value, roles } = scores;
  const last = roles
    .slice(-2)
    .map((r) => r.kind)
    .join();
  if (last !== 'query,key' && last !== 'key,query')
    return { nearMiss: `the scores ${describe(value.node)} are not one product of queries and keys a head` };
  const [left, right] = value.node.operands.map((x, i): Located => {
    const lead =
      alignedRoles(roles.slice(0, -2), value.type.dims.slice(0, -2), x.type.dims.slice(0, -2)) ?? [];
    return {
      value: x,
      roles: i === 0 ? [...lead, roles.at(-2)!, FEATURE] : [...lead, FEATURE, roles.at(-1)!],
    };
  }) as [Located, Located];
  const q = source(last === 'query,key' ? left : right);
  const k = source(last === 'query,key' ? right : left);
  return { q: q.here, k: k.here, v: unmoved(v), scale: scale * q.scale * k.scale, mask };
}

/** Where an operand of the scores comes from, through moves and scalings. */
function source(start: Located): Scaled {
  let [here, scale]: [Located, number] = [start, 1];
  for (;;) {
    const less = unscaled(here);
    const next = less?.here ?? throughMove(here);
    if (next === undefined) return { here, scale };
    scale *= less?.scale ?? 1;
    here = next;
  }
}

/** Where a value comes from, through moves. */
function unmoved(start: Located): Located {
  let here = start;
  for (let next = throughMove(here); next !== undefined; next = throughMove(here)) here = next;
  return here;
}

/** Checks the heads and builds the op. */
function attentionFrom(
  { q, k, v, scale, mask }: Reading,
  queryHeads: number,
  type: Type,
): ((build: Builder, documents: Value) => Value) | NearMiss {
  const [ofQ, ofK, ofV] = [q, k, v].map((x) => headsOf(x, queryHeads));
  if (ofQ?.heads !== queryHeads)
    return { nearMiss: `the queries do not have ${queryHeads} heads of their own` };
  if (ofK === undefined || ofV === undefined)
    return {
      nearMiss:
        'query head h does not read K/V head ⌊h · K/V heads / heads⌋: K and V are repeated in another order',
    };
  const kvHeads = Math.max(ofK.heads, ofV.heads);
  if (kvHeads % Math.min(ofK.heads, ofV.heads) !== 0)
    return { nearMiss: `K has ${ofK.heads} heads, V has ${ofV.heads}` };
  for (const [name, { value, roles }] of Object.entries({ q, k, v })) {
    const tokens = value.type.dims[roles.findIndex((r) => r.kind === (name === 'q' ? 'query' : 'key'))];
    if (tokens?.size.key !== TOKENS.key)
      return { nearMiss: `its ${name} has ${tokens?.size.key} tokens, expected ${TOKENS.key}` };
  }
  return (build, documents) => {
    const tokens = (x: Located, token: 'query' | 'key', heads: number): Value =>
      asTokensHeadsFeatures(build, x, token, heads);
    const attrs = { mask: mask.kind, ...(mask.window === undefined ? {} : { window: mask.window }), scale };
    const [out] = build(
      'attention',
      [
        tokens(q, 'query', queryHeads),
        repeated(build, tokens(k, 'key', ofK.heads), kvHeads),
        repeated(build, tokens(v, 'key', ofV.heads), kvHeads),
        documents,
      ],
      attrs,
    );
    return asProduct(build, out!, type);
  };
}

/** Heads of [tokens, heads, features] repeated in place: only where K and V differ in their number. */
function repeated(build: Builder, x: Value, heads: number): Value {
  const [tokens, own, features] = x.type.dims as readonly [Dim, Dim, Dim];
  const count = constantOf(own.size)!;
  if (count === heads) return x;
  const split = tensorType('f32', [tokens, own, 1, features]);
  const shape = [
    constantOf(tokens.size) ?? tokens.size,
    count,
    heads / count,
    constantOf(features.size) ?? features.size,
  ];
  const spread = build.one('broadcast', [reshapeTo(build, x, split)], { shape, axes: [] });
  return reshapeTo(build, spread, tensorType('f32', [tokens, heads, features]));
}

/** [tokens, heads, features] in the layout of the contraction it replaces. */
function asProduct(build: Builder, out: Value, type: Type): Value {
  const lead = type.dims.slice(0, -2);
  const [tokens, , features] = out.type.dims as readonly [Dim, Dim, Dim];
  const unmerged = reshapeTo(build, out, tensorType('f32', [tokens, ...lead, features]));
  const heads = lead.map((_, i) => i + 1);
  const transposed = isSymbolic(type.dims.at(-1)!);
  return permute(
    build,
    unmerged,
    transposed ? [...heads, lead.length + 1, 0] : [...heads, 0, lead.length + 1],
  );
}
