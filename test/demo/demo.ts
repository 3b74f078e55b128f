import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * `npm run demo`: a real Hugging Face export is compiled, trained on the project's own documents on four
 * local ranks in groups of two, trained further on two, and exported; ONNX Runtime then computes the trained loss.
 */
const root = fileURLToPath(import.meta.url).replace(/[\\/](dist[\\/])?test[\\/]demo[\\/].*$/, '');
const folder = path.join(root, 'build', 'demo');
const model = path.join(root, 'test/models/llama/model.onnx');

function ithaca(...args: string[]): void {
  const shown = args.map((arg) => arg.replace(`${root}/`, '').replace(`${folder}/`, ''));
  console.log(`\n$ npx ithaca ${shown.map((arg) => (/[*\s]/.test(arg) ? `'${arg}'` : arg)).join(' ')}\n`);
  const { status } = spawnSync(process.execPath, [path.join(root, 'bin/ithaca.js'), ...args], {
    stdio: 'inherit',
    cwd: folder,
  });
  if (status !== 0) process.exit(status ?? 1);
}

const started = performance.now();
rmSync(folder, { recursive: true, force: true });
mkdirSync(folder, { recursive: true });

ithaca('compile', model, '-o', 'llama.ithaca');
ithaca('verify', 'llama.ithaca', '--sp', '2,3');
const data = [`${root}/docs/**/*.md`, `${root}/src/ir/**/*.ts`];
const common = [
  '--tokenizer',
  'bytes',
  '--long',
  'split',
  '--batch-tokens',
  '4096',
  '--max-tokens-per-group',
  '1024',
  '--lr',
  '2e-3',
  '--warmup',
  '5',
];
ithaca(
  'train',
  'llama.ithaca',
  '--data',
  ...data,
  ...common,
  '--ranks',
  '4',
  '--sp',
  '2',
  '--steps',
  '30',
  '--out',
  'run/',
);
ithaca('train', '--resume', 'run/', '--ranks', '2', '--sp', '1', '--steps', '40');
ithaca('export', 'run/', '-o', 'trained.onnx');

const metrics = readFileSync(path.join(folder, 'run/metrics.jsonl'), 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as { step: number; loss?: number });
const losses = metrics.filter((m) => m.loss !== undefined);
const [first, last] = [losses[0]!, losses.at(-1)!];
console.log(
  `\nloss ${first.loss!.toFixed(3)} → ${last.loss!.toFixed(3)} in ${last.step} steps, ${((performance.now() - started) / 1000).toFixed(0)} s in all`,
);
console.log('build/demo/trained.onnx is the source graph with trained weights; any ONNX Runtime runs it');
if (!(last.loss! < first.loss!)) {
  console.error('the loss did not fall');
  process.exitCode = 1;
}
