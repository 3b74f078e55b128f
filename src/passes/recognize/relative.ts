/** Biases by the offset between key and query: a table with a row an offset, given or trained (arXiv 1910.10683). */
import { numberAttr, numbersAttr, type Value } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';
import { constantOf } from '../../ir/size.js';
import { tensorType } from '../../ir/type.js';
import { eitherOrder, operandOf, operandsOf, reshapeTo } from '../match.js';
import { byHead } from './bias.js';
import { throughElementwise, throughMove, type Located } from './roles.js';

/** Row r is for key − query = r − before; offsets beyond the table take its ends. */
export interface Relative {
  readonly before: number;
  /** f32[rows, query heads] */
  readonly table: (build: Builder) => Value;
}

const changed = ({ before, table }: Relative, change: (build: Builder, table: Value) => Value): Relative => ({
  before,
  table: (build) => change(build, table(build)),
});

export const scaledTable = (relative: Relative, by: number): Relative =>
  by === 1
    ? relative
    : changed(relative, (build, table) => {
        const factor = build.one('constant', [], { dtype: 'f32', shape: [], data: [by] });
        return build.one('mul', [table, factor]);
      });

const kindsOf = ({ roles }: Located): string =>
  roles.flatMap(({ kind }) => (kind === 'unit' ? [] : [kind])).join();

const isRelative = ({ node }: Value): boolean =>
  node.attrs['form'] === 'mask' && node.attrs['kind'] === 'relative';

/** Reads an addend of the scores as a table by offset; undefined when it is none. */
export function relativeOf(here: Located, heads: number): Relative | undefined {
  const { value } = here;
  if (isRelative(value)) return givenTable(here, heads);
  if (value.node.op === 'gather' && isRelative(value.node.operands[1]!)) return readTable(here, heads);
  const opposite = operandOf(value, 'neg');
  const found = opposite && inner(here, opposite, heads);
  if (found !== undefined) return scaledTable(found, -1);
  const [divided, divisor] = operandsOf(value, 'div') ?? [];
  const pairs = divided && divisor ? [[divided, divisor] as const] : eitherOrder(value, 'mul');
  for (const [x, other] of pairs) {
    const perHead = numbersAHead(here, other, heads);
    const table = perHead && inner(here, x, heads);
    if (table !== undefined)
      return changed(table, (build, rows) => build.one(value.node.op, [rows, perHead!(build)]));
  }
  const moved = throughMove(here);
  return moved && relativeOf(moved, heads);
}

const inner = (here: Located, operand: Value, heads: number): Relative | undefined => {
  const located = throughElementwise(here, operand);
  return located && relativeOf(located, heads);
};

/** A value that is one number a head, or one for all, as [1, heads] or less. */
function numbersAHead(here: Located, operand: Value, heads: number): ((build: Builder) => Value) | undefined {
  const located = throughElementwise(here, operand, 'heads and tokens');
  const kinds = located && kindsOf(located);
  if (kinds === '') return (build) => reshapeTo(build, operand, tensorType('f32', []));
  const wide = located?.value.type.dims.some((d) => constantOf(d.size) === heads);
  if (kinds !== 'head' || wide !== true) return undefined;
  return (build) => reshapeTo(build, operand, tensorType('f32', [1, heads]));
}

/** A function that was evaluated when the model was read. */
function givenTable(here: Located, heads: number): Relative | undefined {
  const { value, roles } = here;
  const { attrs } = value.node;
  if (!kindsOf(here).endsWith('query,key') || value.type.dtype !== 'f32') return undefined;
  const shape = value.type.dims.slice(0, -2).map((d) => constantOf(d.size) ?? 1);
  const rows = shape.reduce((product, n) => product * n, 1);
  const own = byHead([...Array.from({ length: rows }).keys()], shape, roles, heads);
  const [count, table] = [numberAttr(attrs, 'count'), numbersAttr(attrs, 'table')];
  const data = Array.from({ length: count * heads }, (_, at) => {
    return table[own[at % heads]! * count + Math.floor(at / heads)]!;
  });
  return {
    before: numberAttr(attrs, 'before'),
    table: (build) => build.one('constant', [], { dtype: 'f32', shape: [count, heads], data }),
  };
}

/** Rows of a stored table, chosen by the offset. */
function readTable(here: Located, heads: number): Relative | undefined {
  const [stored, ids] = here.value.node.operands as readonly [Value, Value];
  const { attrs } = ids.node;
  const [, columns, more] = stored.type.dims;
  const perHead = columns !== undefined && more === undefined && constantOf(columns.size) === heads;
  const inOrder = here.roles.at(-1)?.kind === 'head' || heads === 1;
  if (!perHead || !inOrder || !/^query,key(,head)?$/.test(kindsOf(here))) return undefined;
  const [count, table] = [numberAttr(attrs, 'count'), numbersAttr(attrs, 'table')];
  if (table.length !== count) return undefined;
  return {
    before: numberAttr(attrs, 'before'),
    table: (build) => {
      const rows = build.one('constant', [], { dtype: 'i32', shape: [count], data: [...table] });
      return build.one('gather', [stored, rows]);
    },
  };
}
