import { UserError } from '../../errors.js';
import { emit } from '../build.js';
import {
  makeInput,
  makeNode,
  type Attr,
  type Attrs,
  type Graph,
  type InputRole,
  type NamedValue,
  type Node,
  type Value,
} from '../graph.js';
import { TypeMismatch } from '../op.js';
import { isOpName } from '../ops/index.js';
import { constantOf, parseSize } from '../size.js';
import { parseType, printType, sameType, type Axis, type Type } from '../type.js';

/** Cursor over IR text; errors carry the line. */
class Reader {
  private at = 0;

  constructor(private readonly text: string) {}

  fail(message: string): never {
    const line = this.text.slice(0, this.at).split('\n').length;
    throw new UserError(`line ${line} of the IR: ${message}`);
  }

  private skip(): void {
    const blank = /(?:\s|\/\/[^\n]*)*/y;
    blank.lastIndex = this.at;
    blank.exec(this.text);
    this.at = blank.lastIndex;
  }

  match(pattern: RegExp): string | undefined {
    this.skip();
    const sticky = new RegExp(pattern.source, 'y');
    sticky.lastIndex = this.at;
    const found = sticky.exec(this.text)?.[0];
    if (found !== undefined) this.at = sticky.lastIndex;
    return found;
  }

  take(pattern: RegExp, what: string): string {
    return (
      this.match(pattern) ??
      this.fail(`expected ${what}, found '${this.text.slice(this.at, this.at + 30).split('\n')[0]}'`)
    );
  }

  is(literal: string): boolean {
    this.skip();
    if (!this.text.startsWith(literal, this.at)) return false;
    this.at += literal.length;
    return true;
  }

  expect(literal: string): void {
    if (!this.is(literal))
      this.fail(`expected '${literal}', found '${this.text.slice(this.at, this.at + 30).split('\n')[0]}'`);
  }

  list<T>(close: string, item: () => T): T[] {
    const items: T[] = [];
    while (!this.is(close)) {
      if (items.length > 0) this.expect(',');
      items.push(item());
    }
    return items;
  }

  string(): string {
    const text = this.take(/"(?:[^"\\]|\\.)*"/, 'a string');
    try {
      return JSON.parse(text) as string;
    } catch {
      return this.fail(`${text} is not a string`);
    }
  }

  atEnd(): boolean {
    this.skip();
    return this.at >= this.text.length;
  }
}

/** Parses the text that `printGraph` prints. Types are inferred again and must agree with those written. */
export function parseGraph(text: string): Graph {
  const reader = new Reader(text);
  const graph = readGraph(reader, 0);
  if (!reader.atEnd()) reader.fail('text after the graph');
  return graph;
}

function readGraph(r: Reader, depth: number): Graph {
  if (depth > 8) r.fail('regions nested too deep');
  r.expect('graph');
  const name = readName(r, '@');
  const scheduled = r.is('scheduled');
  r.expect('mesh');
  r.expect('{');
  const axes = r.list('}', () => r.take(/sp|world/, 'an axis') as Axis);
  const values = new Map<string, Value>();
  r.expect('(');
  const inputs = r.list(')', () => readInput(r, values));
  r.expect('{');
  const order: Node[] = inputs.map((v) => v.node);
  while (!r.is('return')) order.push(readNode(r, values, depth));
  const outputs = r.list('}', (): NamedValue => {
    const output = r.string();
    r.expect('=');
    return { name: output, value: readValue(r, values) };
  });
  return scheduled ? { name, axes, inputs, outputs, order } : { name, axes, inputs, outputs };
}

const readName = (r: Reader, sigil: string): string => {
  r.expect(sigil);
  return r.match(/[\w.]+/) ?? r.string();
};

function define(r: Reader, values: Map<string, Value>, key: string, value: Value): void {
  if (values.has(key)) r.fail(`%${key} is defined twice`);
  values.set(key, value);
}

function readInput(r: Reader, values: Map<string, Value>): Value {
  const name = readName(r, '%');
  r.expect(':');
  const type = readType(r);
  const { role, ...attrs } = readAttrs(r);
  const value = makeInput(name, (role ?? 'data') as InputRole, type, attrs, readLoc(r));
  define(r, values, name, value);
  return value;
}

function readType(r: Reader): Type {
  return parseType(r.take(/(?:f32|i32|bool)\[[^\]]*\](?:\{U:(?:sp|world)\})?/, 'a type'));
}

const readLoc = (r: Reader): string | undefined => (r.is('@') ? r.string() : undefined);

function readValue(r: Reader, values: ReadonlyMap<string, Value>): Value {
  const name = readName(r, '%');
  const index = r.is('#') ? `#${r.take(/\d+/, 'a result index')}` : '';
  return values.get(name + index) ?? r.fail(`%${name}${index} is not defined`);
}

function readNode(r: Reader, values: Map<string, Value>, depth: number): Node {
  const name = readName(r, '%');
  r.expect('=');
  const op = r.take(/[a-z_]\w*/, 'an op');
  if (!isOpName(op) || op === 'input') r.fail(`there is no op '${op}'`);
  const operands: Value[] = [];
  while (r.match(/(?=%)/) !== undefined) {
    operands.push(readValue(r, values));
    if (!r.is(',')) break;
  }
  const attrs = readAttrs(r);
  const region = r.match(/(?=graph\b)/) === undefined ? undefined : readGraph(r, depth + 1);
  r.expect(':');
  const types = [readType(r)];
  while (r.is(',')) types.push(readType(r));
  const node = checkedNode(r, op, operands, attrs, types, readLoc(r), region);
  node.results.forEach((value, i) =>
    define(r, values, node.results.length === 1 ? name : `${name}#${i}`, value),
  );
  return node;
}

function checkedNode(
  r: Reader,
  op: string,
  operands: readonly Value[],
  attrs: Attrs,
  types: readonly Type[],
  loc: string | undefined,
  region: Graph | undefined,
): Node {
  try {
    const inferred = emit(op, operands, attrs, { loc, region });
    if (inferred.length !== types.length || inferred.some((v, i) => !sameType(v.type, types[i]!)))
      r.fail(
        `${op} has type ${inferred.map((v) => printType(v.type)).join(', ')}, not ${types.map(printType).join(', ')}`,
      );
  } catch (error) {
    if (error instanceof TypeMismatch) r.fail(error.message);
    throw error;
  }
  return makeNode({ op, operands, attrs, types, loc, region });
}

function readAttrs(r: Reader): Record<string, Attr> {
  const attrs = Object.create(null) as Record<string, Attr>;
  if (!r.is('{')) return attrs;
  for (const [key, value] of r.list('}', () => {
    const key = r.take(/[A-Za-z_]\w*/, 'an attribute');
    r.expect('=');
    return [key, readAttr(r)] as const;
  }))
    attrs[key] = value;
  return attrs;
}

function readAttr(r: Reader): Attr {
  if (r.is('[')) return r.list(']', () => readAttr(r)) as Attr;
  if (r.match(/(?=")/) !== undefined) return r.string();
  const word = r.take(/[-\w.+*]+(?:\s*\+\s*-?[\w*]+)*/, 'an attribute value');
  if (word === 'true' || word === 'false') return word === 'true';
  if (word === 'inf' || word === '-inf') return word === 'inf' ? Infinity : -Infinity;
  if (/^-?[\d.]/.test(word) && Number.isFinite(Number(word))) return Number(word);
  const size = parseSize(word);
  return constantOf(size) ?? size;
}
