/** Products whose rows are several heads of every token. */
import { constantOf, divideSizes, productOfSizes, sameSize, type Size } from '../../ir/size.js';
import { dim, tensorType, type Dim } from '../../ir/type.js';
import { operandOf, reshapeTo } from '../match.js';
import type { Rule } from './engine.js';

/** c of rows numbering c · m, for a number c above 1 and m that depends on the tokens. */
function timesOf(rows: Size, m: Size): number | undefined {
  if (constantOf(m) !== undefined) return undefined;
  const quotient = divideSizes(rows, m);
  const times = quotient && constantOf(quotient);
  return times !== undefined && times > 1 ? times : undefined;
}

/**
 * [..., c, m, k] with c and m merged into rows, times [..., k, n]: as when query heads that share a K/V head are
 * rows of one product (einsum makes that). Taken apart: [..., c, m, k] · [..., 1, k, n].
 */
const unmergedRows: Rule = (node, build) => {
  if (node.op !== 'matmul') return undefined;
  const [a, b] = node.operands;
  const x = operandOf(a!, 'reshape');
  const [m, k] = x?.type.dims.slice(-2) ?? [];
  if (x === undefined || m === undefined || k === undefined) return undefined;
  const lead = a!.type.dims.slice(0, -2);
  const [rows, depth] = a!.type.dims.slice(-2) as [Dim, Dim];
  const times = timesOf(rows.size, m.size);
  const sizes = (dims: readonly Dim[]): readonly Size[] => dims.map(({ size }) => size);
  const fits =
    times !== undefined &&
    sameSize(depth.size, k.size) &&
    sameSize(productOfSizes([...sizes(lead), times]), productOfSizes(sizes(x.type.dims.slice(0, -2))));
  const shared = b!.type.dims.length === 2;
  if (!fits || (!shared && b!.type.dims.length !== lead.length + 2)) return undefined;
  const left = reshapeTo(build, x, tensorType('f32', [...lead, dim(times), m, k]));
  const right = shared
    ? b!
    : reshapeTo(
        build,
        b!,
        tensorType('f32', [...b!.type.dims.slice(0, -2), dim(1), ...b!.type.dims.slice(-2)]),
      );
  return reshapeTo(build, build.one('matmul', [left, right]), node.results[0]!.type);
};

export const rowRules: readonly Rule[] = [unmergedRows];
