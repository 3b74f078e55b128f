import type { Command } from 'commander';
import type { ExplainedNode, Explanation } from '../report/explain.js';
import { groupOf } from './inspect.js';
import { jsonOption, positive } from './options.js';
import { formatBytes, formatCount, out, plural, print, printJson, section, shown } from './output.js';

interface ExplainOptions {
  readonly tokens?: number;
  readonly degree?: number;
  readonly json?: boolean;
}

export function declareExplain(program: Command): void {
  program
    .command('explain')
    .summary('tell what became of an ONNX node')
    .description(
      'Shows what each pass made of an ONNX node: IR nodes, placements, exchanges and why, gradients, and where they run.',
    )
    .argument('<package>', 'directory that ithaca compile wrote')
    .argument(
      '<node>',
      'name of an ONNX node or of a value it gives; a part of the name, when only one has it',
    )
    .option('--tokens <n>', 'tokens of a group, for costs', positive)
    .option('--degree <p>', 'ranks of a group, for costs', positive)
    .addOption(jsonOption('the explanation'))
    .addHelpText(
      'after',
      `
Examples:
  $ ithaca explain llama.ithaca node_Softmax_253
  $ ithaca explain llama.ithaca node_linear_4 --json | jq '.programs[0].nodes[].types'`,
    )
    .action(async (directory: string, query: string, options: ExplainOptions) => {
      const { openPackage } = await import('../package/read.js');
      const { explainNode } = await import('../report/explain.js');
      const pkg = await openPackage(directory);
      const explanation = explainNode(pkg, query);
      if (options.json === true) {
        printJson(explanation);
        return;
      }
      const { checkDegree } = await import('../runtime/session/plan.js');
      const group = groupOf(pkg.manifest, options);
      checkDegree(group.degree, pkg.manifest);
      const { documentLengths, evaluate, sentBytes } = await import('../report/client/sizes.js');
      const documents = documentLengths(group.tokens, pkg.manifest.maxDocument?.tokens);
      show(explanation, {
        at: `${plural(group.tokens, 'token')}, ${plural(group.degree, 'rank')}`,
        flops: (formula) => evaluate(formula, documents),
        sent: ({ op, operands, types }) =>
          sentBytes(
            op,
            operands.map(({ type }, i) => [type, types[i]!] as const),
            group,
          ),
      });
    });
}

interface Costs {
  readonly at: string;
  readonly flops: (formula: string) => number;
  readonly sent: (node: ExplainedNode) => number;
}

function show(explanation: Explanation, costs: Costs): void {
  const { node, onnx, part, history, programs, reaches, notes } = explanation;
  const where = part === undefined ? '' : out.dim(`  in ${part}`);
  print(`${out.bold(shown(node))}${onnx === undefined ? '' : `  ${shown(onnx.op)}`}${where}`);
  if (onnx !== undefined)
    print(`  ${out.dim('reads')} ${names(onnx.inputs)}  ${out.dim('gives')} ${names(onnx.outputs)}`);
  if (notes.length > 0)
    section(
      'What was said about it',
      notes.map((note) => `  ${shown(note)}`),
    );
  section('Passes', history.length === 0 ? [`  ${evaluated(explanation)}`] : history.flatMap(passLines));
  if (history.length > 0 && programs.length === 0)
    print(
      `  nothing of that name is left${reaches.length === 0 ? '' : `: what it computed is in ${names(reaches)}`}`,
    );
  for (const { name, nodes } of programs)
    section(
      `In ${name} (${costs.at})`,
      nodes.flatMap((own) => nodeLines(own, costs)),
    );
}

const names = (list: readonly string[]): string =>
  list.length === 0 ? 'nothing' : list.map((name) => (name === '' ? '–' : shown(name))).join(', ');

const evaluated = ({ reaches }: Explanation): string =>
  `evaluated at import (shapes, masks, positions) or read by nobody: it never reached the IR${
    reaches.length === 0 ? '' : `; the first nodes behind it that did: ${names(reaches)}`
  }`;

function passLines({ pipeline, pass, removed, added }: Explanation['history'][number]): string[] {
  const title = `  ${out.cyan(pass)}${pipeline === 'front' ? '' : out.dim(` (${pipeline})`)}`;
  const line = (sign: string, node: string): string => `    ${sign} ${shown(node)}`;
  return [
    title,
    ...counted(removed).map((node) => line(out.red('-'), node)),
    ...counted(added).map((node) => line(out.green('+'), node)),
  ];
}

/** Equal texts once, with how often. */
function counted(texts: readonly string[]): string[] {
  const counts = new Map<string, number>();
  for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
  return [...counts].map(([text, n]) => (n === 1 ? text : `${text} (× ${n})`));
}

function nodeLines(node: ExplainedNode, costs: Costs): string[] {
  const { name, op, types, operands, attrs, phase, instruction, flops, why } = node;
  const cost =
    why !== undefined && op !== 'shard'
      ? `${formatBytes(costs.sent(node))} sent`
      : flops === undefined
        ? ''
        : `${formatCount(costs.flops(flops))}FLOP ${out.dim(`= ${flops}`)}`;
  const where =
    instruction === undefined
      ? 'a constant of the segments that read it'
      : `instruction ${instruction.index}, ${shown(instruction.label)}${
          instruction.file === undefined ? '' : `, ${shown(instruction.file)}`
        }`;
  const phaseText = phase === 'forward' ? '' : `  ${out.yellow(phase)}`;
  return [
    `  ${shown(name)} = ${out.bold(op)} ${operands.map((o) => shown(o.name)).join(', ')}${attrs === '' ? '' : ` ${out.dim(shown(attrs))}`}${phaseText}`,
    `      ${operands.map((o) => shown(o.type)).join(', ')}${operands.length === 0 ? '' : ' → '}${types.map(shown).join(', ')}`,
    ...(why === undefined ? [] : [`      ${shown(why)}`]),
    `      ${out.dim(where)}${cost === '' ? '' : `; ${cost}`}`,
  ];
}
