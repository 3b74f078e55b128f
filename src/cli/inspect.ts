import { Option, type Command } from 'commander';
import type { Manifest, ParameterEntry } from '../package/manifest.js';
import type { Package } from '../package/read.js';
import type { Exchange } from './exchanges.js';
import { recognizedText } from './compile.js';
import type { GroupSize, Report } from './inspect-report.js';
import { jsonOption, positive } from './options.js';
import {
  foldNotes,
  formatBytes,
  formatCount,
  out,
  plural,
  print,
  printJson,
  section,
  shown,
  table,
} from './output.js';
import { lossText } from '../report/loss.js';

interface InspectOptions {
  readonly tokens?: number;
  readonly degree?: number;
  readonly sp?: number;
  readonly all?: boolean;
  readonly html?: string;
  readonly json?: boolean;
}

const DEFAULT_TOKENS = 4096;
const DEFAULT_DEGREE = 2;

export function declareInspect(program: Command): void {
  program
    .command('inspect')
    .summary('show what is in a package, and what it costs')
    .description(
      'Shows parameters, what was recognised, placements, FLOPs, exchanges, segments and memory of a package.',
    )
    .argument('<package>', 'directory that ithaca compile wrote')
    .option(
      '--tokens <n>',
      `tokens of a group, one document (default: ${DEFAULT_TOKENS}, or the longest document)`,
      positive,
    )
    .option(
      '--degree <p>',
      `ranks of a group (default: ${DEFAULT_DEGREE}, or as many as the heads allow)`,
      positive,
    )
    .addOption(new Option('--sp <p>', 'the same as --degree').argParser(positive).conflicts('degree'))
    .option('--all', 'list every parameter, every exchange and every rank')
    .option('--html <file>', 'write one self-contained page instead: layers, placements, exchanges, memory')
    .addOption(jsonOption('everything'))
    .addHelpText(
      'after',
      `
FLOPs are those of a whole group. S is the number of its tokens; A_causal, A_full and A_window_w are the
(query, key) pairs that attention sees, summed over documents.

Examples:
  $ ithaca inspect llama.ithaca
  $ ithaca inspect llama.ithaca --tokens 100000 --sp 8
  $ ithaca inspect llama.ithaca --html llama.html
  $ ithaca inspect llama.ithaca --json | jq .exchanges.forward`,
    )
    .action(async (directory: string, options: InspectOptions) => {
      const { openPackage } = await import('../package/read.js');
      const { reportOn } = await import('./inspect-report.js');
      const pkg = await openPackage(directory);
      if (options.html !== undefined) return writePage(pkg, options.html, options.json === true);
      const report = reportOn(
        pkg,
        groupOf(pkg.manifest, { ...options, degree: options.degree ?? options.sp }),
      );
      if (options.json === true) printJson(report);
      else show(report, options.all === true);
    });
}

/** The group that costs are given for: what was asked, or one that every model allows. */
export const groupOf = (
  { maxDocument, maxDegree }: Manifest,
  { tokens, degree }: { readonly tokens?: number; readonly degree?: number },
): GroupSize => ({
  tokens: tokens ?? Math.min(DEFAULT_TOKENS, maxDocument?.tokens ?? DEFAULT_TOKENS),
  degree: degree ?? Math.min(DEFAULT_DEGREE, maxDegree),
});

async function writePage(pkg: Package, file: string, json: boolean): Promise<void> {
  const { reportOfPackage } = await import('../report/report.js');
  const { writeFileAtomic } = await import('../files/atomic.js');
  const page = Buffer.from(reportOfPackage(pkg));
  await writeFileAtomic(file, (handle) => handle.writeFile(page));
  if (json) printJson({ html: file, bytes: page.length });
  else print(`${shown(file)} written, ${formatBytes(page.length)}`);
}

