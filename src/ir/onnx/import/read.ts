/** Which token a model reads for a sequence, where that depends on the ids: by evaluation on many sequences. */
import { UserError } from '../../../errors.js';
import { pooledToken, POOL_KINDS, poolText, type Pool } from '../../pooled.js';
import { constantOf } from '../../size.js';
import { createEvaluator } from '../evaluate.js';
import type { OnnxNode, TensorValue } from '../model.js';
import { checkEvaluable, runBytes, spend } from './budget.js';
import type { Classified } from './classify.js';
import { nodeText } from './context.js';
import { givenValue, insideOf } from './evaluate.js';

const LENGTHS: readonly number[] = [1, 2, 3, 5, 8, 13, 32];
/** Ids that a subgraph may single out. */
const MAX_SPECIAL = 8;
const MAX_ID = 2 ** 31 - 2;

/**
 * What the index of a node that reads one token is, as a function of the ids. Sequences have each constant of the
 * subgraph as an id nowhere, everywhere, at either end, and scattered.
 * @throws UserError naming the node when no rule gives the index of every sequence
 */
export async function tokenRead(classified: Classified, node: OnnxNode): Promise<Pool> {
  const index = node.inputs[1]!;
  const { inside, given } = insideOf(classified, [index]);
  checkEvaluable(classified, inside);
  const special = specialIds(classified, [...inside, ...given]);
  const dtypes = new Map(given.map((name) => [name, classified.facts.get(name)!.dtype]));
  const evaluator = await createEvaluator(classified.model, [index], dtypes, {
    maxBytes: 1 << 22,
    maxNodes: 1000,
  });
  let rules = candidates(special);
  try {
    for (const ids of sequences(special)) {
      spend(classified, [index], runBytes(classified, inside, ids.length));
      const values = new Map(given.map((name) => [name, feed(classified, name, ids)]));
      const value = (await evaluator.run(values)).get(index)!;
      const found = Number(value.data[value.data.length - 1] ?? NaN);
      const token = found < 0 ? found + ids.length : found;
      rules = rules.filter((rule) => pooledToken(ids, rule) === token);
    }
  } finally {
    await evaluator.release();
  }
  const [rule] = rules;
  if (rule !== undefined) return rule;
  throw new UserError(
    `${nodeText(node)}: reads a token that its ids choose by no known rule (${POOL_KINDS.filter(
      (kind) => kind !== 'mean',
    )
      .map((kind) => poolText({ kind, id: special[0] ?? 0 }))
      .join(', ')})`,
    'export a model that pools by the first token, the last (pad_token_id set), or the mean',
  );
}

function candidates(special: readonly number[]): readonly Pool[] {
  const alone: readonly Pool[] = [{ kind: 'first' }, { kind: 'last' }, { kind: 'largest' }];
  const ofId = ['last-except', 'first-of', 'before-first-of'] as const;
  return [...alone, ...special.flatMap((id) => ofId.map((kind) => ({ kind, id })))];
}

/** Integers that the subgraph computes with. */
function specialIds({ facts }: Classified, names: readonly string[]): readonly number[] {
  const found = new Set<number>();
  for (const name of names) {
    const { ints } = facts.get(name)!;
    if (ints !== undefined && ints.length <= 4)
      for (const size of ints) {
        const id = constantOf(size);
        if (id !== undefined && id >= 0 && id <= MAX_ID) found.add(id);
      }
  }
  return [...found].slice(0, MAX_SPECIAL);
}

/** The same sequences in every run. */
function* sequences(special: readonly number[]): Generator<Int32Array> {
  let state = 1;
  const below = (n: number): number => {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  const plain = (): number => {
    for (;;) {
      const id = 1 + below(500);
      if (!special.includes(id)) return id;
    }
  };
  for (const length of LENGTHS) {
    yield Int32Array.from({ length }, plain);
    for (const id of special) {
      const half = Math.floor(length / 2);
      yield new Int32Array(length).fill(id);
      yield Int32Array.from({ length }, (_, t) => (t >= half ? id : plain()));
      yield Int32Array.from({ length }, (_, t) => (t < half ? id : plain()));
      for (let i = 0; i < 3; i++) yield Int32Array.from({ length }, () => (below(3) === 0 ? id : plain()));
    }
  }
}

function feed(classified: Classified, name: string, ids: Int32Array): TensorValue {
  const facts = classified.facts.get(name)!;
  const value = givenValue(facts, ids.length);
  if (facts.input?.role !== 'tokens') return value;
  return { ...value, data: facts.dtype === 'i64' ? BigInt64Array.from(ids, BigInt) : ids };
}
