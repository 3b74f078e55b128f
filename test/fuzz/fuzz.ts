/** `node dist/test/fuzz/fuzz.js --runs 2000 --seed 1`: hostile models, compiled under watch. */
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { Command, InvalidArgumentError } from 'commander';
import { fuzz, type Finding } from './run.js';
import { saveTally, tallyPage } from './tally.js';

const whole = (text: string): number => {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('expected a whole number');
  return Number(text);
};

const options = new Command('fuzz')
  .description('Compiles damaged and hostile models; findings go to build/fuzz.')
  .option('--runs <n>', 'number of cases', whole, 1000)
  .option('--seed <n>', 'seed of the first case; case i has seed + i', whole, 1)
  .option('--seconds <n>', 'stop after this long', whole)
  .option('--strace', 'watch what is opened with strace as well', false)
  .option('--report <file>', 'run nothing: write a page about the runs of this version so far')
  .option('--verbose', 'print every case', false)
  .parse()
  .opts<{
    runs: number;
    seed: number;
    seconds?: number;
    strace: boolean;
    report?: string;
    verbose: boolean;
  }>();

const out = path.resolve('build/fuzz');
mkdirSync(out, { recursive: true });

function save({ case: fuzzCase, judgement, bytes }: Finding): void {
  const name = path.join(out, `${fuzzCase.seed}-${fuzzCase.model}`);
  writeFileSync(`${name}.onnx`, bytes);
  writeFileSync(`${name}.json`, `${JSON.stringify({ ...fuzzCase, fault: judgement.fault }, undefined, 2)}\n`);
  const edits = fuzzCase.edits.map((edit) => edit.name).join('+');
  console.log(`FINDING seed ${fuzzCase.seed} (${fuzzCase.model}, ${edits}): ${judgement.fault}`);
}

async function run(): Promise<void> {
  const summary = await fuzz({
    runs: options.runs,
    seed: options.seed,
    ...(options.seconds === undefined ? {} : { maxMs: options.seconds * 1000 }),
    folder: path.join(out, `case-${process.pid}`),
    strace: options.strace,
    onFinding: save,
    onRun: (fuzzCase, { verdict }) => {
      if (!options.verbose) return;
      const end =
        verdict.kind === 'died' ? verdict.reason : `${verdict.outcome.kind} ${verdict.outcome.text}`;
      const edits = fuzzCase.edits.map((edit) => edit.name).join('+');
      console.log(
        `${fuzzCase.seed} ${fuzzCase.model} ${edits} ${verdict.ms} ms: ${end.split('\n')[0]!.slice(0, 300)}`,
      );
    },
  });
  saveTally(out, options.seed, summary);
  const { findings, ...counts } = summary;
  console.log(JSON.stringify({ ...counts, findings: findings.length }));
  process.exitCode = findings.length + (summary.strangers?.length ?? 0) > 0 ? 1 : 0;
}

if (options.report === undefined) await run();
else writeFileSync(options.report, tallyPage(out));
