import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileModel } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { openPackage, type Package } from '../../src/package/read.js';
import type { Document } from '../../src/runtime/data/document.js';
import { loadNative } from '../../src/runtime/executor/onnx-native.js';
import { loadNode } from '../../src/runtime/executor/onnx-node.js';
import { makeTensor, type OrtTensor } from '../../src/runtime/executor/onnx.js';
import { encodeModel } from '../../src/passes/emit/ort/proto.js';
import { TrainingSession } from '../../src/runtime/session/session.js';
import { median, printTable } from './table.js';

const root = fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]bench[\\/].*$/, '');

/** Microseconds of y = x + z of `length` elements: both ways, and a copy of as many. */
function call(length: number, times: number): readonly number[] {
  const native = loadNative();
  if (typeof native !== 'function') throw new Error(native.reason);
  const value = (name: string) => ({ name, type: 'f32', dims: ['n'] }) as const;
  const model = encodeModel({
    nodes: [{ op: 'Add', inputs: ['x', 'z'], outputs: ['y'], attrs: {} }],
    inputs: [value('x'), value('z')],
    outputs: [value('y')],
    inner: [],
    initializers: [],
  });
  const tensor = (): OrtTensor => makeTensor('f32', new Float32Array(length).fill(1), [length]);
  const [x, z, y] = [tensor(), tensor(), tensor()];
  const bound = [native, loadNode()].map((backend) => backend(model).bind({ x, z }, { y }));
  const runs = [
    ...bound.map((one) => () => one.run()),
    () => (y.data as Float32Array).set(x.data as Float32Array),
  ];
  return runs.map((run) => {
    for (let i = 0; i < times / 4; i++) run();
    const start = performance.now();
    for (let i = 0; i < times; i++) run();
    return ((performance.now() - start) * 1000) / times;
  });
}

/**
 * CPU milliseconds of a step (all ranks, user and system): the addon, the binding, and the median ratio of steps
 * that follow each other, which load on the machine changes little.
 */
async function step(pkg: Package, ranks: number, tokens: number, rounds: number): Promise<readonly number[]> {
  const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % pkg.manifest.vocabulary);
  const document: Document = {
    ids,
    labels: Int32Array.from(ids, (_, i) => ids[i + 1] ?? -100),
    origin: 'bench',
  };
  const plan = [{ lanes: [{ ranks: Array.from({ length: ranks }, (_, i) => i), documents: [document] }] }];
  const sessions: TrainingSession[] = [];
  try {
    for (const native of ['1', '0']) {
      // Ranks take the environment that there is when they start.
      process.env['ITHACA_NATIVE'] = native;
      sessions.push(await TrainingSession.open(pkg, { ranks }));
    }
    const times: number[][] = [];
    for (let round = 0; round < rounds + 3; round++) {
      const pair = [0, 0];
      for (const which of round % 2 === 0 ? [0, 1] : [1, 0]) {
        const before = process.cpuUsage();
        await sessions[which]!.step(plan, { lr: 1e-4, step: round });
        const { user, system } = process.cpuUsage(before);
        pair[which] = (user + system) / 1000;
      }
      if (round >= 3) times.push(pair);
    }
    const of = (pick: (pair: readonly number[]) => number): number => median(times.map(pick));
    return [of((pair) => pair[0]!), of((pair) => pair[1]!), of((pair) => pair[0]! / pair[1]!)];
  } finally {
    delete process.env['ITHACA_NATIVE'];
    for (const session of sessions) await session.close();
  }
}

/** The addon against onnxruntime-node's binding. ITHACA_BENCH_PACKAGE names another package than test/models/llama. */
export async function benchNative(): Promise<void> {
  const native = loadNative();
  if (typeof native !== 'function') return console.log(`  ${native.reason}. Nothing was measured.`);
  printTable(
    ['elements of y = x + z', 'addon µs', 'binding µs', 'copy µs'],
    [
      [16, ...call(16, 20_000)],
      [2 ** 24, ...call(2 ** 24, 8)],
    ],
  );
  const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-bench-'));
  try {
    const given = process.env['ITHACA_BENCH_PACKAGE'];
    const out = given ?? path.join(scratch, 'llama.ithaca');
    if (given === undefined)
      await compileModel(path.join(root, 'test/models/llama/model.onnx'), out, {
        config: parseConfig({}, 'bench'),
        weights: true,
        replace: true,
      });
    const pkg = await openPackage(out);
    const rows: (string | number)[][] = [];
    for (const ranks of [1, 2])
      for (const [tokens, rounds] of [
        [128, 40],
        [2048, 8],
      ] as const)
        rows.push([tokens, ranks, ...(await step(pkg, ranks, tokens, rounds))]);
    printTable(['tokens', 'ranks', 'addon CPU ms', 'binding CPU ms', 'ratio'], rows);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
