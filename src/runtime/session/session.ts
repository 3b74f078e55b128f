import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { UserError } from '../../errors.js';
import { PIECE_BYTES } from '../../files/pieces.js';
import type { Package } from '../../package/read.js';
import type { RankFailure } from '../ranks/pool.js';
import { RankPool } from '../ranks/pool.js';
import { instructionLabel } from './labels.js';
import { gradientName } from './memory.js';
import { madeBy, mergeCounters, slowestOf, type ExchangeMetrics } from './metrics.js';
import { buffersOf, checkPlan, sharesOf, type MicroBatchPlan, type RankShare } from './plan.js';
import type {
  Fault,
  LogitStream,
  LogitTile,
  Made,
  MicroBatchTime,
  RankData,
  RankMessage,
  RankReply,
} from './protocol.js';
import { tensorPlaces, type TensorPlaces } from './tensors.js';

export interface SessionOptions {
  readonly ranks: number;
  /** `zero`: parameters start at zero, because `loadTensors` will follow. */
  readonly weights?: 'package' | 'zero';
  /** For tests: makes a rank fail. */
  readonly fault?: Fault;
}

export interface RunMetrics extends ExchangeMetrics {
  /** Sum of token losses over all lanes and micro-batches. */
  readonly lossSum: number;
  /** Tokens that counted. */
  readonly tokens: number;
  /** lossSum / tokens; 0 where nothing counted. */
  readonly loss: number;
  /** Tokens processed, counted or not. */
  readonly rowTokens: number;
  /** Largest arena of any rank so far. */
  readonly arenaBytes: number;
  readonly ms: number;
  /** Each of the rank that took longest for it. */
  readonly microBatches: readonly MicroBatchTime[];
  /** Set up by all ranks since they started. */
  readonly made: Made;
}

export interface EvalMetrics extends RunMetrics {
  /** Counted tokens whose label had the largest logit; undefined where labels are no classes. */
  readonly correct: number | undefined;
}

export interface StepMetrics extends RunMetrics {
  /** Of the gradient of the mean loss, before clipping. */
  readonly gradNorm: number;
}

export interface StepOptions {
  readonly lr: number;
  /** Updates done before this one. */
  readonly step: number;
}

export interface GradientMetrics extends StepMetrics {
  /** Gradients of the mean loss, whole, by initialiser. Tied initialisers have one each. */
  readonly gradients: Tensors;
}

/** Rows `row …` of the packed row of a lane: `data` is [rows, classes]. */
export interface LogitRows {
  readonly microBatch: number;
  readonly lane: number;
  readonly row: number;
  readonly rows: number;
  readonly data: Float32Array;
}

/** Whole tensors by name. */
export type Tensors = ReadonlyMap<string, Float32Array>;

/** Fills `target` with the row-major elements of a tensor from `start` on. */
export type ReadTensor = (name: string, start: number, target: Float32Array) => void;

/** Local ranks with a model in training. One call at a time; the first failure of a rank ends the session. */
export class TrainingSession {
  readonly #pool: RankPool<RankMessage, RankReply>;
  readonly package: Package;
  readonly #tensors: TensorPlaces;

  private constructor(pkg: Package, pool: RankPool<RankMessage, RankReply>) {
    this.package = pkg;
    this.#pool = pool;
    this.#tensors = tensorPlaces(pkg, pool.world);
  }

  /** @throws UserError when the package has no weights and they were asked for; RankFailure */
  static async open(pkg: Package, options: SessionOptions): Promise<TrainingSession> {
    const { ranks, weights = 'package', fault } = options;
    const absent = pkg.manifest.parameters.find(({ weight }) => weight.kind === 'absent');
    if (weights === 'package' && absent !== undefined)
      throw new UserError(
        `${pkg.directory} was compiled without weights: ${absent.name} has no initial value`,
        'compile the model again without --no-weights, or resume from a checkpoint',
      );
    const data: RankData = { directory: pkg.directory, hash: pkg.hash, weights, fault };
    const pool = await RankPool.start<RankMessage, RankReply>({
      world: ranks,
      // `.js`, or `.ts` where tests run on sources.
      entry: new URL(`../ranks/main${import.meta.url.slice(-3)}`, import.meta.url),
      data,
      labelOf: (instruction) => instructionLabel(pkg, instruction),
    });
    try {
      await pool.broadcast({ type: 'load' });
      return new TrainingSession(pkg, pool);
    } catch (error) {
      await pool.close();
      throw error;
    }
  }

  get world(): number {
    return this.#pool.world;
  }