function show(report: Report, all: boolean): void {
  const { model, group } = report;
  print(`${out.bold(shown(model.name))}  ${out.dim(`package ${report.package.hash.slice(0, 12)}`)}`);
  for (const line of table([
    ['source', `${shown(model.source)} ${out.dim(`sha256 ${model.sha256.slice(0, 12)}…`)}`],
    ['parameters', `${formatCount(model.elements)} elements, ${formatCount(model.trainedElements)} trained`],
    ['vocabulary', formatCount(model.vocabulary)],
    ['loss', lossText(model.loss)],
    ['degrees', `1 to ${model.maxDegree} ranks a sequence (query heads)`],
    [
      'documents',
      model.maxDocument === undefined
        ? 'of any length'
        : `up to ${model.maxDocument.tokens} tokens: ${shown(model.maxDocument.reason)}`,
    ],
    ['recognised', recognizedText(report.recognized)],
    [
      'optimizer',
      Object.entries(report.optimizer)
        .map(([key, value]) => `${key} ${value}`)
        .join(', '),
    ],
  ]))
    print(line);
  section('Parameters', parameterLines(report.parameters, all));
  section('Placements (train program)', placementLines(report, all));
  const at = `${plural(group.tokens, 'token')}, ${plural(group.degree, 'rank')} a group`;
  section(`FLOPs of a group (${at})`, flopLines(report));
  section(`Exchanges (${at})`, exchangeLines(report));
  section('Segments', segmentLines(report));
  section(`Peak memory of a rank (${at})`, peakLines(report, all));
  if (report.notes.length > 0)
    section(
      'Notes',
      (all ? report.notes.map(shown) : foldNotes(report.notes)).map((note) => `  ${note}`),
    );
}

const FOLD_ABOVE = 30;
/** Layer 2 before layer 10. */
const naturally = new Intl.Collator('en', { numeric: true });

/** Long lists are folded: rows that differ in numbers only (layers) become one. */
function parameterLines(parameters: readonly ParameterEntry[], all: boolean): string[] {
  const groups = new Map<string, ParameterEntry[]>();
  const fold = !all && parameters.length > FOLD_ABOVE;
  const sorted = parameters.toSorted((a, b) =>
    naturally.compare(a.torchName ?? a.name, b.torchName ?? b.name),
  );
  sorted.forEach((p, i) => {
    const name = p.torchName ?? p.name;
    const key = fold
      ? [name.replace(/\d+/g, '*'), p.shape.join(), p.trainable, p.reason, p.tiedTo?.name].join('\n')
      : String(i);
    groups.set(key, [...(groups.get(key) ?? []), p]);
  });
  const rows = [...groups.values()].map((members) => {
    const p = members[0]!;
    const many = members.length > 1;
    const torch = p.torchName === undefined ? '' : shown(many ? commonName(members) : p.torchName);
    return [
      `${shown(p.name)}${many ? ` … × ${members.length}` : ''}`,
      `${torch}${p.torchLayout === 'transposed' ? out.dim(' ᵀ') : ''}`,
      `[${p.shape.join(', ')}]`,
      p.trainable ? out.green('yes') : out.yellow('no'),
      `${shown(p.reason)}${p.tiedTo === undefined ? '' : `; tied to ${shown(p.tiedTo.name)}`}`,
    ];
  });
  const lines = table(rows, { head: ['name', 'torch name', 'shape', 'trained', 'why'] });
  return fold && rows.length < parameters.length
    ? [...lines, out.dim(`  ${plural(parameters.length, 'parameter')}; --all lists each`)]
    : lines;
}

/** The torch name with `*` where members differ. */
function commonName(members: readonly ParameterEntry[]): string {
  const split = members.map((p) => (p.torchName ?? p.name).split(/(\d+)/));
  return split[0]!.map((part, i) => (split.every((other) => other[i] === part) ? part : '*')).join('');
}

