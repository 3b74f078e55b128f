import { numberAttr, numbersAttr, type Attr, type Node, type Value } from '../../ir/graph.js';
import { dimIndex } from '../../ir/infer.js';
import { constantOf } from '../../ir/size.js';
import { sameShape } from '../../ir/type.js';
import { broadcastTo, isElementwise, operandOf, permute, reshapeTo } from '../match.js';
import type { Rule } from './engine.js';

/** `dim` and `dims` count from the front. */
const positiveDims: Rule = (node, build) => {
  const rank = node.operands[0]?.type.dims.length ?? 0;
  const { dim, dims } = node.attrs;
  const positive: Record<string, Attr> = {};
  if (typeof dim === 'number' && dim < 0) positive['dim'] = dimIndex(dim, rank);
  if (dims !== undefined && numbersAttr(node.attrs, 'dims').some((d) => d < 0))
    positive['dims'] = numbersAttr(node.attrs, 'dims').map((d) => dimIndex(d, rank));
  if (Object.keys(positive).length === 0) return undefined;
  return build.one(node.op, node.operands, { ...node.attrs, ...positive });
};

const RESHAPING: ReadonlySet<string> = new Set(['reshape', 'broadcast', 'transpose', 'slice']);

/** An op that moves nothing. */
const identity: Rule = (node) => {
  const x = node.operands[0];
  if (x === undefined || !RESHAPING.has(node.op) || !sameShape(x.type, node.results[0]!.type))
    return undefined;
  if (node.op === 'transpose') return isIdentity(numbersAttr(node.attrs, 'perm')) ? x : undefined;
  return x;
};

const isIdentity = (perm: readonly number[]): boolean => perm.every((p, i) => p === i);

/** reshape∘reshape, transpose∘transpose, broadcast∘broadcast. */
const merge: Rule = (node, build) => {
  const { type } = node.results[0]!;
  const x = node.operands[0];
  if (x === undefined) return undefined;
  if (node.op === 'reshape') {
    const inner = operandOf(x, 'reshape');
    return inner && reshapeTo(build, inner, type);
  }
  if (node.op === 'broadcast') {
    const inner = operandOf(x, 'broadcast');
    return inner && broadcastTo(build, inner, type);
  }
  if (node.op !== 'transpose') return undefined;
  const inner = operandOf(x, 'transpose');
  if (inner === undefined) return undefined;
  const before = numbersAttr(x.node.attrs, 'perm');
  return permute(
    build,
    inner,
    numbersAttr(node.attrs, 'perm').map((p) => before[p]!),
  );
};

interface Span {
  readonly x: Value;
  readonly dim: number;
  readonly start: number;
  readonly end: number;
  readonly step: number;
}

const spanOf = (node: Node): Span | undefined =>
  node.op === 'slice'
    ? {
        x: node.operands[0]!,
        dim: numberAttr(node.attrs, 'dim'),
        start: numberAttr(node.attrs, 'start'),
        end: numberAttr(node.attrs, 'end'),
        step: numberAttr(node.attrs, 'step'),
      }
    : undefined;

const sliceOfSlice: Rule = (node, build) => {
  const outer = spanOf(node);
  const inner = outer && spanOf(outer.x.node);
  if (inner === undefined || inner.dim !== outer!.dim) return undefined;
  const { dim, start, end, step } = outer!;
  if (end <= start) return undefined;
  return build.one('slice', [inner.x], {
    dim,
    start: inner.start + start * inner.step,
    end: inner.start + (end - 1) * inner.step + 1,
    step: inner.step * step,
  });
};

/** A slice of a concat that needs some of its operands only. */
const sliceOfConcat: Rule = (node, build) => {
  const span = spanOf(node);
  if (span?.x.node.op !== 'concat' || numberAttr(span.x.node.attrs, 'dim') !== span.dim) return undefined;
  const parts: Value[] = [];
  let at = 0;
  let first: number | undefined;
  for (const part of span.x.node.operands) {
    const next = at + constantOf(part.type.dims[span.dim]!.size)!;
    if (next > span.start && at < span.end) {
      parts.push(part);
      first ??= at;
    }
    at = next;
  }
  if (first === undefined || parts.length === span.x.node.operands.length) return undefined;
  const { dim, start, end, step } = span;
  const rest = build.one('concat', parts, { dim });
  return build.one('slice', [rest], { dim, start: start - first, end: end - first, step });
};

/** slice(f(concat(…))) as f(slice(concat(…))), for f with one operand. */
const sliceThroughUnary: Rule = (node, build) => {
  const x = node.operands[0]!;
  if (node.op !== 'slice' || !isElementwise(x.node) || x.node.operands.length !== 1) return undefined;
  const inner = x.node.operands[0]!;
  if (inner.node.op !== 'concat' || inner.node.attrs['dim'] !== node.attrs['dim']) return undefined;
  return build.one(x.node.op, [build.one('slice', [inner], node.attrs)], x.node.attrs);
};

/** Concat of one operand, of concats along the same dim, of adjacent slices of one value. */
const concats: Rule = (node, build) => {
  if (node.op !== 'concat') return undefined;
  if (node.operands.length === 1) return node.operands[0]!;
  const dim = numberAttr(node.attrs, 'dim');
  const flat = node.operands.flatMap((v) =>
    v.node.op === 'concat' && v.node.attrs['dim'] === dim ? v.node.operands : [v],
  );
  const merged: Value[] = [];
  for (const v of flat) {
    const [before, span] = [merged.length === 0 ? undefined : spanOf(merged.at(-1)!.node), spanOf(v.node)];
    if (
      before !== undefined &&
      span?.x === before.x &&
      span.dim === dim &&
      before.dim === dim &&
      before.step === 1 &&
      span.step === 1 &&
      before.end === span.start
    )
      merged.push(
        build.one('slice', [merged.pop()!.node.operands[0]!], { ...v.node.attrs, start: before.start }),
      );
    else merged.push(v);
  }
  return merged.length === node.operands.length ? undefined : build.one('concat', merged, { dim });
};

/** Rules that hold for placed types, too: they move no dim that may be split. */
export const placedRules: readonly Rule[] = [identity, merge];

export const shapeRules: readonly Rule[] = [
  positiveDims,
  identity,
  merge,
  sliceOfSlice,
  sliceOfConcat,
  sliceThroughUnary,
  concats,
];