  /** What ended the session, if something did. */
  get failure(): RankFailure | undefined {
    return this.#pool.failure;
  }

  /** One update from the gradients of all micro-batches. */
  async step(plan: readonly MicroBatchPlan[], { lr, step }: StepOptions): Promise<StepMetrics> {
    const { replies, metrics } = await this.#run(plan, (microBatches) => ({
      type: 'step',
      microBatches,
      lr,
      step,
    }));
    return { ...metrics, gradNorm: replies[0]!.gradNorm };
  }

  /**
   * Gradients of the mean loss without an update. They stay on the ranks until the next call that runs a program:
   * read them as `pieces('grad/<initialiser>')`.
   */
  async differentiate(plan: readonly MicroBatchPlan[]): Promise<StepMetrics> {
    const { replies, metrics } = await this.#run(plan, (microBatches) => ({
      type: 'gradients',
      microBatches,
    }));
    return { ...metrics, gradNorm: replies[0]!.gradNorm };
  }

  /** {@link differentiate}, with all gradients together: for models that fit into memory once more. */
  async gradients(plan: readonly MicroBatchPlan[]): Promise<GradientMetrics> {
    const metrics = await this.differentiate(plan);
    const whole = await this.#whole(this.trained.map(gradientName));
    return {
      ...metrics,
      gradients: new Map(this.trained.map((name) => [name, whole.get(gradientName(name))!])),
    };
  }

  /** Initialisers that have a gradient. */
  get trained(): readonly string[] {
    return this.#tensors.trained();
  }

  /** The loss, and the logits as they are made, tile by tile. Tiles of different ranks come in any order. */
  async evaluate(
    plan: readonly MicroBatchPlan[],
    onLogits?: (tile: LogitRows) => void,
  ): Promise<EvalMetrics> {
    const streams = onLogits && this.#streams(plan, onLogits);
    try {
      const { replies, metrics } = await this.#run(
        plan,
        (microBatches, rank) => ({
          type: 'evaluate',
          microBatches,
          stream: streams?.[rank]!.stream,
        }),
        (rank) => (streams === undefined ? [] : [streams[rank]!.stream.port]),
      );
      await Promise.all(replies.map(({ tiles }, rank) => streams?.[rank]!.received(tiles)));
      const counts = this.package.program('eval').outputs.some(({ name }) => name === 'correct');
      return { ...metrics, correct: counts ? replies[0]!.correct : undefined };
    } finally {
      streams?.forEach(({ close }) => close());
    }
  }

  /** Names of the moments of AdamW: `m/<initialiser>` and `v/<initialiser>`. */
  get moments(): readonly string[] {
    return this.#tensors.moments();
  }

  /**
   * A parameter, a moment, or a gradient (`grad/<initialiser>`) after {@link differentiate}, whole whatever its
   * sharding, in consecutive pieces.
   * @param pieceBytes the size of one; two are held at a time
   */
  async *pieces(name: string, pieceBytes: number = PIECE_BYTES): AsyncGenerator<Float32Array> {
    let ahead: Promise<RankReply> | undefined;
    for (const { ranks, start, end, offset } of this.#tensors.parts(name, pieceBytes)) {
      const message = { type: 'read', name, start: start - offset, end: end - offset } as const;
      const asked = this.#pool.request(ranks[0]!, message);
      // Who stops reading does not hear of a failure after that.
      asked.catch(() => undefined);
      if (ahead !== undefined) yield (await ahead).tensors.get(name)!;
      ahead = asked;
    }
    if (ahead !== undefined) yield (await ahead).tensors.get(name)!;
  }

  /** All parameters by initialiser, whole and together: for models that fit into memory once more. */
  parameters(): Promise<Tensors> {
    return this.#whole(this.package.manifest.parameters.map(({ name }) => name));
  }

  /** All moments, as {@link parameters}. */
  state(): Promise<Tensors> {
    return this.#whole(this.moments);
  }

  /**
   * Sets parameters and moments, piece by piece.
   * @param parameter reads an initialiser
   * @param moment reads `m/…` and `v/…`; without it they become zero
   */
  async loadTensors(
    parameter: ReadTensor,
    moment?: ReadTensor,
    { pieceBytes = PIECE_BYTES }: { readonly pieceBytes?: number } = {},
  ): Promise<void> {
    for (const { name } of this.package.manifest.parameters) await this.#write(name, parameter, pieceBytes);
    if (moment === undefined) return void (await this.#pool.broadcast({ type: 'reset' }));
    for (const name of this.moments) await this.#write(name, moment, pieceBytes);
  }

  /** Tells ranks that the run should finish early. */
  interrupt(): void {
    this.#pool.interrupt();
  }

  /** Ends one rank from outside, as a crash would. For fault tests. */
  terminate(rank: number): Promise<void> {
    return this.#pool.terminate(rank);
  }

  /** What a rank is executing now. */
  instruction(rank: number): string | undefined {
    return this.#pool.instruction(rank);
  }

  close(): Promise<void> {
    return this.#pool.close();
  }

  async #run(
    plan: readonly MicroBatchPlan[],
    message: (microBatches: readonly RankShare[], rank: number) => RankMessage,
    transfer: (rank: number) => readonly MessagePort[] = () => [],
  ): Promise<{ replies: readonly RankReply[]; metrics: RunMetrics }> {
    for (const microBatch of plan) checkPlan(microBatch, this.world, this.package.manifest);
    const start = performance.now();
    const shares = plan.map(sharesOf);
    const replies = await Promise.all(
      Array.from({ length: this.world }, (_, rank) => {
        const own = shares.map((byRank) => byRank[rank]!);
        return this.#pool.request(rank, message(own, rank), [...own.flatMap(buffersOf), ...transfer(rank)]);
      }),
    );
    const { lossSum, count } = replies[0]!;
    const metrics: RunMetrics = {
      lossSum,
      tokens: count,
      loss: count === 0 ? 0 : lossSum / count,
      rowTokens: plan.reduce((sum, { lanes }) => sum + tokensOf(lanes), 0),
      ...mergeCounters(replies.map((reply) => reply.counters)),
      arenaBytes: Math.max(...replies.map((reply) => reply.arenaBytes)),
      ms: performance.now() - start,
      microBatches: plan.map((_, m) => slowestOf(replies.map((reply) => reply.microBatches[m]!))),
      made: madeBy(replies),
    };
    return { replies, metrics };
  }

  async #whole(names: readonly string[]): Promise<Tensors> {
    const found = new Map<string, Float32Array>();
    for (const name of names) {
      const whole = new Float32Array(this.#tensors.elements(name));
      let at = 0;
      for await (const piece of this.pieces(name)) {
        whole.set(piece, at);
        at += piece.length;
      }
      found.set(name, whole);
    }
    return found;
  }

  /** One piece is read while the one before is on its way. */
  async #write(name: string, read: ReadTensor, pieceBytes: number): Promise<void> {
    let before: Promise<unknown> = Promise.resolve();
    for (const { ranks, start, end, offset } of this.#tensors.parts(name, pieceBytes)) {
      const data = new Float32Array(end - start);
      read(name, start, data);
      await before;
      const message = { type: 'write', name, start: start - offset, data } as const;
      before = Promise.all(ranks.map((rank) => this.#pool.request(rank, message)));
      before.catch(() => undefined);
    }
    await before;
  }

  /** A stream from every rank to `onLogits`. */
  #streams(plan: readonly MicroBatchPlan[], onLogits: (tile: LogitRows) => void): RankStream[] {
    const { classes } = this.package.manifest.loss;
    return Array.from({ length: this.world }, (_, rank) =>
      openStream(({ microBatch, row, data }) => {
        const lane = plan[microBatch]!.lanes.findIndex(({ ranks }) => ranks.includes(rank));
        onLogits({ microBatch, lane, row, rows: data.length / classes, data });
      }),
    );
  }
}

const tokensOf = (lanes: MicroBatchPlan['lanes']): number =>
  lanes.reduce((sum, { documents }) => sum + documents.reduce((n, { ids }) => n + ids.length, 0), 0);

interface RankStream {
  /** The rank's end. */
  readonly stream: LogitStream;
  /** Waits for the last of so many tiles. */
  received(tiles: number): Promise<void>;
  close(): void;
}

function openStream(onTile: (tile: LogitTile) => void): RankStream {
  const { port1, port2 } = new MessageChannel();
  const taken = new Int32Array(new SharedArrayBuffer(4));
  let failure: { readonly error: unknown } | undefined;
  let wake = (): void => {};
  port1.on('message', (tile: LogitTile) => {
    try {
      if (failure === undefined) onTile(tile);
    } catch (error) {
      failure = { error };
    }
    Atomics.add(taken, 0, 1);
    Atomics.notify(taken, 0);
    wake();
  });
  return {
    stream: { port: port2, taken: taken.buffer as SharedArrayBuffer },
    received: async (tiles) => {
      while (Atomics.load(taken, 0) < tiles) await new Promise<void>((resolve) => (wake = resolve));
      if (failure !== undefined) throw failure.error;
    },
    close: () => port1.close(),
  };
}
