import type { HeadlineOptions, Measured } from './headline.js';
import { nameOf, publishedOf } from './headline-published.js';

/** The page that `npm run bench headline` writes: figures of simulations beside published ones. */
export function headlinePage(measured: readonly Measured[], options: HeadlineOptions): string {
  const { flexSpBatches, flexSpSeconds } = options;
  return `# FlexSP's headline comparison, simulated

Written by \`npm run bench headline -- --data DIR\`; DIR holds the length files that FlexSP published. Nothing was run
on a GPU: every "simulated" figure is a prediction of FlexSP's published cost model (arXiv 2412.01523; 64 × A100-40GB in
nodes of 8, 28 GiB a rank), seconds a step of 512 sequences. Published figures are measurements of its authors, read off
their figure.

**The corpora of CommonCrawl and GitHub are heads of the published files**, the first few thousand documents; Wikipedia
is whole. A batch is 512 documents in the order of the file (the first ${measured[0]?.batches ?? 0}), so batches differ from those that were
measured. Compare columns of one table with each other; across to the published ones only in trend.

Rules of FlexSP, for all solvers alike: lengths are rounded up to a multiple of 128; documents longer than the context
are left out, none is cut; K is 1,000. The positions of the model grow with the context. A document that fits the
context and no group of 64 ranks (7B, 13B, 30B at 384K hold 380,096 to 380,800 tokens) is left out too.

## Simulated beside published

static is one degree (in brackets) for the whole run, of those that hold the longest document kept the one that takes
least, packed best fit decreasing; adaptive is the best single degree for each batch. Degrees are powers of two.

${table(
  [
    ['setting', 'left'],
    ['static', 'right'],
    ['adaptive', 'right'],
    ['ithaca', 'right'],
    ['over static', 'right'],
    ['idle', 'right'],
    ['gap', 'right'],
    ['published: DeepSpeed', 'right'],
    ['Megatron', 'right'],
    ['best degree', 'right'],
    ['FlexSP', 'right'],
    ['FlexSP over DeepSpeed', 'right'],
  ],
  measured.map((one) => mainRow(one)),
)}

idle is the part of the ranks' time in which no sequence is computed; gap says by how much ithaca's steps are at most
longer than those of the best plans: certified by a bound that takes a millisecond.

## FlexSP's formulation on the same batches

${flexSpText(flexSpBatches, flexSpSeconds)}

${table(
  [
    ['setting', 'left'],
    ['FlexSP on HiGHS', 'right'],
    ['longest solve', 'right'],
    ['ithaca', 'right'],
    ['longest solve', 'right'],
    ['FlexSP over ithaca', 'right'],
  ],
  measured.flatMap((one) => sameRow(one)),
)}

## Degrees that are not powers of two

FlexSP's bandwidths stop at powers of two. Here compute and memory are as above, all-to-alls follow from bytes, links and
latency, and a rank has a whole number of the 64 heads. ithaca with powers of two, and with every degree inside a node and
every number of whole nodes; what is less than one per cent may be the search's.

${table(
  [
    ['setting', 'left'],
    ['powers of two', 'right'],
    ['any degree', 'right'],
    ['gain', 'right'],
  ],
  measured.map(({ setting, physical: [even, every] }) => [
    nameOf(setting),
    seconds(even!.stepMs),
    seconds(every!.stepMs),
    percent(1 - every!.stepMs / even!.stepMs),
  ]),
)}
`;
}

const flexSpText = (batches: number, limit: number): string =>
  `Its mixed-integer programmes, as published: 16 buckets of lengths, five numbers of micro-batches, degrees from 2 up, a
start of one degree. Solved by HiGHS one after the other on one thread, each stopped after ${limit} s (the paper: SCIP, 10 s,
a process for each), on the first ${batches} of a setting's batches; ithaca under the same rules beside it. How long solves take,
and how far programmes come, depends on the machine: two cores, shared with other work.${batches === 2 ? WITH_SCIP : ''}`;

/** FlexSP's published code was run on these very batches, elsewhere: 330 to 520 s of solving a setting. */
const WITH_SCIP = `

FlexSP's own code with SCIP and 10 s a programme reaches 16.28 s, 18.90 s and 4.36 s on the batches of the first three
rows, by the same formulas.`;

function mainRow({ setting, all }: Measured): readonly string[] {
  const [one, adaptive, ithaca] = all;
  const { deepSpeed, megatron, bestDegree, flexSp } = publishedOf(setting);
  return [
    nameOf(setting),
    `${seconds(one!.stepMs)} (${one!.degree})`,
    seconds(adaptive!.stepMs),
    `**${seconds(ithaca!.stepMs)}**`,
    `${(one!.stepMs / ithaca!.stepMs).toFixed(2)} ×`,
    percent(ithaca!.idle),
    percent(ithaca!.gap),
    ...[deepSpeed, megatron, bestDegree, flexSp].map(published),
    `${(deepSpeed / flexSp).toFixed(2)} ×`,
  ];
}

function sameRow({ setting, same }: Measured): readonly (readonly string[])[] {
  const [flexsp, ithaca] = same;
  if (flexsp === undefined || ithaca === undefined) return [];
  return [
    [
      nameOf(setting),
      seconds(flexsp.stepMs),
      `${(flexsp.solveMs.max / 1000).toFixed(1)} s`,
      seconds(ithaca.stepMs),
      `${(ithaca.solveMs.max / 1000).toFixed(2)} s`,
      `${(flexsp.stepMs / ithaca.stepMs).toFixed(3)} ×`,
    ],
  ];
}

const seconds = (ms: number): string => (ms / 1000).toFixed(ms < 20_000 ? 2 : 1);
/** As many digits as could be read off. */
const published = (value: number): string => value.toFixed(value < 70 ? 1 : 0);
const percent = (share: number): string => `${(100 * share).toFixed(1).replace('-0.0', '0.0')} %`;

/** A Markdown table as prettier lays it out. */
function table(
  head: readonly (readonly [title: string, align: 'left' | 'right'])[],
  rows: readonly (readonly string[])[],
): string {
  const widths = head.map(([title], i) => Math.max(3, title.length, ...rows.map((row) => row[i]!.length)));
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  const pad = (text: string, i: number): string =>
    head[i]![1] === 'left' ? text.padEnd(widths[i]!) : text.padStart(widths[i]!);
  const rule = head.map(([, align], i) =>
    align === 'left' ? '-'.repeat(widths[i]!) : `${'-'.repeat(widths[i]! - 1)}:`,
  );
  return [
    line(head.map(([title], i) => pad(title, i))),
    line(rule),
    ...rows.map((row) => line(row.map(pad))),
  ].join('\n');
}
