import { z } from 'zod';

/**
 * `program.json`: a scheduled program as the runtime reads it. The one meeting point of passes and runtime.
 * Types and dims are in the IR's text form (`f32[S@sp, 64]`, `S@sp`): a size expression that every rank
 * evaluates for its own group, so that one program serves any degree, rank and number of tokens.
 */

const text = z.string().max(4096);
const index = z.number().int().nonnegative().max(1_000_000);

/** A value that lives across instructions. Instructions refer to buffers by index. */
const buffer = z.strictObject({
  /** IR type of the value; local bytes follow from it. */
  type: text,
  /**
   * `input`: bound by the runtime before the first instruction, never written. `output`: memory of its own,
   * that outlives the run. `arena`: placed by the memory plan, alive from instruction `first` (its writer)
   * to `last` (its last reader), both inclusive.
   */
  kind: z.enum(['input', 'output', 'arena']),
  first: index,
  last: index,
});

/** Compute between collectives: one call of an ONNX segment. */
const run = z.strictObject({
  kind: z.literal('run'),
  segment: index,
  inputs: z.array(index).max(100_000),
  outputs: z.array(index).max(100_000),
});

/** `attention` and `attention_vjp`: called per document and per tile of query rows. */
const attention = z.strictObject({
  kind: z.enum(['attention', 'attention_vjp']),
  kernel: index,
  /** −1 for an operand the kernel does not take. */
  operands: z.array(z.number().int().min(-1)).max(16),
  /** −1 for a result nobody reads. */
  results: z.array(z.number().int().min(-1)).max(16),
});

/**
 * A `tiled` op: the body segment runs once for every `tile` rows. Operand i is cut along dim 0 when
 * `sliced[i]`. `concat` results are written at their rows; `sum` results start at zero and the body adds
 * to them (its input `acc_<output>`); `stream` results are handed to the caller tile by tile.
 */
const tiled = z.strictObject({
  kind: z.literal('tiled'),
  segment: index,
  tile: z.number().int().positive(),
  operands: z.array(index).max(100_000),
  sliced: z.array(z.boolean()),
  results: z.array(
    z.strictObject({
      buffer: z.number().int().min(-1),
      how: z.enum(['concat', 'sum', 'stream']),
      /** Type of one tile's result; its rows are the symbol T. */
      type: text,
    }),
  ),
});

/** A collective, in one exchange for all its operands. */
const collective = z.strictObject({
  kind: z.literal('collective'),
  op: z.enum(['all_to_all', 'all_reduce', 'reduce_scatter', 'all_gather']),
  axis: z.enum(['sp', 'world']),
  /** all_to_all: dims, and the query heads that smaller head dims follow. */
  from: index.optional(),
  to: index.optional(),
  heads: index.optional(),
  operands: z.array(index).max(100_000),
  results: z.array(index).max(100_000),
});

/** The rank's share of dim 0 of a whole value: a copy. */
const shard = z.strictObject({
  kind: z.literal('shard'),
  axis: z.enum(['sp', 'world']),
  operand: index,
  result: index,
});

const instruction = z.discriminatedUnion('kind', [run, attention, tiled, collective, shard]);

const segment = z.strictObject({
  /** Path inside the package, `segments/<hash>.onnx`. */
  file: text,
  inputs: z.array(text),
  outputs: z.array(text),
  /** Local dims the model takes as its int64 input `sizes`, in order. */
  sizes: z.array(text),
  /** Outputs to which the model adds its input `acc_<output>`. */
  accumulates: z.array(text),
  /** Sets of tensors (types) alive inside at the same time; the peak is the largest set's bytes. */
  temporaries: z.array(z.array(text)),
});

/** A model that runs one tile of attention. */
const tileModel = z.strictObject({
  file: text,
  /** Names the model takes, a subset of q, k, v, out, lse, g, glse, bias, dk_acc, dv_acc, dbias_acc, head_map, head_onehot, slopes, offset. */
  inputs: z.array(text).max(16),
  /** Names the model gives, a subset of out, lse, dq, dk, dv, dbias. */
  outputs: z.array(text).max(16),
  /**
   * As in a segment, in the symbols Tq, Tk (rows of queries and keys), Hl, Hkvl (local heads) and G (query heads
   * of a K/V head).
   */
  temporaries: z.array(z.array(text)),
});

const kernel = z.strictObject({
  ...tileModel.shape,
  /**
   * For ranks whose local K/V heads do not all serve the same number of query heads; absent where every query head
   * has its own.
   */
  mapped: tileModel.optional(),
  op: z.enum(['attention', 'attention_vjp']),
  mask: z.enum(['full', 'causal', 'window']),
  window: index.optional(),
  /** Keys after the query that a window holds too; absent: none. */
  ahead: index.optional(),
  heads: index,
  kvHeads: index,
  headSize: index,
  valueSize: index,
  /** Of every query head, where scores fall with the distance of the key. */
  slopes: z.array(z.number()).max(65_536).optional(),
});

export const programSchema = z.strictObject({
  version: z.literal(1),
  name: text,
  buffers: z.array(buffer).max(1_000_000),
  inputs: z.array(
    z.strictObject({
      name: text,
      role: z.enum(['data', 'parameter', 'gradient', 'state', 'scalar']),
      buffer: index,
    }),
  ),
  outputs: z.array(z.strictObject({ name: text, buffer: z.number().int().min(-1) })),
  segments: z.array(segment),
  kernels: z.array(kernel),
  instructions: z.array(instruction),
  /** One label an instruction, for errors and traces: what it is and the ONNX nodes it came from. */
  labels: z.array(text),
});

export type Program = z.infer<typeof programSchema>;
export type Instruction = z.infer<typeof instruction>;
export type BufferInfo = z.infer<typeof buffer>;
export type SegmentInfo = z.infer<typeof segment>;
export type KernelInfo = z.infer<typeof kernel>;
export type TileModel = z.infer<typeof tileModel>;
