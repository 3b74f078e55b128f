import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { mebibytes, printTable } from './table.js';

const root = fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]bench[\\/].*$/, '');

/** Models given by the user, beside the project's own: ITHACA_BENCH_MODELS=a.onnx:b.onnx. */
const models = (): string[] => [
  path.join(root, 'test/models/llama/model.onnx'),
  path.join(root, 'test/models/gpt2-ts/model.onnx'),
  ...(process.env['ITHACA_BENCH_MODELS'] ?? '').split(':').filter((file) => file !== '' && existsSync(file)),
];

/** Runs the CLI in a process of its own and reads its peak resident memory from the kernel. */
function compileOnce(model: string, out: string): { seconds: number; peakBytes: number } {
  const script = `
    import { readFileSync } from 'node:fs';
    process.argv.push('compile', ${JSON.stringify(model)}, '-o', ${JSON.stringify(out)}, '--no-weights', '--force');
    process.on('exit', () => process.stdout.write('\\nPEAK ' + readFileSync('/proc/self/status', 'utf8').match(/VmHWM:\\s+(\\d+)/)[1] + '\\n'));
    await import(${JSON.stringify(path.join(root, 'dist/src/cli/main.js'))});`;
  const started = performance.now();
  const output = execFileSync(process.execPath, ['--input-type=module', '-e', script], {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  return {
    seconds: (performance.now() - started) / 1000,
    peakBytes: Number(/PEAK (\d+)/.exec(output)![1]) * 1024,
  };
}

/** Whole-process compile time and peak memory, against the limits 5 s and 600 MB, and distinct segments. */
export function benchCompile(): void {
  const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-bench-'));
  try {
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
