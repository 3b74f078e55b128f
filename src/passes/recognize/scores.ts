import type { Node, Value } from '../../ir/graph.js';
import { eitherOrder, operandOf, operandsOf, uniformOf } from '../match.js';
import { addLinear, linearOf, scaleLinear, type Linear } from './bias.js';
import { additiveMask, booleanMask, bothMasks, FULL, hides, sameMask, type Mask } from './mask.js';
import { relativeOf, scaledTable, type Relative } from './relative.js';
import { alignedRoles, FEATURE, isReadable, throughElementwise, throughMove, type Located } from './roles.js';
import { describe, isNearMiss, type NearMiss } from './rule.js';

/** Softmax between two contractions, read off as operands of the op `attention`. */
export interface Reading {
  readonly q: Located;
  readonly k: Located;
  readonly v: Located;
  readonly scale: number;
  /** c where the scaled products s become c · tanh(s / c). */
  readonly softcap: number | undefined;
  readonly mask: Mask;
  /** What is added after that. */
  readonly bias: Linear | undefined;
  readonly relative: Relative | undefined;
}

/** A value, and the product of the numbers it was multiplied by on the way to it. */
interface Scaled {
  readonly here: Located;
  readonly scale: number;
}

/** What lies between the product of q and k and softmax, from the outside in. */
interface Path {
  here: Located;
  scale: number;
  /** The scale outside of tanh. */
  softcap: number | undefined;
  mask: Mask;
  bias: Linear | undefined;
  relative: Relative | undefined;
}

/**
 * From softmax back to the product q·kᵀ, gathering scales, masks, biases and a cap.
 * @param heads number of query heads
 */
export function readScores(softmax: Located, v: Located, heads: number): Reading | NearMiss {
  const start: Located = { value: softmax.value.node.operands[0]!, roles: softmax.roles };
  const path: Path = {
    here: start,
    scale: 1,
    softcap: undefined,
    mask: FULL,
    bias: undefined,
    relative: undefined,
  };
  for (;;) {
    if (path.here.value.node.op === 'matmul') return contraction(path, v);
    const added = unmasked(path.here, heads);
    const problem = added === undefined ? inward(path) : isNearMiss(added) ? added : addTo(path, added);
    if (problem !== undefined) return problem;
  }
}

/** Scores whose hidden elements are set to 0 by a mask that hides no more than what was added after it. */
function unzeroed({ here, mask }: Path): Located | undefined {
  for (const [scores, other] of eitherOrder(here.value, 'mul')) {
    const condition = operandsOf(other, 'cast')?.[0];
    const aligned = condition?.type.dtype === 'bool' ? throughElementwise(here, condition) : undefined;
    const zeroes = aligned && isReadable(aligned) ? booleanMask(aligned) : undefined;
    if (zeroes === undefined || isNearMiss(zeroes)) continue;
    const both = bothMasks(mask, zeroes);
    if (sameMask(both, mask)) return throughElementwise(here, scores);
  }
  return undefined;
}

/** Scores kept from falling below what hides a key: softmax sees no difference. */
function unclamped(here: Located): Located | undefined {
  const found = eitherOrder(here.value, 'maximum').find(([, lowest]) => hides(lowest));
  return found && throughElementwise(here, found[0]);
}

/** One step towards the product: through a scaling, a move, a clamp or tanh. */
function inward(path: Path): NearMiss | undefined {
  const { value } = path.here;
  const capped = operandsOf(value, 'tanh')?.[0];
  if (capped !== undefined) {
    if (path.softcap !== undefined || path.scale <= 0)
      return {
        nearMiss: `the scores pass through ${describe(value.node)} before softmax, which is no soft cap`,
      };
    path.softcap = path.scale;
    path.scale = 1;
    path.here = { ...path.here, value: capped };
    return undefined;
  }
  const less = unscaled(path.here);
  const next = less?.here ?? unzeroed(path) ?? unclamped(path.here) ?? throughMove(path.here);
  if (next === undefined) return { nearMiss: blocked(value.node) };
  path.scale *= less?.scale ?? 1;
  path.here = next;
  return undefined;
}

function addTo(path: Path, { here, addend }: { here: Located; addend: Addend }): NearMiss | undefined {
  if (path.softcap !== undefined) return { nearMiss: 'a mask or bias is added before the scores are capped' };
  if (addend.mask !== FULL && path.scale <= 0)
    return { nearMiss: 'the masked scores are scaled by a negative number' };
  path.mask = bothMasks(path.mask, addend.mask);
  if (addend.bias !== undefined) {
    const bias = scaleLinear(addend.bias, path.scale);
    path.bias = path.bias === undefined ? bias : addLinear(path.bias, bias);
  }
  if (addend.relative !== undefined) {
    if (path.relative !== undefined)
      return { nearMiss: 'two biases by the offset of key and query are added' };
    path.relative = scaledTable(addend.relative, path.scale);
  }
  path.here = here;
  return undefined;
}

const blocked = ({ op, operands, ...node }: Node): string => {
  const name = describe({ op, operands, ...node });
  if (op === 'input' || operands.length === 0) return `the scores are ${name}, not a product of q and k`;
  return operands.length === 1
    ? `the scores pass through ${name} before softmax`
    : `the scores pass through ${name} with a value that is neither a mask nor a number before softmax`;
};

