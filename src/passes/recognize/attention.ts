import type { Node, Value } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { constantOf, productOfSizes, symbolSize, type Size } from '../../ir/size.js';
import { dim, tensorType, type Dim, type Type } from '../../ir/type.js';
import { isSymbolic, permute, reshapeTo } from '../match.js';
import { isLevel, type Linear } from './bias.js';
import type { Mask } from './mask.js';
import {
  alignedRoles,
  asTokensHeadsFeatures,
  FEATURE,
  headRoles,
  headsOf,
  type Heads,
  KEY,
  QUERY,
  throughElementwise,
  throughMove,
  type Located,
  type Role,
} from './roles.js';
import { isNearMiss, type NearMiss } from './rule.js';
import { readScores, type Reading } from './scores.js';
import { asRowSums, scaledRows } from './sink.js';
import { softmaxDim, unguarded } from './softmax.js';

/** The tokens of a group: the row that `documents` divides. */
export const TOKENS = symbolSize('S');

export interface AttentionFound {
  /** The softmax it was read from. */
  readonly softmax: Node;
  readonly found: ((build: Builder, documents: Value) => Attended) | NearMiss;
}

export interface Attended {
  /** What the contraction gave. */
  readonly product: Value;
  /** The log-sum-exp of the scores, as a reduction of them; undefined: in no layout that is known. */
  readonly rowSums: ((sum: Value) => Value) | undefined;
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
  const scaled = scaledRows(weights);
  const softmax = softmaxBelow(scaled?.weights ?? weights);
  if (softmax === undefined) return undefined;
  const queryHeads = constantOf(productOfSizes(lead.map((d) => d.size)))!;
  const reading = readScores(softmax, v, queryHeads);
  const found = isNearMiss(reading)
    ? reading
    : attentionFrom(reading, queryHeads, node.results[0]!.type, softmax, scaled?.factor);
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

/** Checks the heads and builds the op. */
function attentionFrom(
  { q, k, v, scale, softcap, mask, bias, relative }: Reading,
  queryHeads: number,
  type: Type,
  softmax: Located,
  factor: Value | undefined,
): ((build: Builder, documents: Value) => Attended) | NearMiss {
  const [ofQ, ofK, ofV] = [q, k, v].map((x) => headsOf(x, queryHeads)) as [Heads, Heads, Heads];
  if (ofQ.repeat !== 1 || ofQ.own !== queryHeads)
    return { nearMiss: `the queries do not have ${queryHeads} heads of their own` };
  const kvHeads = Math.max(ofK.heads, ofV.heads);
  if (kvHeads % Math.min(ofK.heads, ofV.heads) !== 0)
    return { nearMiss: `K has ${ofK.heads} heads, V has ${ofV.heads}` };
  for (const [name, { value, roles }] of Object.entries({ q, k, v })) {
    const tokens = value.type.dims[roles.findIndex((r) => r.kind === (name === 'q' ? 'query' : 'key'))];
    if (tokens?.size.key !== TOKENS.key)
      return { nearMiss: `its ${name} has ${tokens?.size.key} tokens, expected ${TOKENS.key}` };
  }
  const slopes = slopesOf(bias, mask);
  if (isNearMiss(slopes)) return slopes;
  return (build, documents) => {
    const tokens = (x: Located, token: 'query' | 'key', heads: number): Value =>
      asTokensHeadsFeatures(build, x, token, heads);
    const attrs = {
      mask: mask.kind,
      ...(mask.window === undefined ? {} : { window: mask.window }),
      ...(mask.ahead === undefined ? {} : { ahead: mask.ahead }),
      scale,
      ...(softcap === undefined ? {} : { softcap }),
      ...(slopes.length === 0 ? {} : { slopes }),
      ...(relative === undefined ? {} : { before: relative.before }),
    };
    const [out, lse] = build(
      'attention',
      [
        tokens(q, 'query', queryHeads),
        repeated(build, inOrder(build, tokens(k, 'key', ofK.own), ofK), kvHeads),
        repeated(build, inOrder(build, tokens(v, 'key', ofV.own), ofV), kvHeads),
        documents,
        ...(relative === undefined ? [] : [relative.table(build)]),
      ],
      attrs,
    );
    const product = asProduct(build, out!, type);
    const scaled = factor === undefined ? product : build.one('mul', [product, factor]);
    return { product: scaled, rowSums: asRowSums(build, lse!, softmax) };
  };
}

/** For each head, what a score loses for every token between query and key; none where that is nothing. */
function slopesOf(bias: Linear | undefined, mask: Mask): readonly number[] | NearMiss {
  if (bias === undefined || isLevel(bias)) return [];
  const { key, away } = bias;
  // Of keys that are not later, c · j is c · i − c · |i − j|.
  if ((mask.kind === 'full' || mask.ahead !== undefined) && key.some((slope) => slope !== 0))
    return { nearMiss: 'its bias grows with the position of the key, but queries see later keys too' };
  return key.map((slope, h) => slope - away[h]!);
}

/** Heads of [tokens, own heads, features] as query heads read them, where they are not read in order. */
function inOrder(build: Builder, x: Value, { heads, spread }: Heads): Value {
  if (spread === undefined) return x;
  const [tokens, , features] = x.type.dims as readonly [Dim, Dim, Dim];
  const sizes = (dims: readonly Dim[]): (number | Size)[] => dims.map((d) => constantOf(d.size) ?? d.size);
  const apart = tensorType('f32', [tokens, ...spread.map(({ size, own }) => dim(own ? size : 1)), features]);
  const shape = [...sizes([tokens]), ...spread.map(({ size }) => size), ...sizes([features])];
  const wide = build.one('broadcast', [reshapeTo(build, x, apart)], { shape, axes: [] });
  return reshapeTo(build, wide, tensorType('f32', [tokens, dim(heads), features]));
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
