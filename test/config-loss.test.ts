import { expect, test } from 'vitest';
import { parseConfig } from '../src/config.js';
import { UserError } from '../src/errors.js';

const lossOf = (loss: unknown) => parseConfig({ loss }, 'test').loss;

function refusal(loss: unknown): string {
  try {
    lossOf(loss);
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    return `${(error as UserError).message} | ${(error as UserError).hint}`;
  }
  throw new Error('it was accepted');
}

test('losses and their defaults', () => {
  expect(lossOf({ kind: 'regression' })).toEqual({ kind: 'regression' });
  expect(lossOf({ kind: 'distillation' })).toEqual({
    kind: 'distillation',
    temperature: 1,
    alpha: 0.5,
    topK: 64,
  });
  expect(lossOf({ kind: 'distillation', of: 'masked-lm', alpha: 1, temperature: 2, topK: 8 })).toEqual({
    kind: 'distillation',
    of: 'masked-lm',
    alpha: 1,
    temperature: 2,
    topK: 8,
  });
});

test.each<[unknown, RegExp]>([
  [{ kind: 'regresion' }, /there is no loss "regresion" \| did you mean 'regression'/],
  [{ kind: 'distillation', tempature: 2 }, /unknown key 'loss\.tempature' \| did you mean 'temperature'/],
  [{ kind: 'regression', mlm: {} }, /unknown key 'loss\.mlm' \| known keys: kind$/],
  [{ kind: 'distillation', alpha: 0 }, /'loss\.alpha'/],
  [{ kind: 'distillation', alpha: 1.1 }, /'loss\.alpha'/],
  [{ kind: 'distillation', temperature: 0 }, /'loss\.temperature'/],
  [{ kind: 'distillation', topK: 1.5 }, /'loss\.topK'/],
  [{ kind: 'distillation', of: 'regression' }, /'loss\.of'/],
  [{}, /'loss' has no kind/],
  ['regression', /loss/],
  [null, /loss/],
])('%j is refused', (loss, message) => {
  expect(refusal(loss)).toMatch(message);
});
