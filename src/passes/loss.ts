import { z } from 'zod';
import { UserError, invariant } from '../errors.js';
import { emit, builderAt } from '../ir/build.js';
import { inputName, makeInput, nodesReaching, type Graph, type Node, type Value } from '../ir/graph.js';
import { tiledOperand } from '../ir/ops/tiled.js';
import { constantOf, divideSizes, productOfSizes, symbolSize } from '../ir/size.js';
import { tensorType } from '../ir/type.js';
import { definePass } from './pass.js';

const TOKENS = symbolSize('S');

const options = z.strictObject({
  /** Tokens a tile: the peak holds tile × vocabulary logits instead of tokens × vocabulary. */
  tile: z.number().int().positive().default(1024),
  /** Also return the logits, tile by tile (the eval program). */
  logits: z.boolean().default(false),
});

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
function headInput(logits: Value): Value {
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

/** A body graph that computes `target` from `hidden`, and the parameters it reads, as its inputs. */
function bodyOf(
  hidden: Value,
  target: Value,
  labels: Value,
  withLogits: boolean,
): { body: Graph; operands: Value[]; slices: number[] } {
  const copies = new Map<Value, Value>();
  const operands: Value[] = [hidden, labels];
  const slices = [0, 0];
  const inputs = [
    makeInput('hidden', 'data', tiledOperand(hidden.type, 0)),
    makeInput('labels', 'data', tiledOperand(labels.type, 0)),
  ];
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
  for (const node of nodesReaching([target])) {
    if (copies.has(node.results[0]!)) continue;
    if (node.op === 'input') {
      if (!reaches(target, node.results[0]!, hidden)) continue;
      const own = makeInput(inputName(node.results[0]!), 'parameter', node.results[0]!.type, {}, node.loc);
      inputs.push(own);
      operands.push(node.results[0]!);
      slices.push(-1);
      copies.set(node.results[0]!, own);
    } else if (node.operands.every((v) => copies.has(v))) copy(node);
  }
  const logits = copies.get(target);
  invariant(logits !== undefined, 'the head could not be moved into the loss');
  const [sum, count] = builderAt(target.node.loc)('cross_entropy', [logits, inputs[1]!]);
  const outputs = [
    { name: 'loss_sum', value: sum! },
    { name: 'count', value: count! },
  ];
  if (withLogits) outputs.push({ name: 'logits', value: logits });
  return { body: { name: 'head', axes: ['sp', 'world'], inputs, outputs }, operands, slices };
}

const tileShape = (shape: unknown): (number | ReturnType<typeof symbolSize>)[] =>
  (shape as (number | ReturnType<typeof symbolSize>)[]).map((s) =>
    typeof s === 'object' && s.key === 'S' ? symbolSize('T') : s,
  );

/** Whether `source` reaches `target` without passing through `cut`. */
function reaches(target: Value, source: Value, cut: Value): boolean {
  const stack = [target];
  const seen = new Set<Value>();
  while (stack.length > 0) {
    const at = stack.pop()!;
    if (at === source) return true;
    if (at === cut || seen.has(at)) continue;
    seen.add(at);
    stack.push(...at.node.operands);
  }
  return false;
}

export const loss = definePass({
  name: 'loss',
  doc: 'Replaces the logits by the cross entropy of labels: (sum of token losses, number of counted tokens), tiled over tokens so that whole logits never exist. Labels arrive aligned with what predicts them: next-token labels are shifted already.',
  requires: ['recognized', 'unplaced'],
  ensures: ['lossy'],
  numerics: 'reordered',
  options,
  run: (graph, { tile, logits: withLogits }) => {
    const logits = graph.outputs.find((o) => o.name === 'logits')?.value;
    if (
      logits === undefined ||
      logits.type.dims.length !== 2 ||
      logits.type.dims[0]!.size.key !== 'S' ||
      constantOf(logits.type.dims[1]!.size) === undefined
    )
      throw new UserError(
        'the model has no output `logits` of shape [tokens, vocabulary]',
        'export the model with its language-model head',
      );
    const labels = makeInput('labels', 'data', tensorType('i32', [TOKENS]));
    const { body, operands, slices } = bodyOf(headInput(logits), logits, labels, withLogits);
    const results = withLogits ? ['sum', 'sum', 'concat'] : ['sum', 'sum'];
    const values = emit(
      'tiled',
      operands,
      { tile, slice: slices, results },
      { loc: logits.node.loc, region: body },
    );
    return {
      ...graph,
      inputs: [...graph.inputs, labels],
      outputs: body.outputs.map(({ name }, i) => ({ name, value: values[i]! })),
    };
  },
});
