import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { benchAuto } from './auto.js';
import { benchCalibrate } from './calibrate.js';
import { benchCollectives } from './collectives.js';
import { benchCompile } from './compile.js';
import { benchHeadline } from './headline.js';
import { benchLarge } from './large.js';
import { benchMemory } from './memory.js';
import { benchNative } from './native.js';
import { benchPlannerGrowth } from './planner-growth.js';
import { benchStep } from './step.js';

/** Runs a benchmark that is a program of its own. */
function script(name: string, args: readonly string[]): void {
  const file = fileURLToPath(new URL(name, import.meta.url));
  const { status } = spawnSync(process.execPath, [file, ...args], { stdio: 'inherit' });
  if (status !== 0) process.exitCode = 1;
}

/**
 * `npm run bench -- [name…]`: every benchmark prints ratios against a peer or a limit measured in the same run.
 * What follows a single name and begins with a dash is the benchmark's own.
 */
const BENCHMARKS: Readonly<
  Record<string, { readonly what: string; readonly run: (args: readonly string[]) => Promise<void> | void }>
> = {
  compile: { what: 'compile time and peak memory against the number of layers', run: benchCompile },
  large: { what: 'more than 2 GiB of weights: compiled, inspected, trained, exported', run: benchLarge },
  step: { what: 'a training step against PyTorch eager on the same cores', run: benchStep },
  memory: { what: 'peak bytes: the plan, the arena, the process', run: benchMemory },
  native: { what: 'the addon against the binding of onnxruntime-node', run: benchNative },
  auto: { what: 'training with --sp auto against every static degree on local ranks', run: benchAuto },
  calibrate: { what: 'predicted steps against measured ones, after a calibration', run: benchCalibrate },
  collectives: {
    what: 'all-to-all among local ranks against a plain copy',
    run: async () => void (await benchCollectives()),
  },
  planner: {
    what: 'plans against FlexSP, one degree and the bound; --problem batches.json --baseline baseline.json',
    run: (args) => script('planner.js', args),
  },
  'planner-cold': {
    what: 'planning in a process that has just started; --problem batches.json',
    run: (args) =>
      args.length > 0 ? script('planner-cold.js', args) : console.log('left out: it needs --problem FILE'),
  },
  'planner-growth': {
    what: 'time of a plan over ranks and sequences, with its exponents',
    run: benchPlannerGrowth,
  },
  headline: { what: "FlexSP's headline comparison, simulated with its constants", run: benchHeadline },
};

const given = process.argv.slice(2);
const flags = given.findIndex((word) => word.startsWith('-'));
const wanted = flags < 0 ? given : given.slice(0, flags);
const own = wanted.length === 1 && flags >= 0 ? given.slice(flags) : [];
const unknown = wanted.find((name) => !Object.hasOwn(BENCHMARKS, name));
if (unknown !== undefined) {
  console.error(`error: there is no benchmark '${unknown}'\n  hint: ${Object.keys(BENCHMARKS).join(', ')}`);
  process.exitCode = 2;
} else {
  for (const [name, { what, run }] of Object.entries(BENCHMARKS)) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    console.log(`\n${name}: ${what}\n`);
    await run(own);
  }
}
