import type { TrainReporter } from '../train/loop.js';
import type { StepMetrics } from '../train/run-directory.js';
import { err, formatBytes, formatCount, formatMs, progressOn, shown } from './output.js';

/** Lines of a whole run where there is no terminal to rewrite one on. */
const LINES = 20;

export interface CliReporter extends TrainReporter {
  begin(steps: number, done: number): void;
  /** A line that stays. */
  keep(line: string): void;
  end(): void;
}

/** One line on standard error, rewritten every step on a terminal; elsewhere one every few steps. */
export function trainReporter(stream: NodeJS.WriteStream = process.stderr): CliReporter {
  const progress = progressOn(stream);
  let total = 0;
  let first = 0;
  let began = performance.now();
  return {
    begin: (steps, done) => {
      [total, first, began] = [steps, done, performance.now()];
    },
    onStep: (metrics) => {
      const left = ((performance.now() - began) / (metrics.step - first)) * (total - metrics.step);
      const line = lineOf(metrics, total, left);
      const every = Math.max(1, Math.ceil((total - first) / LINES));
      const stays =
        metrics.eval_loss !== undefined ||
        metrics.step === total ||
        (stream.isTTY !== true && (metrics.step === first + 1 || metrics.step % every === 0));
      if (stays) progress.keep(line);
      else progress.update(line);
    },
    onNote: (note) => progress.keep(err.yellow(shown(note))),
    onSave: (step) => progress.update(err.dim(`saved step ${step}`)),
    keep: progress.keep,
    end: progress.end,
  };
}

function lineOf(metrics: StepMetrics, total: number, leftMs: number): string {
  const parts = [
    `${err.bold(`step ${String(metrics.step).padStart(String(total).length)}/${total}`)}`,
    `loss ${metrics.loss.toFixed(4)}`,
    ...(metrics.eval_loss === undefined ? [] : [err.cyan(`eval ${metrics.eval_loss.toFixed(4)}`)]),
    ...(metrics.eval_accuracy === undefined
      ? []
      : [err.cyan(`accuracy ${(100 * metrics.eval_accuracy).toFixed(1)} %`)]),
    `|g| ${metrics.grad_norm.toPrecision(3)}`,
    `lr ${metrics.lr.toExponential(1)}`,
    `${formatCount(Math.round(metrics.tokens_per_s))} tok/s`,
    `${formatBytes(metrics.bytes_exchanged)} sent`,
    `${formatBytes(metrics.peak_bytes)} peak`,
    ...(metrics.step === total ? [] : [err.dim(`${formatMs(leftMs)} left`)]),
  ];
  return parts.join('  ');
}