function placementLines(report: Report, all: boolean): string[] {
  const data = report.inputs.filter(({ role }) => role !== 'parameter');
  const parameters = report.inputs.filter(({ role }) => role === 'parameter');
  const sharded = parameters.filter(({ type }) => type.includes('@'));
  const { all: exchanges } = report.exchanges;
  const perLayer = report.exchanges.layers === 0 ? 0 : 2;
  const listed =
    all || exchanges.length <= 4 * perLayer
      ? exchanges
      : [...exchanges.slice(0, perLayer), ...exchanges.slice(-perLayer)];
  return [
    ...table(data.map(({ name, type }) => ['input', shown(name), type])),
    `  ${plural(parameters.length, 'parameter')}, ${
      sharded.length === 0
        ? 'whole on every rank'
        : `${sharded.length} sharded: ${sharded.map((p) => shown(p.name)).join(', ')}`
    }`,
    ...table(
      listed.map((e) => [`#${e.at}`, e.phase, shown(e.label), `${folded(e, 'from')} → ${folded(e, 'to')}`]),
    ),
    ...(listed.length < exchanges.length
      ? [out.dim(`  the first and last of ${plural(exchanges.length, 'exchange')}; --all lists each`)]
      : []),
  ];
}

const folded = (exchange: Exchange, side: 'from' | 'to'): string => [...new Set(exchange[side])].join(' ');

function flopLines({ flops, group }: Report): string[] {
  return Object.entries(flops)
    .filter(([name]) => name !== 'update')
    .flatMap(([name, { formula, group: total, byOp }]) => [
      `  ${out.bold(name)}  ${formatCount(total)}FLOP, ${formatCount(total / group.degree)}FLOP a rank  ${out.dim(`= ${formula}`)}`,
      ...table(
        byOp
          .slice(0, 6)
          .filter((op) => op.group > 0)
          .map((op) => [
            `  ${op.op}`,
            `${formatCount(op.group)}FLOP`,
            `${((100 * op.group) / total).toFixed(1)} %`,
            out.dim(op.formula),
          ]),
        { align: ['left', 'right', 'right', 'left'] },
      ),
    ]);
}

function exchangeLines({ exchanges, group }: Report): string[] {
  const { layers, forward, backward } = exchanges;
  if (layers === 0) return ['  none: the model has no attention'];
  const row = (name: string, { count, bytes }: { count: number; bytes: number }): string[] => [
    name,
    `${formatRatio(count, layers)} a layer`,
    `${count} in all`,
    `${formatBytes(bytes / layers)} a layer`,
    `${formatBytes(bytes)} in all`,
    out.dim(`${bytes} B`),
  ];
  const formula = exchanges.formulaBytes ?? 0;
  return [
    ...table([row('forward', forward), row('backward', backward)]),
    `  S·(2H + 2·Hkv)·D·4·(P−1)/P = ${Math.round(formula)} B a layer forward; ${
      exchanges.exact
        ? 'exact, because P divides the K/V heads'
        : `P = ${group.degree} does not divide the K/V heads: some travel to two ranks, or shares are uneven`
    }`,
    `  sent by all ${plural(group.degree, 'rank')} of a group together, for each micro-batch`,
  ];
}

const formatRatio = (a: number, b: number): string =>
  Number.isInteger(a / b) ? String(a / b) : (a / b).toFixed(2);

const segmentLines = ({ segments }: Report): string[] =>
  table(
    Object.entries(segments).map(([name, { distinct, calls }]) => [
      name,
      `${distinct} distinct`,
      `${plural(calls, 'call')}`,
    ]),
  );

/** The rank that needs most; every rank with `all`, and how far apart they are without. */
const peakLines = ({ peak, ranks }: Report, all: boolean): string[] =>
  table(
    Object.entries(all ? ranks : peak).flatMap(([name, plans]) =>
      [plans].flat().map((plan) => {
        const parts = [
          `${formatBytes(plan.persistentBytes)} inputs and outputs`,
          ...(plan.stateBytes === 0 ? [] : [`${formatBytes(plan.stateBytes)} optimizer state`]),
          `${formatBytes(plan.arenaBytes)} arena`,
          `${formatBytes(plan.temporariesBytes)} inside the largest instruction`,
        ];
        const least = Math.min(...ranks[name]!.map((rank) => rank.peakBytes));
        const others = all || least === plan.peakBytes ? '' : `, others from ${formatBytes(least)}`;
        const sum = out.dim(`= ${parts.join(' + ')} (rank ${plan.rank}${others})`);
        return [name, formatBytes(plan.peakBytes), sum];
      }),
    ),
  );
