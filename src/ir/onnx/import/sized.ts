/**
 * Parts of a graph that no logits depend on, at sizes that are known: what evaluating them would cost, before
 * onnxruntime is asked.
 */
import { constantSize } from '../../size.js';
import { constantTensor } from '../attribute.js';
import type { Subgraph } from '../evaluate.js';
import type { OnnxNode, TensorValue } from '../model.js';
import { checkEvaluable, runBytes, spend } from './budget.js';
import { inferNode, storedFacts, tokenLimit, type Classified, type ValueFacts } from './classify.js';
import type { Shaped } from './context.js';
import { onnxOp } from './ops/index.js';

const unknown = { fixed: false, weights: false, node: undefined, input: undefined, stored: undefined };

/** ONNX's own losses, which nothing but a loss is computed with. */
function lossShapes(node: OnnxNode, facts: ReadonlyMap<string, ValueFacts>): readonly Shaped[] | undefined {
  if (!['SoftmaxCrossEntropyLoss', 'NegativeLogLikelihoodLoss'].includes(node.opType)) return undefined;
  const [scores, labels] = node.inputs.map((name) => facts.get(name));
  if (scores === undefined || labels === undefined) return undefined;
  const reduction = node.attributes.get('reduction');
  const whole = reduction?.kind === 'string' && reduction.value === 'none';
  const loss = { dtype: scores.dtype, dims: whole ? labels.dims : [] };
  return [loss, { dtype: scores.dtype, dims: scores.dims }];
}

/**
 * Counts a run of a part of the model that starts at `feeds`, as one of the import.
 * @throws UserError for operations whose shapes are not understood, and for what would cost too much
 */
export function spendSized(
  classified: Classified,
  { nodes, initializers }: Subgraph,
  feeds: ReadonlyMap<string, TensorValue>,
): void {
  const facts = new Map<string, ValueFacts>(
    [...feeds].map(([name, { dtype, dims }]) => [
      name,
      { ...unknown, dtype, dims: dims.map(constantSize), data: true },
    ]),
  );
  const limit = tokenLimit();
  for (const stored of initializers) facts.set(stored.name, storedFacts(stored));
  for (const node of nodes) {
    const shapes =
      (onnxOp(node) === undefined ? lossShapes(node, facts) : undefined) ??
      inferNode(node, classified.opset, facts, limit);
    const stored = constantTensor(node);
    node.outputs.forEach((name, i) => {
      const shaped = shapes[i];
      if (name === '' || shaped === undefined) return;
      const own = { ...unknown, ...shaped, data: shaped.ints === undefined, node };
      facts.set(name, stored === undefined ? own : { ...storedFacts(stored), node });
    });
  }
  const part: Classified = { ...classified, facts, nodes, limit };
  const inside = nodes.flatMap(({ outputs }) => outputs.filter((name) => facts.has(name)));
  checkEvaluable(part, inside);
  spend(classified, inside.slice(-1), runBytes(part, inside, 1));
}
