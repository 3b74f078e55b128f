/** Worker entry of a training rank: holds its memory, runs its part of every micro-batch. */
import { invariant, unreachable } from '../../errors.js';
import { openPackage, type Package } from '../../package/read.js';
import { shardRange } from '../../ir/placement.js';
import { collectiveKinds, sumFloat64, type Group } from '../collectives/engine.js';
import { groupPool, type GroupPool } from '../collectives/groups.js';
import { OrtExecutor } from '../executor/executor.js';
import type { ExecutorHost, OnTile } from '../executor/host.js';
import { instructionBases } from '../session/labels.js';
import { allocateMemory, gradientName, worldBinding, type RankMemory } from '../session/memory.js';
import type { RankShare } from '../session/plan.js';
import {
  STREAM_WINDOW,
  type Fault,
  type LogitStream,
  type LogitTile,
  type MicroBatchTime,
  type RankCounters,
  type RankData,
  type RankMessage,
  type RankReply,
} from '../session/protocol.js';
import { threadCpuMs } from './cpu-time.js';
import { serveRank, transferring, type RankContext } from './worker.js';

/** A rank once its package is open. */
interface Rank {
  readonly context: RankContext;
  readonly pkg: Package;
  readonly memory: RankMemory;
  readonly executor: OrtExecutor;
  readonly bases: ReadonlyMap<string, number>;
  readonly groups: GroupPool;
  readonly world: Group;
}

interface Sums {
  readonly lossSum: number;
  readonly count: number;
  readonly correct: number;
}

interface MicroBatchSums extends Sums {
  readonly microBatches: readonly MicroBatchTime[];
}

let opened: Promise<Rank> | undefined;

serveRank<RankMessage, RankReply>(async (message, context) => {
  const before = snapshot(context);
  const rank = await (opened ??= open(context));
  const done = handle(rank, message);
  const tensors = done.tensors ?? new Map<string, Float32Array<ArrayBuffer>>();
  const reply: RankReply = {
    lossSum: 0,
    count: 0,
    correct: 0,
    gradNorm: 0,
    tiles: 0,
    microBatches: [],
    ...done,
    tensors,
    counters: since(before, snapshot(context)),
    arenaBytes: rank.executor.arenaBytes,
    made: { groups: rank.groups.made, ...rank.executor.made },
  };
  return transferring(
    reply,
    [...tensors.values()].map((tensor) => tensor.buffer),
  );
});

async function open(context: RankContext): Promise<Rank> {
  const { directory, hash, weights, fault } = context.data as RankData;
  const pkg = await openPackage(directory, { checked: hash });
  const memory = allocateMemory(pkg, context.rank, context.world);
  if (weights === 'package')
    for (const [name, target] of memory.parameters) pkg.readParameterInto(name, target);
  const executor = new OrtExecutor(withFault(context, fault), (file) => pkg.bytes(file));
  const groups = groupPool();
  const world = groups.get(Array.from({ length: context.world }, (_, r) => r));
  return { context, pkg, memory, executor, bases: instructionBases(pkg), groups, world };
}

function withFault(context: RankContext, fault: Fault | undefined): ExecutorHost {
  if (fault?.rank !== context.rank) return context;
  return {
    ...context,
    setInstruction: (instruction) => {
      context.setInstruction(instruction);
      if (instruction !== fault.instruction) return;
      if (fault.how === 'exit') process.exit(3);
      throw new Error('a failure made on purpose');
    },
  };
}

type Done = Partial<Omit<RankReply, 'tensors'>> & {
  readonly tensors?: ReadonlyMap<string, Float32Array<ArrayBuffer>>;
};

function handle(rank: Rank, message: RankMessage): Done {
  switch (message.type) {
    case 'load':
      return {};
    case 'step': {
      const sums = accumulate(rank, message.microBatches);
      return { ...settle(rank, sums), gradNorm: update(rank, sums.count, message.lr, message.step) };
    }
    case 'gradients':
      return gradients(rank, accumulate(rank, message.microBatches));
    case 'evaluate':
      return evaluate(rank, message.microBatches, message.stream);
    case 'read': {
      const part = memoryOf(rank, message.name, message.start, message.end);
      return { tensors: new Map([[message.name, part.slice()]]) };
    }
    case 'write': {
      const { name, start, data } = message;
      memoryOf(rank, name, start, start + data.length).set(data);
      return {};
    }
    case 'reset':
      for (const moment of rank.memory.moments.values()) moment.fill(0);
      return {};
    default:
      return unreachable(message);
  }
}

