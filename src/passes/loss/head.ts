/** Where the head of a model starts, and how it moves into the body of a tiled loss. */
import { invariant } from '../../errors.js';
import { builderAt, emit } from '../../ir/build.js';
import {
  inputName,
  makeInput,
  nodesReaching,
  type Graph,
  type NamedValue,
  type Node,
  type Value,
} from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { tiledOperand } from '../../ir/ops/tiled.js';
import { constantOf, divideSizes, productOfSizes, symbolSize } from '../../ir/size.js';

const TOKENS = symbolSize('S');

const hasTokens = (value: Value): boolean =>
  value.type.dims.some((d) => d.size.terms.some((t) => t.symbols.includes('S')));

/** Elements a token; undefined when the dims are not [S, constants…]. */
const elementsPerToken = (value: Value): number | undefined => {
  const perToken = divideSizes(productOfSizes(value.type.dims.map((d) => d.size)), TOKENS);
  return perToken && constantOf(perToken);
};

/**
 * Where the head starts: walking back from the logits along the single token-wise operand, the value with
 * the fewest elements a token within reach of the first matrix product. Everything after it goes into the
 * tile body.
 */
export function headInput(logits: Value): Value {
  let best = logits;
  for (let at = logits; ;) {
    const tokenwise = [...new Set(at.node.operands.filter(hasTokens))];
    if (
      tokenwise.length !== 1 ||
      at.node.region !== undefined ||
      at.node.op === 'attention' ||
      tokenwise[0]!.type.dtype !== 'f32'
    )
      return best;
    const isProduct = at.node.op === 'matmul';
    at = tokenwise[0]!;
    const [own, least] = [elementsPerToken(at), elementsPerToken(best)];
    if (at.type.dims[0]!.size.key === 'S' && own !== undefined && (isProduct || own <= (least ?? Infinity)))
      best = at;
    if (isProduct) return best;
  }
}

export interface LossBody {
  readonly body: Graph;
  /** What the body reads: the head's input and the data, sliced, then parameters. */
  readonly operands: readonly Value[];
  readonly slices: readonly number[];
}

/**
 * A body graph that computes `target` from `hidden`, and what `finish` makes of it and of a tile of each of
 * `data`, which are [S, …].
 */
export function bodyOf(
  hidden: Value,
  target: Value,
  data: readonly Value[],
  finish: (build: Builder, logits: Value, data: readonly Value[]) => readonly NamedValue[],
): LossBody {
  const copies = new Map<Value, Value>();
  const operands: Value[] = [hidden, ...data];
  const slices = operands.map(() => 0);
  const tiles = data.map((value) => makeInput(inputName(value), 'data', tiledOperand(value.type, 0)));
  const inputs = [makeInput('hidden', 'data', tiledOperand(hidden.type, 0)), ...tiles];
  copies.set(hidden, inputs[0]!);
  const copy = (node: Node): void => {
    const own = node.operands.map((v) => copies.get(v)!);
    const attrs =
      node.op === 'reshape' || node.op === 'broadcast'
        ? { ...node.attrs, shape: tileShape(node.attrs['shape']) }
        : node.attrs;
    emit(node.op, own, attrs, { loc: node.loc, region: node.region }).forEach((v, i) =>
      copies.set(node.results[i]!, v),
    );
  };
  const needed = behind(target, hidden);
  for (const node of nodesReaching([target])) {
    if (copies.has(node.results[0]!)) continue;
    if (node.op === 'input') {
      if (!needed.has(node.results[0]!)) continue;
      const own = makeInput(inputName(node.results[0]!), 'parameter', node.results[0]!.type, {}, node.loc);
      inputs.push(own);
      operands.push(node.results[0]!);
      slices.push(-1);
      copies.set(node.results[0]!, own);
    } else if (node.operands.every((v) => copies.has(v))) copy(node);
  }
  const logits = copies.get(target);
  invariant(logits !== undefined, 'the head could not be moved into the loss');
  const outputs = finish(builderAt(target.node.loc), logits, tiles);
  return { body: { name: 'head', axes: ['sp', 'world'], inputs, outputs }, operands, slices };
}

const tileShape = (shape: unknown): (number | ReturnType<typeof symbolSize>)[] =>
  (shape as (number | ReturnType<typeof symbolSize>)[]).map((s) =>
    typeof s === 'object' && s.key === 'S' ? symbolSize('T') : s,
  );

/** What `target` is computed from, without what reaches it through `cut` only. */
function behind(target: Value, cut: Value): ReadonlySet<Value> {
  const stack = [target];
  const seen = new Set<Value>();
  for (let at = stack.pop(); at !== undefined; at = stack.pop()) {
    if (seen.has(at)) continue;
    seen.add(at);
    if (at !== cut) for (const operand of at.node.operands) stack.push(operand);
  }
  return seen;
}
