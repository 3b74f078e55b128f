/** A fuzz case: which model, which edits. Each edit has its own seed, so that others can be left out. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { BOMBS } from './bombs.js';
import { BYTE_EDITS } from './bytes.js';
import { diceOf, subSeed } from './dice.js';
import { decode, encode, restartNames } from './proto.js';
import { STRUCTURE_EDITS } from './structure.js';

export interface Edit {
  readonly name: string;
  readonly seed: number;
}

export interface FuzzCase {
  readonly seed: number;
  readonly model: string;
  readonly weights: boolean;
  readonly edits: readonly Edit[];
}

const MODELS = path.resolve('test/models');

export const modelNames = (): readonly string[] =>
  readdirSync(MODELS, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => entry.name)
    .sort();

/** The case of a seed: a function of the seed and of the lists of models and edits. */
export function caseOf(seed: number, models: readonly string[]): FuzzCase {
  const dice = diceOf(seed);
  const kind = dice.below(10);
  const table = kind < 3 ? BYTE_EDITS : kind < 7 ? STRUCTURE_EDITS : BOMBS;
  const names = Object.keys(table);
  const count = kind < 3 ? 1 + dice.below(6) : kind < 7 ? 1 + dice.below(3) : 1;
  const edits = Array.from({ length: count }, (_, i) => ({ name: dice.pick(names), seed: subSeed(seed, i) }));
  // A bomb is sometimes carried by a model that is damaged besides.
  if (kind >= 7 && dice.chance(0.2))
    edits.push({ name: dice.pick(Object.keys(STRUCTURE_EDITS)), seed: subSeed(seed, count) });
  return { seed, model: dice.pick(models), weights: dice.chance(0.5), edits };
}

const files = new Map<string, Uint8Array>();

const originalOf = (model: string): Uint8Array => {
  const known = files.get(model) ?? readFileSync(path.join(MODELS, model, 'model.onnx'));
  files.set(model, known);
  return known;
};

/** The bytes of a case. Structural edits come first: damaged bytes cannot be decoded. */
export function bytesOf({ model, edits }: FuzzCase): Uint8Array {
  restartNames();
  let bytes: Uint8Array = originalOf(model);
  const structural = edits.flatMap(({ name, seed }) => {
    const edit = STRUCTURE_EDITS[name] ?? BOMBS[name];
    return edit === undefined ? [] : [{ edit, seed }];
  });
  if (structural.length > 0) {
    const decoded = decode(bytes);
    for (const { edit, seed } of structural) edit(decoded, diceOf(seed));
    bytes = encode(decoded);
  }
  for (const { name, seed } of edits) bytes = BYTE_EDITS[name]?.(bytes, diceOf(seed)) ?? bytes;
  return bytes;
}