function memoryOf({ memory }: Rank, name: string, start: number, end: number): Float32Array {
  const found = memory.moments.get(name) ?? memory.gradients.get(name) ?? memory.parameters.get(name);
  invariant(found !== undefined, `there is no ${name} on this rank`);
  invariant(start <= end && end <= found.length, `${name} has ${found.length} elements here, not ${end}`);
  return found.subarray(start, end);
}

/** Runs micro-batches one after the other: what this rank's tokens add to the loss, and how long each took. */
function runAll(
  microBatches: readonly RankShare[],
  run: (share: RankShare, microBatch: number) => Sums,
): MicroBatchSums {
  let [lossSum, count, correct] = [0, 0, 0];
  const times = microBatches.map((share, i): MicroBatchTime => {
    const [from, cpuFrom] = [performance.now(), threadCpuMs()];
    const sums = run(share, i);
    lossSum += sums.lossSum;
    count += sums.count;
    correct += sums.correct;
    const cpuMs = cpuFrom === undefined ? undefined : threadCpuMs()! - cpuFrom;
    return { ms: performance.now() - from, cpuMs };
  });
  return { lossSum, count, correct, microBatches: times };
}

/** Runs a program on one share and returns what this rank's tokens add to the loss. */
function runShare(
  { context, pkg, memory, executor, bases, groups }: Rank,
  name: string,
  { ranks, tokens, data }: RankShare,
  add: boolean,
  onTile?: OnTile,
): Sums {
  const program = pkg.program(name);
  const binding = {
    sp: { index: ranks.indexOf(context.rank), degree: ranks.length },
    world: { index: context.rank, degree: context.world },
    symbols: new Map([['S', tokens]]),
  };
  const given = name === 'eval' ? memory.evalBinding() : memory.trainBinding(add);
  const bound = executor.bind(program, binding, given, add ? 'add' : 'set');
  for (const [input, target] of bound.data) {
    // A lane without documents has no width: nothing is right for no tokens.
    const values = data[input] ?? [];
    invariant(values.length === target.length, `data input ${input} does not fit this rank's share`);
    target.set(values);
  }
  executor.run(bound, { group: groups.get(ranks), firstInstruction: bases.get(name), onTile });
  return {
    lossSum: memory.scalar('run/loss_sum')[0]!,
    count: memory.scalar('run/count')[0]!,
    correct: name === 'eval' ? memory.scalar('run/correct')[0]! : 0,
  };
}

/** Leaves the sum of the gradients of all micro-batches in the accumulators; returns this rank's own sums. */
function accumulate(rank: Rank, microBatches: readonly RankShare[]): MicroBatchSums {
  if (microBatches.length === 0) for (const gradient of rank.memory.gradients.values()) gradient.fill(0);
  return runAll(microBatches, (share, i) => runShare(rank, share.program, share, i > 0));
}

/** Sums over all ranks. */
function settle({ context, world }: Rank, own: MicroBatchSums): MicroBatchSums {
  const { lossSum, count, correct, microBatches } = own;
  const sums = sumFloat64(context.collectives, world, Float64Array.of(lossSum, count, correct));
  return { lossSum: sums[0]!, count: sums[1]!, correct: sums[2]!, microBatches };
}

/** One AdamW update (arXiv 1711.05101). @returns the global norm of the gradients, before clipping */
function update(rank: Rank, count: number, lr: number, step: number): number {
  const { pkg, memory, executor, bases, context, world } = rank;
  const { beta1, beta2 } = pkg.manifest.optimizer;
  // float32 has nothing left of 1 − βᵗ where β is close to 1.
  memory.scalar('update/correction1')[0] = 1 - beta1 ** (step + 1);
  memory.scalar('update/correction2')[0] = 1 - beta2 ** (step + 1);
  memory.scalar('update/lr')[0] = lr;
  memory.scalar('update/count')[0] = count;
  const binding = worldBinding(context.rank, context.world);
  const bound = executor.bind(pkg.program('update'), binding, memory.updateBinding());
  executor.run(bound, { group: world, firstInstruction: bases.get('update') });
  return memory.scalar('update/grad_norm')[0]!;
}

