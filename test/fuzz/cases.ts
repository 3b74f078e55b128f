/** A fuzz case: which model, which edits. Each edit has its own seed, so that others can be left out. */
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { BOMBS } from './bombs.js';
import { BYTE_EDITS } from './bytes.js';
import { diceOf, subSeed } from './dice.js';
import { FUNCTION_EDITS } from './functions.js';
import { decode, encode, restartNames } from './proto.js';
import { SCALE_EDITS } from './scale.js';
import { STRUCTURE_EDITS, type StructureEdit } from './structure.js';

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

/** Every edit but those of bytes: they work on the decoded model. */
const DECODED_EDITS: Readonly<Record<string, StructureEdit>> = {
  ...STRUCTURE_EDITS,
  ...FUNCTION_EDITS,
  ...BOMBS,
  ...SCALE_EDITS,
};

const FAMILIES = {
  bytes: { table: BYTE_EDITS, most: 6 },
  structure: { table: STRUCTURE_EDITS, most: 3 },
  functions: { table: FUNCTION_EDITS, most: 2 },
  bombs: { table: BOMBS, most: 1 },
  scale: { table: SCALE_EDITS, most: 1 },
} as const;

/** What a case draws from. Models of extreme size take seconds to make: they are rare. */
function familyOf(percent: number): keyof typeof FAMILIES {
  if (percent < 28) return 'bytes';
  if (percent < 60) return 'structure';
  if (percent < 74) return 'functions';
  return percent < 99 ? 'bombs' : 'scale';
}

/** The family of a case's first edit. */
export const familyName = ({ edits: [edit] }: FuzzCase): string =>
  Object.entries(FAMILIES).find(([, { table }]) => Object.hasOwn(table, edit?.name ?? ''))?.[0] ?? 'none';

/** The case of a seed: a function of the seed and of the lists of models and edits. */
export function caseOf(seed: number, models: readonly string[]): FuzzCase {
  const dice = diceOf(seed);
  const family = familyOf(dice.below(100));
  const { table, most } = FAMILIES[family];
  const names = Object.keys(table);
  const count = 1 + dice.below(most);
  const edits = Array.from({ length: count }, (_, i) => ({ name: dice.pick(names), seed: subSeed(seed, i) }));
  // A bomb is sometimes carried by a model that is damaged besides.
  if (family === 'bombs' && dice.chance(0.2))
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
    const edit = DECODED_EDITS[name];
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
