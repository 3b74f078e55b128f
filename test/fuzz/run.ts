/** Runs cases and judges them. */
import { rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { bytesOf, caseOf, familyName, modelNames, type FuzzCase } from './cases.js';
import { fuzzFolder } from './folder.js';
import { MAX_GROWTH_BYTES, targetIn, type Verdict } from './pool.js';
import { strangersIn } from './strace.js';

export interface Judgement {
  /** What is wrong, undefined when nothing is. Numbers and names are left out of `signature`. */
  readonly fault: string | undefined;
  readonly signature: string;
  readonly verdict: Verdict;
}

export interface Finding {
  readonly case: FuzzCase;
  readonly judgement: Judgement;
  readonly bytes: Uint8Array;
}

export interface Counts {
  readonly runs: number;
  readonly compiled: number;
  readonly refused: number;
  /** Cases with a fault. */
  readonly faults: number;
}

export interface Summary extends Counts {
  /** Cases by the kind of their first edit. */
  readonly families: Readonly<Record<string, Counts>>;
  /** Compiled models whose logits were compared with onnxruntime's. */
  readonly compared: number;
  readonly slowestMs: number;
  readonly mostGrownBytes: number;
  readonly findings: readonly Finding[];
  /** Files outside that a process under strace opened; undefined without strace. */
  readonly strangers: readonly string[] | undefined;
}

export interface FuzzOptions {
  readonly runs: number;
  readonly seed: number;
  readonly folder: string;
  readonly models?: readonly string[];
  /** Watches what is opened with strace. */
  readonly strace?: boolean;
  /** Stops before the next case once this many milliseconds have passed. */
  readonly maxMs?: number;
  readonly onFinding?: (finding: Finding) => void;
  readonly onRun?: (fuzzCase: FuzzCase, judgement: Judgement) => void;
}

/** Largest relative error of logits: float32 against float64. */
const MAX_ERROR = 2e-3;

export function judge(verdict: Verdict, touched: readonly string[]): Judgement {
  const fault = faultOf(verdict, touched);
  const signature = (fault ?? '')
    .split('\n')
    .slice(0, 3)
    .join(' ')
    .replaceAll(/[\d.]+|'[^']*'|"[^"]*"|\/[\w./:-]+/g, '#')
    .slice(0, 160);
  return { fault, signature, verdict };
}

function faultOf(verdict: Verdict, touched: readonly string[]): string | undefined {
  if (verdict.kind === 'died') {
    // Only onnxruntime's run of the whole model: a damaged model may take it down.
    return verdict.stage === 'compare' ? undefined : `${verdict.reason} in ${verdict.stage}`;
  }
  const { outcome } = verdict;
  if (outcome.kind === 'fault') return outcome.text;
  if (outcome.strangers.length > 0) return `opened ${outcome.strangers.join(', ')}`;
  if (touched.length > 0 && outcome.error === undefined) return `read ${touched.join(', ')}`;
  if (outcome.grownBytes > MAX_GROWTH_BYTES && outcome.error === undefined)
    return `took ${outcome.grownBytes} bytes`;
  if (outcome.error !== undefined && outcome.error > MAX_ERROR) return `logits differ by ${outcome.error}`;
  return undefined;
}

export async function fuzz(options: FuzzOptions): Promise<Summary> {
  const folder = fuzzFolder(options.folder);
  const strangers = options.strace === true ? new Set<string>() : undefined;
  const program = [path.resolve('dist'), path.resolve('node_modules'), path.resolve('package.json')];
  const target = targetIn({
    cwd: folder.cwd,
    ...(strangers && { traces: options.folder }),
    onTrace: (log) => {
      const own = [folder.model, folder.out, ...program];
      for (const file of strangersIn(log, folder.cwd, own)) strangers?.add(file);
      rmSync(log, { force: true });
    },
  });
  const models = options.models ?? modelNames();
  const tryCase = async (fuzzCase: FuzzCase): Promise<{ judgement: Judgement; bytes: Uint8Array }> => {
    const bytes = bytesOf(fuzzCase);
    writeFileSync(path.join(folder.model, 'model.onnx'), bytes);
    folder.arm();
    const { seed, weights } = fuzzCase;
    const [compare, index] = [weights && seed % 4 === 0, seed % 8 === 1];
    const verdict = await target.run({ folder: folder.model, out: folder.out, weights, compare, index });
    return { judgement: judge(verdict, folder.touched()), bytes };
  };
  const findings = new Map<string, Finding>();
  const counts = newTally();
  const began = performance.now();
  try {
    for (let i = 0; i < options.runs; i++) {
      if (performance.now() - began > (options.maxMs ?? Infinity)) break;
      const fuzzCase = caseOf(options.seed + i, models);
      const first = await tryCase(fuzzCase);
      count(counts, fuzzCase, first.judgement);
      options.onRun?.(fuzzCase, first.judgement);
      if (first.judgement.fault === undefined || findings.has(first.judgement.signature)) continue;
      const finding = await minimise(fuzzCase, first, tryCase);
      findings.set(first.judgement.signature, finding);
      options.onFinding?.(finding);
    }
  } finally {
    target.stop();
  }
  return { ...counts, findings: [...findings.values()], strangers: strangers && [...strangers] };
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };
type Tally = Writable<Omit<Summary, 'findings' | 'strangers' | 'families'>> & {
  families: Record<string, Writable<Counts>>;
};

const newCounts = (): Writable<Counts> => ({ runs: 0, compiled: 0, refused: 0, faults: 0 });
const newTally = (): Tally => ({
  ...newCounts(),
  families: {},
  compared: 0,
  slowestMs: 0,
  mostGrownBytes: 0,
});

function count(tally: Tally, fuzzCase: FuzzCase, { verdict, fault }: Judgement): void {
  const family = (tally.families[familyName(fuzzCase)] ??= newCounts());
  const kind = verdict.kind === 'ended' ? verdict.outcome.kind : undefined;
  for (const counts of [tally, family]) {
    counts.runs++;
    if (kind === 'compiled') counts.compiled++;
    if (kind === 'refused') counts.refused++;
    if (fault !== undefined) counts.faults++;
  }
  tally.slowestMs = Math.max(tally.slowestMs, verdict.ms);
  if (verdict.kind !== 'ended') {
    // Only onnxruntime's own run of the model, for comparison, may end the process: it had compiled before.
    if (fault === undefined) for (const counts of [tally, family]) counts.compiled++;
    return;
  }
  const { outcome } = verdict;
  if (outcome.error !== undefined) tally.compared++;
  else tally.mostGrownBytes = Math.max(tally.mostGrownBytes, outcome.grownBytes);
}

/** Leaves out edits as long as the same thing goes wrong. */
async function minimise(
  fuzzCase: FuzzCase,
  first: { judgement: Judgement; bytes: Uint8Array },
  tryCase: (smaller: FuzzCase) => Promise<{ judgement: Judgement; bytes: Uint8Array }>,
): Promise<Finding> {
  let best: Finding = { case: fuzzCase, ...first };
  for (const edit of fuzzCase.edits) {
    const edits = best.case.edits.filter((other) => other !== edit);
    if (edits.length === 0 || edits.length === best.case.edits.length) continue;
    const smaller = { ...fuzzCase, edits };
    const found = await tryCase(smaller);
    if (found.judgement.signature === first.judgement.signature) best = { case: smaller, ...found };
  }
  return best;
}
