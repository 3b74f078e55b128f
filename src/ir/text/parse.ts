import { UserError } from '../../errors.js';
import { emit } from '../build.js';
import {
  makeInput,
  type Attr,
  type Graph,
  type InputRole,
  type NamedValue,
  type Node,
  type Value,
} from '../graph.js';
import { TypeMismatch } from '../op.js';
import { isOpName } from '../ops/index.js';
import { constantOf, parseSize, type Size } from '../size.js';
import { parseType, printType, sameType, type Axis, type Type } from '../type.js';

/** Cursor over IR text; errors carry the line. */
class Reader {
  private at = 0;

  constructor(private readonly text: string) {}

  /** Where the next token starts. */
  position(): number {
    this.skip();
    return this.at;
  }

  fail(message: string, at = this.at): never {
    const line = this.text.slice(0, at).split('\n').length;
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

  /** Runs a parser of a part of the text; its errors get the line. */
  within<T>(parse: () => T, at = this.at): T {
    try {
      return parse();
    } catch (error) {
      if (error instanceof TypeMismatch || error instanceof UserError) this.fail(error.message, at);
      throw error;
    }
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

function define(r: Reader, values: Map<string, Value>, key: string, value: Value, at?: number): void {
  if (values.has(key)) r.fail(`%${key.slice(key.indexOf('#') + 1)} is defined twice`, at);
  values.set(key, value);
}

const ROLES: readonly InputRole[] = ['data', 'parameter', 'gradient', 'state', 'scalar'];

/** Names may hold any character, `#` too: the result index goes first. */
const keyOf = (name: string, index = ''): string => `${index}#${name}`;

function readInput(r: Reader, values: Map<string, Value>): Value {
  const name = readName(r, '%');
  r.expect(':');
  const type = readType(r);
  const { role = 'data', ...attrs } = readAttrs(r);
  if (!ROLES.some((known) => known === role)) r.fail(`the role of %${name} is none of ${ROLES.join(', ')}`);
  if (Object.hasOwn(attrs, 'name')) r.fail(`%${name} has an attribute called name`);
  const value = makeInput(name, role as InputRole, type, attrs, readLoc(r));
  define(r, values, keyOf(name), value);
  return value;
}

function readType(r: Reader): Type {
  const text = r.take(/(?:f32|i32|bool)\[[^\]]*\](?:\{U:(?:sp|world)\})?/, 'a type');
  return r.within(() => parseType(text));
}

const readLoc = (r: Reader): string | undefined => (r.is('@') ? r.string() : undefined);

function readValue(r: Reader, values: ReadonlyMap<string, Value>): Value {
  const name = readName(r, '%');
  const index = r.is('#') ? r.take(/\d+/, 'a result index') : '';
  return (
    values.get(keyOf(name, index)) ?? r.fail(`%${name}${index === '' ? '' : `#${index}`} is not defined`)
  );
}

function readNode(r: Reader, values: Map<string, Value>, depth: number): Node {
  const start = r.position();
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
  const loc = readLoc(r);
  const results = r.within(() => emit(op, operands, attrs, { loc, region }), start);
  const inferred = results.map((v) => printType(v.type)).join(', ');
  if (results.length !== types.length || results.some((v, i) => !sameType(v.type, types[i]!)))
    r.fail(`${op} has type ${inferred}, not ${types.map(printType).join(', ')}`, start);
  for (const value of results)
    define(r, values, results.length === 1 ? keyOf(name) : keyOf(name, String(value.index)), value, start);
  return results[0]!.node;
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
  if (!r.is('[')) return readScalar(r);
  const items = r.list(']', () => readScalar(r));
  if (items.some((v) => typeof v === 'boolean' || (typeof v === 'string') !== (typeof items[0] === 'string')))
    r.fail('a list holds numbers and sizes, or strings');
  return items as readonly (number | Size)[] | readonly string[];
}

function readScalar(r: Reader): number | string | boolean | Size {
  if (r.match(/(?=")/) !== undefined) return r.string();
  const word = r.take(/[-\w.+*]+(?:\s*\+\s*-?[\w*]+)*/, 'an attribute value');
  if (word === 'true' || word === 'false') return word === 'true';
  if (word === 'inf' || word === '-inf') return word === 'inf' ? Infinity : -Infinity;
  if (word === 'nan') return NaN;
  if (/^-?[\d.]/.test(word) && Number.isFinite(Number(word))) return Number(word);
  const size = r.within(() => parseSize(word));
  return constantOf(size) ?? size;
}
