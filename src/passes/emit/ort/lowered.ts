/**
 * What the ONNX Runtime lowering hands to `emit`: standard ONNX models (domain ai.onnx) and what is needed to
 * run them. All of it is plain data, so that it can be written into a package.
 */

/**
 * Sets of tensors that are alive at the same time inside a model, as types of local dims
 * (`f32[S@sp, 64]`): the peak inside the model is the largest sum of bytes of a set. Inputs and outputs of
 * the model are not counted. Sets that another one dominates are left out.
 */
export type Temporaries = readonly (readonly string[])[];

/** One segment as an ONNX model. Equal segments (same ops, attributes, types and wiring) have equal bytes. */
export interface LoweredSegment {
  readonly bytes: Uint8Array;
  /** `x0, x1, …` in the order of the segment's inputs, then `acc_y<i>` for every accumulated output `y<i>`. */
  readonly inputs: readonly string[];
  /** `y0, y1, …` in the order of the segment's outputs. */
  readonly outputs: readonly string[];
  /**
   * Dims (as printed: `S@sp`, `768@sp/64`, `2@sp(8)`) whose local sizes, in this order, are the elements of
   * the model's int64 input `sizes`. Empty: the model has no such input.
   */
  readonly sizes: readonly string[];
  readonly temporaries: Temporaries;
}

/** A model of the attention lowering. Its sizes are read off its operands, it takes no `sizes`. */
export interface AttentionModel {
  readonly bytes: Uint8Array;
  /** Names the model takes, a subset of those in `AttentionKernels`. */
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Types in the symbols `Tq`, `Tk` (rows of queries and keys), `Hl`, `Hkvl` (local heads), `G`. */
  readonly temporaries: Temporaries;
}

export interface AttentionModels {
  readonly forward: AttentionModel;
  readonly backward: AttentionModel;
}

/**
 * Attention over one tile of queries: rows `q[Tq]` of one document against rows `k[Tk]` of the same document,
 * `offset` being the index of the first query row relative to the first key row. Every query must see at
 * least one key. The models depend on mask, window, scale, cap, head sizes, offsets that have a bias, and on
 * whether heads are grouped only.
 *
 * forward: `q` f32[Tq, Hl, D], `k` f32[Tk, Hkvl, D], `v` f32[Tk, Hkvl, Dv], `offset` int64[1]
 * → `out` f32[Tq, Hl, Dv].
 *
 * backward: `q`, `k`, `v`, `g` f32[Tq, Hl, Dv], `dk_acc` f32[Tk, Hkvl, D], `dv_acc` f32[Tk, Hkvl, Dv],
 * `offset` → `dq` f32[Tq, Hl, D], `dk` = `dk_acc` + …, `dv` = `dv_acc` + ….
 *
 * `lse` f32[Tq, Hl] is given, and its cotangent `glse` taken, where something reads it.
 * `bias` f32[R, Hl], the columns of the local query heads, is there where the node has a relative bias; backward, where
 * its cotangent is read, `dbias_acc` f32[R, Hl] too → `dbias` = `dbias_acc` + ….
 * `slopes` f32[Hl] of the local query heads is there where the node has slopes; `offset` is absent where
 * distances do not matter: bind the names in `inputs`. `dk_acc` and `dk` (`dv_acc` and
 * `dv`, `dbias_acc` and `dbias`) may be the same memory.
 */
export interface AttentionKernels extends AttentionModels {
  /**
   * Where K/V heads are shared, the models above need every local K/V head to serve the same number (`G`) of
   * neighbouring query heads. These take any map: `head_map` int64[Hl] (local K/V head of each local query
   * head) and, backward, `head_onehot` f32[Hkvl, Hl] (1 where the query head reads the K/V head).
   */
  readonly mapped?: AttentionModels;
}
