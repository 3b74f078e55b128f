import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileModel } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { openPackage } from '../../src/package/read.js';
import type { Document } from '../../src/runtime/data/document.js';
import { TrainingSession } from '../../src/runtime/session/session.js';
import { median, printTable } from './table.js';

const root = fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]bench[\\/].*$/, '');
const peer = path.join(root, 'test/bench/peer/peer.py');

/** A model large enough that compute, not call overhead, decides. */
const MEDIUM = {
  hidden_size: 256,
  intermediate_size: 704,
  num_hidden_layers: 4,
  num_attention_heads: 8,
  num_key_value_heads: 2,
  vocab_size: 4096,
  max_position_embeddings: 8192,
  tie_word_embeddings: false,
};

/** Python with the packages of test/bench/peer/requirements.txt; ITHACA_PEER_PYTHON, or .venv in the project. */
function peerPython(): string | undefined {
  const python = process.env['ITHACA_PEER_PYTHON'] ?? path.join(root, '.venv/bin/python');
  if (!existsSync(python)) return undefined;
  try {
    execFileSync(python, ['-c', 'import torch, transformers'], { stdio: 'ignore' });
    return python;
  } catch {
    return undefined;
  }
}

/** One document of `tokens` tokens on `ranks` ranks that share it: median ms a step. */
async function ours(packageFolder: string, ranks: number, tokens: number, steps: number): Promise<number> {
  const session = await TrainingSession.open(await openPackage(packageFolder), { ranks });
  try {
    const { vocabulary } = session.package.manifest;
    const ids = Int32Array.from({ length: tokens }, (_, i) => (i * 7919) % vocabulary);
    const document: Document = {
      ids,
      labels: Int32Array.from(ids, (_, i) => ids[i + 1] ?? -100),
      origin: 'bench',
    };
    const plan = [{ lanes: [{ ranks: Array.from({ length: ranks }, (_, i) => i), documents: [document] }] }];
    const times: number[] = [];
    for (let step = 0; step < steps + 3; step++)
      times.push((await session.step(plan, { lr: 1e-4, step })).ms);
    return median(times.slice(3));
  } finally {
    await session.close();
  }
}

const theirs = (python: string, config: string, tokens: number, steps: number): number =>
  (
    JSON.parse(
      execFileSync(python, [peer, 'step', config, String(tokens), String(steps)], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      }),
    ) as { ms: number }
  ).ms;

/** Tokens a second of a training step, one process, two cores, and the ratio to PyTorch eager. */
export async function benchStep(): Promise<void> {
  const python = peerPython();
  if (python === undefined) {
    console.log(
      '  no peer: create it with\n    python3 -m venv .venv && .venv/bin/pip install -r test/bench/peer/requirements.txt\n  or set ITHACA_PEER_PYTHON. Nothing was measured.',
    );
    return;
  }
  const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-bench-'));
  try {
    const medium = path.join(scratch, 'medium.json');
    writeFileSync(medium, JSON.stringify(MEDIUM));
    execFileSync(python, [peer, 'export', medium, path.join(scratch, 'medium.onnx')], { stdio: 'ignore' });
    const cases = [
      {
        name: 'tiny llama',
        onnx: path.join(root, 'test/models/llama/model.onnx'),
        config: path.join(root, 'test/models/llama/config.json'),
        sizes: [
          [96, 30],
          [1024, 10],
        ],
      },
      {
        name: 'medium llama',
        onnx: path.join(scratch, 'medium.onnx'),
        config: medium,
        sizes: [
          [512, 8],
          [2048, 5],
        ],
      },
    ] as const;
    const rows: (string | number)[][] = [];
    for (const { name, onnx, config, sizes } of cases) {
      const out = path.join(scratch, `${name.replace(' ', '-')}.ithaca`);
      await compileModel(onnx, out, { config: parseConfig({}, 'bench'), weights: true, replace: true });
      for (const [tokens, steps] of sizes) {
        const torch = theirs(python, config, tokens, steps);
        for (const ranks of [1, 2]) {
          const ms = await ours(out, ranks, tokens, steps);
          rows.push([
            name,
            tokens,
            ranks,
            ms,
            (1000 * tokens) / ms,
            torch,
            (1000 * tokens) / torch,
            torch / ms,
          ]);
        }
      }
    }
    printTable(['model', 'tokens', 'ranks', 'ms', 'tokens/s', 'PyTorch ms', 'tokens/s', 'ratio'], rows);
    console.log('  ratio: ithaca’s tokens/s over PyTorch’s (two threads); ranks share the one document');
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
