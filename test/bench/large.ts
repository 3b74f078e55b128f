/** A model whose weights no single buffer of 2 GiB holds: compiled, trained and exported, with the memory each takes. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import { mebibytes, printTable } from './table.js';

const EMBEDDING = 'model.embed_tokens.weight';
/** 2.15 GiB of 64 float32 numbers each. */
export const LARGE_ROWS = 9_000_000;

/**
 * Writes the model of `source` with so many rows of embedding, in a sparse file that takes next to no disk.
 * @returns bytes of the file with external data
 */
export function writeLargeModel(source: string, folder: string, rows: number): number {
  const { ModelProto } = onnxProto.onnx;
  const model: onnx.IModelProto = ModelProto.decode(readFileSync(source));
  const table = model.graph!.initializer!.find(({ name }) => name === EMBEDDING)!;
  const columns = Number(table.dims![1]);
  const bytes = rows * columns * 4;
  const data = path.join(folder, 'weights.bin');
  writeFileSync(data, table.rawData!);
  truncateSync(data, bytes);
  table.dims = [rows, columns];
  table.rawData = new Uint8Array(0);
  table.dataLocation = 1;
  table.externalData = Object.entries({ location: 'weights.bin', offset: '0', length: String(bytes) }).map(
    ([key, value]) => ({ key, value }),
  );
  writeFileSync(path.join(folder, 'model.onnx'), ModelProto.encode(model).finish());
  return bytes;
}

interface Cost {
  readonly seconds: number;
  readonly peakBytes: number;
}

/** Runs the CLI in a process of its own, which says what it took. */
export function ithaca(root: string, args: readonly string[]): Cost {
  const started = performance.now();
  const program = path.join(root, 'dist/test/bench/measured.js');
  const output = execFileSync(process.execPath, [program, ...args], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const { peakBytes } = JSON.parse(output.trim().split('\n').at(-1)!) as { peakBytes: number };
  return { seconds: (performance.now() - started) / 1000, peakBytes };
}

/** Compile and export keep a small part of the weights in memory; training, the weights and a copy of one tensor. */
export function benchLarge(): void {
  const root = fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]bench[\\/].*$/, '');
  const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-large-'));
  const at = (...parts: string[]): string => path.join(folder, ...parts);
  try {
    const bytes = writeLargeModel(path.join(root, 'test/models/llama/model.onnx'), folder, LARGE_ROWS);
    writeFileSync(
      at('config.json'),
      JSON.stringify({ loss: { kind: 'next-token' }, trainable: { exclude: [EMBEDDING] } }),
    );
    writeFileSync(at('text.txt'), 'Weights lie in a file of their own. '.repeat(20));
    mkdirSync(at('out'));
    const [pkg, run] = [at('model.ithaca'), at('run')];
    const steps = {
      compile: ['compile', at('model.onnx'), '-o', pkg, '--config', at('config.json')],
      'inspect --tokens': ['inspect', pkg, '--tokens', '4096', '--degree', '4'],
      'train one step': ['train', pkg, '--data', at('text.txt'), '--out', run]
        .concat(['--tokenizer', 'bytes', '--ranks', '1'])
        .concat(['--steps', '1', '--batch-tokens', '64']),
      export: ['export', run, '-o', at('out', 'trained.onnx')],
    };
    const rows = Object.entries(steps).map(([name, args]) => {
      const { seconds, peakBytes } = ithaca(root, args);
      return [name, seconds, mebibytes(peakBytes), `${((100 * peakBytes) / bytes).toFixed(0)} %`];
    });
    console.log(`  ${mebibytes(bytes)} of weights in external data\n`);
    printTable(['command', 'seconds', 'peak memory', 'of the weights'], rows);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
