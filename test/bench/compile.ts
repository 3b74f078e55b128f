import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { fitGrowth } from './growth.js';
import { llamaOfLayers } from './layers.js';
import { mebibytes, printTable } from './table.js';

const root = fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]bench[\\/].*$/, '');

/** Models given by the user, beside the project's own: ITHACA_BENCH_MODELS=a.onnx:b.onnx. */
const models = (): string[] => [
  path.join(root, 'test/models/llama/model.onnx'),
  path.join(root, 'test/models/gpt2-ts/model.onnx'),
  ...(process.env['ITHACA_BENCH_MODELS'] ?? '').split(':').filter((file) => file !== '' && existsSync(file)),
];

interface Cost {
  readonly seconds: number;
  /** Of all threads, which other processes disturb less than the clock. */
  readonly cpuSeconds: number;
  readonly peakBytes: number;
}

/** Runs the CLI in a process of its own and reads its peak resident memory from the kernel. */
function compileOnce(model: string, out: string): Cost {
  const program = fileURLToPath(new URL('measured.js', import.meta.url));
  const started = performance.now();
  const output = execFileSync(
    process.execPath,
    [program, 'compile', model, '-o', out, '--no-weights', '--force'],
    {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    },
  );
  const seconds = (performance.now() - started) / 1000;
  return { seconds, ...(JSON.parse(output.trim().split('\n').at(-1)!) as Omit<Cost, 'seconds'>) };
}

const DEPTHS = [2, 4, 8, 16, 32, 64, 128];
const RUNS = 3;

/** Time and peak memory by the number of layers, and how they grow with it. */
function benchDepth(scratch: string): void {
  const llama = path.join(root, 'test/models/llama/model.onnx');
  const costs = DEPTHS.map((layers) => {
    const file = path.join(scratch, `llama-${layers}.onnx`);
    writeFileSync(file, llamaOfLayers(llama, layers));
    const runs = Array.from({ length: RUNS }, () => compileOnce(file, path.join(scratch, 'model.ithaca')));
    const least = (of: (cost: Cost) => number): number => Math.min(...runs.map(of));
    return {
      layers,
      seconds: least((c) => c.seconds),
      cpuSeconds: least((c) => c.cpuSeconds),
      peakBytes: least((c) => c.peakBytes),
    };
  });
  const rows = costs.map((c) => [c.layers, c.seconds, c.cpuSeconds, mebibytes(c.peakBytes)]);
  printTable([`llama, layers`, `seconds, least of ${RUNS}`, 'on the cores', 'peak memory'], rows);
  for (const [what, of] of [
    ['seconds', (c: Cost) => c.seconds],
    ['seconds on the cores', (c: Cost) => c.cpuSeconds],
    ['MiB', (c: Cost) => c.peakBytes / 2 ** 20],
  ] as const) {
    const { fixed, slope, exponent } = fitGrowth(costs.map((c) => ({ n: c.layers, cost: of(c) })));
    console.log(`  ${what} ≈ ${fixed.toFixed(2)} + ${slope.toFixed(3)} · layers^${exponent.toFixed(2)}`);
  }
  console.log();
}

/** Whole-process compile time and peak memory, against the limits 5 s and 600 MB, and distinct segments. */
export function benchCompile(): void {
  const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-bench-'));
  try {
    benchDepth(scratch);
    const rows = models().map((model) => {
      const out = path.join(scratch, 'model.ithaca');
      const { seconds, peakBytes } = compileOnce(model, out);
      const program = JSON.parse(readFileSync(path.join(out, 'programs/train/program.json'), 'utf8')) as {
        segments: unknown[];
        kernels: unknown[];
        instructions: { kind: string }[];
      };
      const attentions = program.instructions.filter((i) => i.kind === 'attention').length;
      return [
        path.basename(path.dirname(model)),
        attentions,
        program.instructions.length,
        program.segments.length + program.kernels.length,
        seconds,
        `${((100 * seconds) / 5).toFixed(0)} %`,
        mebibytes(peakBytes),
        `${((100 * peakBytes) / 600e6).toFixed(0)} %`,
      ];
    });
    printTable(
      [
        'model',
        'layers',
        'instructions',
        'distinct segments',
        'seconds',
        'of 5 s',
        'peak memory',
        'of 600 MB',
      ],
      rows,
    );
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
