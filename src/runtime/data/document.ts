/** The label of a token that counts in no loss, as in PyTorch and Hugging Face. */
export const IGNORED = -100;

/**
 * One document. Both arrays may be views of memory shared with other documents: read them only.
 */
export interface Document {
  /** int32[n], n ≥ 1: token ids in [0, vocabulary) */
  readonly ids: Int32Array;
  /**
   * int32[n]: what token t has to predict, or {@link IGNORED}. For next-token losses that is the id at t + 1:
   * shifted per document and before any sharding, because a shift of a shard would lose the token at its border.
   */
  readonly labels: Int32Array;
  /** int32[n]: the segment of each token, for models that embed it (`token_type_ids`); absent: 0. */
  readonly types?: Int32Array;
  /** For messages: `file`, `file:line`, or either followed by a chunk number, after `--long split`. */
  readonly origin: string;
}

/** Documents held in memory, in the order of their files. */
export interface Corpus {
  /** number of documents, ≥ 1 */
  readonly count: number;
  /** sum of their lengths */
  readonly tokens: number;
  /** sha256 (hexadecimal) over ids and labels: a resumed run must see the same data */
  readonly fingerprint: string;
  /** tokens of document `index`, without making its views */
  length(index: number): number;
  document(index: number): Document;
}
