/** `docs/families.md`, from the results. */
import { GRADIENT_BAR, LOSS_BAR } from './check.js';
import type { Results, Row } from './results.js';

/** Text of the whole page. */
export function familiesPage({ torch, transformers, rows }: Results): string {
  const count = (result: Row['outcome']['result']): number =>
    rows.filter(({ outcome }) => outcome.result === result).length;
  const families = new Set(rows.map(({ family }) => family));
  const trained = new Set(
    rows.flatMap(({ family, outcome }) => (outcome.result === 'trains' ? [family] : [])),
  );
  return `# Families

Made by \`node dist/test/families/tool/main.js --python <python> --optimum-python <python>\`; nothing in it is written by hand.
Each row is a tiny model of a Hugging Face model type (torch ${torch}, transformers ${transformers}, for Optimum the older one it
asks for; random weights, two layers), exported and compiled.

**trains**: on 1 rank and on 4 in one group, the loss is within ${LOSS_BAR} of PyTorch's and every gradient within ${GRADIENT_BAR}
(‖g − g′‖ / ‖g‖, the worst parameter, shown here); three AdamW steps give the same losses on both, and ONNX Runtime computes the
trained loss from the exported file, unless it has no kernel for one of its operations (as falcon-alibi's products in bfloat16).
**refused**: the message that \`ithaca compile\` gives. **not exported**: the exporter failed.

${families.size} families, ${trained.size} of them train; ${rows.length} exports: ${count('trains')} train, ${count('refused')} are refused, ${count('wrong')} are wrong, ${count('not exported')} were not exported.

| family | exporter | opset | attention | inputs | result | |
| --- | --- | --- | --- | --- | --- | --- |
${rows.map(line).join('\n')}
`;
}

function line({ family, exporter, opset, attention, inputs, frozen, outcome }: Row): string {
  const given = frozen === undefined ? inputs : `${inputs}, ${frozen} fixed`;
  return `| ${[family, exporter, opset, attention, given, outcome.result, detail(outcome)].map((cell) => escaped(String(cell))).join(' | ')} |`;
}

function detail(outcome: Row['outcome']): string {
  if (outcome.result === 'trains') {
    const left =
      outcome.untrained === undefined
        ? ''
        : `; ${outcome.untrained} parameters of one element are not trained`;
    return `gradient ${outcome.gradientError.toExponential(0)}; ${outcome.recognized.join('; ')}${left}`;
  }
  const hint = outcome.result === 'refused' ? outcome.hint?.split('\n')[0] : undefined;
  return hint === undefined ? outcome.message : `${outcome.message} — ${hint}`;
}

/** Tables have no line breaks and no bars of their own. */
const escaped = (cell: string): string =>
  cell.replaceAll(/\s+/g, ' ').replaceAll('|', '\\|').replaceAll('<', '&lt;');
