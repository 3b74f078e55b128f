import { invariant, UserError } from '../../errors.js';
import { shardRange } from '../../ir/placement.js';
import { trainProgramsOf, type Manifest } from '../../package/manifest.js';
import type { Document } from '../data/document.js';
import { packDocuments } from '../data/pack.js';

/** One sequence-parallel group of a micro-batch and the documents it holds, packed into one row in their order. */
export interface Lane {
  /** World ranks, ascending and without gaps. */
  readonly ranks: readonly number[];
  /** May be empty: the ranks run all the same. */
  readonly documents: readonly Document[];
  /** The train program that the group runs; default: the package's first, `train`. */
  readonly program?: string;
}

/** A full partition of the world. Lanes may differ in degree and in tokens. */
export interface MicroBatchPlan {
  readonly lanes: readonly Lane[];
}

/** What one rank gets of one micro-batch. Data inputs by name; sharded ones are this rank's share. */
export interface RankShare {
  /** World ranks of this rank's group. */
  readonly ranks: readonly number[];
  /** Tokens of the group's row. */
  readonly tokens: number;
  readonly program: string;
  readonly data: Readonly<Record<string, DataArray>>;
}

export type DataArray = Int32Array<ArrayBuffer> | Float32Array<ArrayBuffer>;

/** Every rank of a group has all of it. */
const WHOLE = 'documents';

/**
 * Groups of `sp` neighbouring ranks.
 * @throws UserError when they do not fill the world
 */
export function groupsOfDegree(world: number, sp: number): readonly (readonly number[])[] {
  if (!Number.isInteger(sp) || sp < 1 || sp > world || world % sp !== 0)
    throw new UserError(
      `${world} ranks cannot form groups of ${sp}`,
      `choose a degree that divides ${world}: ${divisorsOf(world).join(', ')}`,
    );
  return Array.from({ length: world / sp }, (_, g) => Array.from({ length: sp }, (_, i) => g * sp + i));
}

const divisorsOf = (n: number): number[] =>
  Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

/**
 * Holds a plan to what the model allows.
 * @throws UserError for a degree above the head count, a document longer than the model is right for, or a
 *   token or label outside the vocabulary
 */
export function checkPlan(plan: MicroBatchPlan, world: number, manifest: Manifest): void {
  const members = plan.lanes.flatMap((lane) => [...lane.ranks]);
  invariant(
    members.length === world && members.every((rank, i) => rank === i),
    `lanes [${plan.lanes.map((lane) => lane.ranks.join(' ')).join(', ')}] do not partition ${world} ranks`,
  );
  const programs = trainProgramsOf(manifest);
  for (const { ranks, documents, program = 'train' } of plan.lanes) {
    invariant(programs.includes(program), `${manifest.name} has no train program ${program}`);
    checkDegree(ranks.length, manifest);
    for (const document of documents) checkDocument(document, manifest);
  }
}

/** @throws UserError when a group of this many ranks would leave one of them without a query head */
export function checkDegree(degree: number, { maxDegree, name }: Manifest): void {
  if (degree > maxDegree)
    throw new UserError(
      `groups of ${degree} ranks are too large: ${name} has ${maxDegree} attention heads, each rank needs one`,
      `use --sp ${maxDegree} or less`,
    );
}

function checkDocument({ ids, labels, types, origin }: Document, manifest: Manifest): void {
  const { maxDocument, vocabulary, tokenTypes, padding, loss } = manifest;
  if (maxDocument !== undefined && ids.length > maxDocument.tokens)
    throw new UserError(
      `${origin}: the document has ${ids.length} tokens, the model allows ${maxDocument.tokens} (${maxDocument.reason})`,
      'cut it with --long split or --long truncate',
    );
  const stray = ids.findIndex((id) => id < 0 || id >= vocabulary);
  if (stray >= 0)
    throw new UserError(
      `${origin}: token ${stray} has id ${ids[stray]}, outside the vocabulary of ${vocabulary}`,
      'use the tokenizer the model was trained with',
    );
  const padded = padding === undefined ? -1 : ids.findIndex((id) => padding.includes(id));
  if (padded >= 0)
    throw new UserError(
      `${origin}: token ${padded} has id ${ids[padded]}, which the model takes for padding: it would not count its position`,
      'leave padding out of the data: documents are packed, not padded',
    );
  const wrong = labels.findIndex((label) => label >= loss.classes || (label < 0 && label !== -100));
  if (wrong >= 0)
    throw new UserError(
      `${origin}: the label of token ${wrong} is ${labels[wrong]}, outside the ${loss.kind.endsWith('classification') ? `${loss.classes} classes` : `vocabulary of ${loss.classes}`}`,
      'labels are −100 where nothing is predicted',
    );
  const type = types?.find((t) => t < 0 || t >= (tokenTypes ?? Infinity));
  if (type !== undefined)
    throw new UserError(
      `${origin}: token_type_ids has ${type}, the model has ${tokenTypes ?? 'no negative'} token types`,
      'give the types the model was trained with, or leave them out: they are 0 then',
    );
}

/** Packs each lane's documents and cuts them for its ranks: `[rank]`. */
export function sharesOf(plan: MicroBatchPlan): readonly RankShare[] {
  return plan.lanes.flatMap(({ ranks, documents, program = 'train' }) => {
    const row = packDocuments(documents);
    const tokens = row.tokens.length;
    return ranks.map((_, index): RankShare => {
      const { start, end } = shardRange(tokens, ranks.length, index);
      return {
        ranks,
        tokens,
        program,
        data: Object.fromEntries(
          Object.entries(row).map(([name, whole]: readonly [string, DataArray]) => {
            const width = tokens === 0 ? 0 : whole.length / tokens;
            return [name, name === WHOLE ? whole.slice() : whole.slice(start * width, end * width)];
          }),
        ),
      };
    });
  });
}

/** Buffers of a share, to be moved to the rank instead of copied. */
export const buffersOf = ({ data }: RankShare): readonly ArrayBuffer[] =>
  Object.values(data).map((array) => array.buffer);
