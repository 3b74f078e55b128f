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
  /** float32[outputs]: what the model's outputs for the document have to be, in regression. */
  readonly targets?: Float32Array;
  /** What another model gave each token, in distillation. */
  readonly teacher?: Teacher;
  /** For messages: `file`, `file:line`, or either followed by a chunk number, after `--long split`. */
  readonly origin: string;
}

/** A few logits of another model for each token; K is the same for all documents of a run. */
export interface Teacher {
  /** int32[n · K]: ids, or −1 where a token has fewer than K. */
  readonly ids: Int32Array;
  /** float32[n · K] */
  readonly logits: Float32Array;
}

/** Documents held in memory, in the order of their files. */
export interface Corpus {
  /** number of documents, ≥ 1 */
  readonly count: number;
  /** sum of their lengths */
  readonly tokens: number;
  /** sha256 (hexadecimal) over ids, labels and whatever else is trained on: a resumed run must see the same data */
  readonly fingerprint: string;
  /** tokens of document `index`, without making its views */
  length(index: number): number;
  document(index: number): Document;
}
