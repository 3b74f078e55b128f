import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { compileModel } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { openPackage } from '../../src/package/read.js';
import { calibrate } from '../../src/runtime/planner/calibrate/calibrate.js';
import { printTable } from './table.js';

const root = fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]bench[\\/].*$/, '');
const MODELS = ['llama-ids', 'gpt2'];
const SECONDS = 30;

/** Predicted against measured, for plans that nothing was fitted to: a rank a core, and four ranks a core. */
export async function benchCalibrate(): Promise<void> {
  const scratch = mkdtempSync(path.join(tmpdir(), 'ithaca-bench-'));
  const rows: (string | number)[][] = [];
  const errors: (string | number)[][] = [];
  try {
    for (const name of MODELS) {
      const out = path.join(scratch, `${name}.ithaca`);
      const model = path.join(root, 'test/models', name, 'model.onnx');
      await compileModel(model, out, { config: parseConfig({}, 'bench'), weights: true, replace: true });
      const pkg = await openPackage(out);
      for (const ranks of [2, 4 * availableParallelism()]) {
        const { measured } = (await calibrate(pkg, { ranks, seconds: SECONDS }))!;
        for (const plan of measured!.heldOut)
          rows.push([
            name,
            ranks,
            plan.what,
            plan.tokens,
            plan.predictedWorkMs,
            plan.measuredWorkMs,
            plan.predictedWorkMs / plan.measuredWorkMs,
            plan.predictedMs,
            plan.measuredMs,
            plan.predictedMs / plan.measuredMs,
          ]);
        errors.push([
          name,
          ranks,
          100 * measured!.microBatches.mean,
          100 * measured!.work.mean,
          100 * measured!.work.worst,
          100 * measured!.steps.mean,
          100 * measured!.othersShare,
        ]);
      }
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  printTable(
    ['model', 'ranks', 'plan', 'tokens', 'work ms', 'measured', 'ratio', 'step ms', 'measured', 'ratio'],
    rows,
  );
  console.log('\n  mean errors in %, and what other processes used of the cores meanwhile');
  printTable(['model', 'ranks', 'fitted', 'work', 'worst', 'steps', 'others'], errors);
  console.log(
    '  work: of the rank that works longest, on a core; step: on the clock; ratio: predicted over measured',
  );
}