/** Leaves the gradients of the mean loss in the accumulators of rank 0. */
function gradients(rank: Rank, own: MicroBatchSums): Done {
  const { memory, context, world, pkg } = rank;
  const sums = settle(rank, own);
  const all = new Set(memory.gradients.values());
  context.collectives.allReduce(world, [...all]);
  if (context.rank !== 0) return sums;
  const perToken = 1 / Math.max(1, sums.count);
  for (const gradient of all) for (let i = 0; i < gradient.length; i++) gradient[i]! *= perToken;
  return { ...sums, gradNorm: globalNorm(pkg, memory.gradients) };
}

/** ‖g‖ over logical parameters: gradients of tied initialisers are those of one weight, and add up. */
function globalNorm({ manifest }: Package, gradients: ReadonlyMap<string, Float32Array>): number {
  const { parameters } = manifest;
  const gradientOf = (name: string): Float32Array | undefined => gradients.get(gradientName(name));
  let squares = 0;
  for (const { name, shape, tiedTo } of parameters) {
    const own = gradientOf(name);
    if (own === undefined || (tiedTo !== undefined && gradientOf(tiedTo.name) !== undefined)) continue;
    const [rows = 1, columns = 1] = shape;
    const copies = parameters.flatMap((p) => {
      const gradient = p.tiedTo?.name === name ? gradientOf(p.name) : undefined;
      return gradient === undefined ? [] : [{ gradient, transposed: p.tiedTo!.transposed }];
    });
    for (let i = 0; i < own.length; i++) {
      let g = own[i]!;
      for (const { gradient, transposed } of copies)
        g += gradient[transposed ? (i % columns) * rows + Math.floor(i / columns) : i]!;
      squares += g * g;
    }
  }
  return Math.sqrt(squares);
}

function evaluate(rank: Rank, microBatches: readonly RankShare[], stream: LogitStream | undefined): Done {
  let tiles = 0;
  const own = runAll(microBatches, (share, microBatch) => {
    const first = firstRow(rank, share);
    const send = (_: string, row: number, data: Float32Array): void =>
      sendTile(rank, stream!, tiles++, { microBatch, row: first + row, data });
    return runShare(rank, 'eval', share, false, stream && send);
  });
  stream?.port.close();
  return { ...settle(rank, own), tiles };
}

const firstRow = ({ context }: Rank, { ranks, tokens }: RankShare): number =>
  shardRange(tokens, ranks.length, ranks.indexOf(context.rank)).start;

/** Posts a tile, once the main thread has taken enough of those before it. */
function sendTile({ context }: Rank, { port, taken }: LogitStream, number: number, tile: LogitTile): void {
  const counter = new Int32Array(taken);
  for (let seen = Atomics.load(counter, 0); number - seen >= STREAM_WINDOW; seen = Atomics.load(counter, 0)) {
    context.checkAbort();
    Atomics.wait(counter, 0, seen, 100);
  }
  port.postMessage(tile, [tile.data.buffer as ArrayBuffer]);
}

function snapshot({ collectives: { counters } }: RankContext): RankCounters {
  return structuredClone({
    exchanges: counters.exchanges,
    bytesSent: counters.bytesSent,
    kinds: counters.kinds,
    waitMs: counters.waitMs,
  });
}

function since(before: RankCounters, after: RankCounters): RankCounters {
  const kinds = Object.fromEntries(
    collectiveKinds.map((kind) => [
      kind,
      {
        exchanges: after.kinds[kind].exchanges - before.kinds[kind].exchanges,
        bytesSent: after.kinds[kind].bytesSent - before.kinds[kind].bytesSent,
      },
    ]),
  );
  return {
    exchanges: after.exchanges - before.exchanges,
    bytesSent: after.bytesSent - before.bytesSent,
    kinds: kinds as RankCounters['kinds'],
    waitMs: after.waitMs - before.waitMs,
  };
}