/** What is added to the scores: a mask, a function of positions, or both. */
interface Addend {
  readonly mask: Mask;
  readonly bias: Linear | undefined;
  readonly relative?: Relative | undefined;
}

/** What is subtracted, as an addend; a mask would show what it hides. */
const negated = ({ mask, bias, relative }: Addend): Addend | undefined =>
  mask === FULL
    ? { mask, bias: bias && scaleLinear(bias, -1), relative: relative && scaledTable(relative, -1) }
    : undefined;

/** Scores without what is added to them; undefined when nothing is. */
function unmasked(here: Located, heads: number): { here: Located; addend: Addend } | NearMiss | undefined {
  const [from, taken] = operandsOf(here.value, 'sub') ?? [];
  const sums = eitherOrder(here.value, 'add').map(([scores, other]) => ({ scores, other, sign: 1 }));
  const opposite = taken && operandOf(taken, 'neg');
  const difference = opposite ? { other: opposite, sign: 1 } : taken && { other: taken, sign: -1 };
  const differences = from && difference ? [{ scores: from, ...difference }] : [];
  for (const { scores, other, sign } of [...sums, ...differences]) {
    const aligned = throughElementwise(here, other, 'heads and tokens');
    const found = aligned && isReadable(aligned) ? addendOf(aligned, heads) : undefined;
    const addend = sign < 0 && found !== undefined && !isNearMiss(found) ? negated(found) : found;
    if (addend === undefined) continue;
    return isNearMiss(addend) ? addend : unbroadcastScores(here, scores, addend);
  }
  if (here.value.node.op === 'add' || here.value.node.op === 'sub')
    return {
      nearMiss: `a bias is added to the scores by ${describe(here.value.node)}: it is neither a mask nor, for each head, a function of the offset between key and query`,
    };
  const [condition, scores, hidden] = operandsOf(here.value, 'where') ?? [];
  if (condition === undefined) return undefined;
  const aligned = hides(hidden!) ? throughElementwise(here, condition) : undefined;
  const mask = aligned && isReadable(aligned) ? booleanMask(aligned) : undefined;
  if (mask === undefined)
    return {
      nearMiss: `the condition ${describe(condition.node)} of ${describe(here.value.node)} is not a mask`,
    };
  return isNearMiss(mask) ? mask : unbroadcastScores(here, scores!, { mask, bias: undefined });
}

function addendOf(here: Located, heads: number): Addend | NearMiss | undefined {
  const bias = linearOf(here, heads);
  if (bias !== undefined) return { mask: FULL, bias };
  const relative = relativeOf(here, heads);
  if (relative !== undefined) return { mask: FULL, bias: undefined, relative };
  const mask = additiveMask(here);
  if (mask !== undefined) return isNearMiss(mask) ? mask : { mask, bias: undefined };
  const inner = (operand: Value): Addend | NearMiss | undefined => {
    const located = throughElementwise(here, operand, 'heads and tokens');
    return located && addendOf(located, heads);
  };
  const [both] = eitherOrder(here.value, 'add');
  if (both !== undefined)
    return bothAddends(...(both.map(inner) as [ReturnType<typeof inner>, ReturnType<typeof inner>]));
  const [condition, seen, hidden] = operandsOf(here.value, 'where') ?? [];
  if (condition !== undefined && hides(hidden!)) {
    const located = throughElementwise(here, condition);
    const chosen = located && booleanMask(located);
    if (chosen === undefined || isNearMiss(chosen)) return chosen;
    return bothAddends({ mask: chosen, bias: undefined }, inner(seen!));
  }
  const moved = throughMove(here);
  return moved && addendOf(moved, heads);
}

function bothAddends(
  a: Addend | NearMiss | undefined,
  b: Addend | NearMiss | undefined,
): Addend | NearMiss | undefined {
  if (a === undefined || b === undefined) return undefined;
  if (isNearMiss(a)) return a;
  if (isNearMiss(b)) return b;
  const bias = a.bias && b.bias ? addLinear(a.bias, b.bias) : (a.bias ?? b.bias);
  if (a.relative && b.relative) return { nearMiss: 'two biases by the offset of key and query are added' };
  return { mask: bothMasks(a.mask, b.mask), bias, relative: a.relative ?? b.relative };
}

function unbroadcastScores(
  here: Located,
  scores: Value,
  addend: Addend,
): { here: Located; addend: Addend } | NearMiss {
  const inner = throughElementwise(here, scores);
  return inner === undefined
    ? { nearMiss: `the scores are repeated over tokens by ${describe(here.value.node)}` }
    : { here: inner, addend };
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
function contraction({ here, scale, softcap, mask, bias, relative }: Path, v: Located): Reading | NearMiss {
  const { value, roles } = here;
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
  const inner = scale * q.scale * k.scale;
  return {
    q: q.here,
    k: k.here,
    v: unmoved(v),
    scale: softcap === undefined ? inner : softcap * inner,
    softcap,
    mask,
    bias,
    relative,
  };
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
