/** docs/ops.md, from the importer's tables, the lists of operators, and what the cases came to. */
import { onnxOp } from '../../src/ir/onnx/import/ops/index.js';
import { EXPANDED_OPERATORS } from '../../src/ir/onnx/inline.js';
import { refusalOf } from '../../src/ir/onnx/import/ops/refused.js';
import { EXPANDED, type Operators, type Results, type Tally } from './results.js';

type Status =
  | { readonly kind: 'supported' | 'decomposed' | 'evaluated' }
  | { readonly kind: 'expanded' | 'refused'; readonly text: string };

const NO_CASES: Tally = { becomes: [], passed: 0, evaluated: 0, failed: [], outside: {} };
/** IR operations that only name or order elements anew. */
const MOVES = new Set(['reshape', 'broadcast', 'transpose']);

/** What the importer does with an operator. */
export function statusOf(domain: string, opType: string, { becomes }: Tally = NO_CASES): Status {
  const text = domain === '' ? EXPANDED_OPERATORS.get(opType) : undefined;
  if (text !== undefined) return { kind: 'expanded', text };
  const op = onnxOp({ domain, opType });
  if (op === undefined) return { kind: 'refused', text: `it ${refusalOf({ domain, opType }).reason}` };
  if (op.translate === undefined) return { kind: 'evaluated' };
  return { kind: becomes.filter((name) => !MOVES.has(name)).length > 1 ? 'decomposed' : 'supported' };
}

const code = (names: readonly string[]): string => names.map((name) => `\`${name}\``).join(', ');
const plural = (count: number, one: string): string => `${count} ${one}${count === 1 ? '' : 's'}`;

function describe(status: Status, tally: Tally): string {
  switch (status.kind) {
    case 'supported':
    case 'decomposed':
      return tally.becomes.length === 0 ? status.kind : `${status.kind}: ${code(tally.becomes)}`;
    case 'evaluated':
      return 'evaluated at import';
    case 'expanded':
      return `expanded at import: ${status.text}`;
    case 'refused':
      return `refused: ${status.text}`;
  }
}

const inside = (tally: Tally): number => tally.passed + tally.evaluated + tally.failed.length;
const outsideCount = (tally: Tally): number => Object.values(tally.outside).reduce((a, b) => a + b, 0);

function casesText(status: Status, tally: Tally): string {
  const total = inside(tally);
  const passed = total === 0 ? '' : `${tally.passed + tally.evaluated} of ${total}`;
  const others = status.kind === 'refused' ? '' : outsideText(tally);
  return [passed, others].filter((text) => text !== '').join('; ');
}

const outsideText = (tally: Tally): string =>
  Object.entries(tally.outside)
    .map(([reason, count]) => `${count} outside: ${escaped(reason)}`)
    .join('; ');

const escaped = (text: string): string =>
  text.replaceAll('|', '\\|').replaceAll(/[<>*_[\]]/g, String.raw`\$&`);

const table = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');

export function renderPage(operators: Operators, results: Results): string {
  const tallyFor = (name: string): Tally => results[name] ?? NO_CASES;
  const standard = Object.entries(operators['ai.onnx']).map(([name, { since, deprecated }]) => {
    const status = statusOf('', name, tallyFor(name));
    const row = [
      name,
      since.join(', ') + (deprecated ? ' (deprecated)' : ''),
      describe(status, tallyFor(name)),
    ];
    return { status, row: [...row, casesText(status, tallyFor(name))] };
  });
  const own = operators['com.microsoft'].map((name) => {
    const tally = tallyFor(`com.microsoft.${name}`);
    const status = statusOf('com.microsoft', name, tally);
    return { name, status, row: [name, describe(status, tally), casesText(status, tally)] };
  });
  const refusals = new Map<string, string[]>();
  for (const { name, status } of own)
    if (status.kind === 'refused') refusals.set(status.text, [...(refusals.get(status.text) ?? []), name]);
  return `# Operators

Written by \`npm run coverage\`; the tests compare it with the importer's tables.

- **supported**: becomes one operation of ithaca's IR (beside reshapes), which is differentiated.
- **decomposed**: becomes several.
- **evaluated at import**: only as a function of sizes, positions and constants, by ONNX Runtime.
- **expanded at import**: replaced by what it holds.
- **refused**: with this reason, by the name of the node.

The same operator may also be evaluated at import, where it depends on nothing else. Opsets 13 to ${operators.opset} are read.

## ai.onnx

${standard.length} operators of ONNX ${operators.onnx}: ${countKinds(standard.map(({ status }) => status))}.

${casesSummary(results)}

${table(
  ['operator', 'opsets', 'ithaca', 'node tests passed'],
  standard.map(({ row }) => row),
)}

### Function bodies

Tests of functions spelled out in other operators: ${casesText({ kind: 'supported' }, tallyFor(EXPANDED))}.

## com.microsoft

${own.length} operators of ONNX Runtime ${operators.onnxruntime}: ${countKinds(own.map(({ status }) => status))}. Cases are compared with ONNX Runtime's own result.

${table(
  ['operator', 'ithaca', 'cases passed'],
  own.filter(({ status }) => status.kind !== 'refused').map(({ row }) => row),
)}

Refused:

${[...refusals].map(([text, names]) => `- ${text}: ${names.join(', ')}`).join('\n')}
`;
}

const KINDS = ['supported', 'decomposed', 'evaluated', 'expanded', 'refused'] as const;

const countKinds = (all: readonly Status[]): string =>
  KINDS.map((kind) => `${all.filter((status) => status.kind === kind).length} ${kind}`).join(', ');

/** Cases of operators that are not refused. */
function casesSummary(results: Results): string {
  const standard = Object.entries(results).filter(([name]) => !name.startsWith('com.microsoft.'));
  const tallies = standard.map(([, tally]) => tally);
  const sum = (count: (tally: Tally) => number): number =>
    tallies.reduce((total, tally) => total + count(tally), 0);
  const [within, failed] = [sum(inside), sum((tally) => tally.failed.length)];
  const accepted = standard.filter(
    ([name]) => name === EXPANDED || (!name.includes('.') && statusOf('', name).kind !== 'refused'),
  );
  const refusedHere = accepted.reduce((total, [, tally]) => total + outsideCount(tally), 0);
  return `Of ${plural(within + sum(outsideCount), 'node test')} of ONNX's backend suite, ${within} fall inside: **${within - failed} pass**, ${failed} fail (${sum((tally) => tally.evaluated)} of them are evaluated at import, the others run, with their operands as trained values, in the reference executor). ${sum(outsideCount) - refusedHere} test operators that are refused, ${refusedHere} something of a supported operator or a function body that is: the table says what.`;
}
