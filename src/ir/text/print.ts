import {
  inputName,
  topologicalOrder,
  type Attr,
  type Attrs,
  type Graph,
  type Node,
  type Value,
} from '../graph.js';
import type { Size } from '../size.js';
import { printType } from '../type.js';

const isSize = (value: unknown): value is Size =>
  typeof value === 'object' && value !== null && 'terms' in value;

export function printNumber(value: number): string {
  if (Number.isNaN(value)) return 'nan';
  if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
  return Object.is(value, -0) ? '-0' : String(value);
}

function printAttr(value: Attr): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value === 'number') return printNumber(value);
  if (typeof value === 'boolean') return String(value);
  if (isSize(value)) return value.key;
  return `[${value.map((v) => printAttr(v)).join(', ')}]`;
}

/** ` {scale = 0.5}`, or nothing. */
export const printAttrs = (attrs: Attrs, hidden: readonly string[] = []): string => {
  const shown = Object.entries(attrs).filter(([key, value]) => value !== undefined && !hidden.includes(key));
  return shown.length === 0
    ? ''
    : ` {${shown.map(([key, value]) => `${key} = ${printAttr(value!)}`).join(', ')}}`;
};

const bare = /^[A-Za-z_][\w.]*$/;

/** `%name`, or `%"any text"` for names that are not words. */
export const printName = (name: string): string =>
  bare.test(name) ? `%${name}` : `%${JSON.stringify(name)}`;

/** `%0`, `%7#1`, `%weight`: what each value of a graph is called in its text. */
export function nameValues(graph: Graph): ReadonlyMap<Value, string> {
  const names = new Map<Value, string>();
  const taken = new Set<string>();
  for (const input of graph.inputs) {
    names.set(input, printName(inputName(input)));
    taken.add(inputName(input));
  }
  let next = 0;
  for (const node of topologicalOrder(graph)) {
    if (node.op === 'input') continue;
    while (taken.has(String(next))) next++;
    const name = `%${next++}`;
    node.results.forEach((value, i) => names.set(value, node.results.length === 1 ? name : `${name}#${i}`));
  }
  return names;
}

/**
 * The one text form of the IR, for every phase. `parseGraph` is its inverse; printing what was parsed gives
 * the same text.
 */
export function printGraph(graph: Graph, indent = ''): string {
  const names = nameValues(graph);
  const inputs = graph.inputs.map(
    (v) =>
      `${names.get(v)!}: ${printType(v.type)}${printAttrs(v.node.attrs, ['name'])}${printLoc(v.node.loc)}`,
  );
  const lines: string[] = [];
  for (const node of topologicalOrder(graph)) {
    if (node.op === 'input') continue;
    const name = nodeName(node, names);
    const operands = node.operands.map((v) => names.get(v)!).join(', ');
    const types = node.results.map((v) => printType(v.type)).join(', ');
    const region = node.region === undefined ? '' : ` ${printGraph(node.region, `${indent}  `)}`;
    lines.push(
      `${indent}  ${name} = ${node.op}${operands === '' ? '' : ` ${operands}`}${printAttrs(node.attrs)}${region} : ${types}${printLoc(node.loc)}`,
    );
  }
  const outputs = graph.outputs.map(({ name, value }) => `${JSON.stringify(name)} = ${names.get(value)!}`);
  const separator = inputs.length === 0 ? '' : `\n${indent}  `;
  return [
    `graph ${printName(graph.name).replace('%', '@')}${graph.order === undefined ? '' : ' scheduled'} mesh {${graph.axes.join(', ')}} (${separator}${inputs.join(`,${separator}`)}) {`,
    ...lines,
    `${indent}  return ${outputs.join(', ')}`,
    `${indent}}`,
  ].join('\n');
}

/** `%7`, whose results are `%7#0` and `%7#1` when there are several. */
export const nodeName = (node: Node, names: ReadonlyMap<Value, string>): string =>
  node.results.length === 1 ? names.get(node.results[0]!)! : names.get(node.results[0]!)!.replace(/#0$/, '');

const printLoc = (loc: string | undefined): string => (loc === undefined ? '' : ` @${JSON.stringify(loc)}`);
