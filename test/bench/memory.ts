import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileModel } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { openPackage, type Package } from '../../src/package/read.js';
import type { Document } from '../../src/runtime/data/document.js';
import { TrainingSession } from '../../src/runtime/session/session.js';
import { bindingOf, programPeak } from '../../src/train/peak.js';
import { mebibytes, printTable } from './table.js';

const self = fileURLToPath(import.meta.url);
const root = self.replace(/[\\/](dist[\\/])?test[\\/]bench[\\/].*$/, '');

const peakOfProcess = (): number =>
  Number(/VmHWM:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024;

const documentOf = (pkg: Package, tokens: number): Document => {
  const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % pkg.manifest.vocabulary);
  return { ids, labels: Int32Array.from(ids, (_, i) => ids[i + 1] ?? -100), origin: 'bench' };
};

/** Child process: the peak resident memory of one step of `tokens` tokens, above that of a step of 16. */
async function measure(folder: string, tokens: number): Promise<void> {
  const pkg = await openPackage(folder);
  const session = await TrainingSession.open(pkg, { ranks: 1 });
  const step = async (n: number): Promise<number> =>
    (
      await session.step([{ lanes: [{ ranks: [0], documents: [documentOf(pkg, n)] }] }], {
        lr: 1e-4,
        step: 0,
      })
    ).arenaBytes;
  await step(16);
  const baseline = peakOfProcess();
  const arena = await step(tokens);
  console.log(JSON.stringify({ arena, process: peakOfProcess() - baseline }));
  await session.close();
}

/** Peak bytes of a rank: what the plan says, what the arena takes, what the process grows by. */
export async function benchMemory(): Promise<void> {
  const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-bench-'));
  try {
    const out = path.join(scratch, 'llama.ithaca');
    await compileModel(path.join(root, 'test/models/llama/model.onnx'), out, {
      config: parseConfig({}, 'bench'),
      weights: true,
      replace: true,
    });
    const pkg = await openPackage(out);
    const rows = [1024, 4096, 16384].map((tokens) => {
      const alone = { index: 0, degree: 1 };
      const plan = programPeak(pkg.program('train'), bindingOf(tokens, alone), tokens);
      const output = execFileSync(process.execPath, [self, out, String(tokens)], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const found = JSON.parse(output.trim().split('\n').at(-1)!) as { arena: number; process: number };
      const planned = plan.arenaBytes + plan.temporariesBytes;
      return [
        tokens,
        mebibytes(plan.arenaBytes),
        mebibytes(plan.temporariesBytes),
        mebibytes(found.arena),
        mebibytes(found.process),
        planned === 0 ? 0 : found.process / planned,
      ];
    });
    printTable(
      ['tokens', 'plan: arena', 'plan: temporaries', 'arena', 'process − baseline', 'process / plan'],
      rows,
    );
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

// A process of its own: `node memory.js PACKAGE TOKENS`.
if (process.argv[1] === self) await measure(process.argv[2]!, Number(process.argv[3]));
