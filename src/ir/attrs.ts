import type { Attr, Attrs } from './graph.js';
import { TypeMismatch } from './op.js';

/** What an attribute holds; a list of words are its choices. */
export type AttrKind =
  | 'number'
  | 'integer'
  | 'boolean'
  | 'string'
  | 'numbers'
  | 'integers'
  | 'strings'
  | 'shape'
  | readonly string[];

/** Attributes an op reads, by name; a name that ends in `?` may be absent. An op may carry others besides. */
export type AttrKinds = Readonly<Record<string, AttrKind>>;

const isNumber = (value: unknown): boolean => typeof value === 'number';
const isSize = (value: unknown): boolean => typeof value === 'object' && value !== null && 'terms' in value;
const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
const isListOf = (value: Attr, item: (value: unknown) => boolean): boolean =>
  Array.isArray(value) && value.every(item);

function holds(kind: AttrKind, value: Attr): boolean {
  if (typeof kind === 'object') return typeof value === 'string' && kind.includes(value);
  switch (kind) {
    case 'number':
    case 'boolean':
    case 'string':
      return typeof value === kind;
    case 'integer':
      return Number.isSafeInteger(value);
    case 'numbers':
      return isListOf(value, isNumber);
    case 'integers':
      return isListOf(value, Number.isSafeInteger);
    case 'strings':
      return isListOf(value, (v) => typeof v === 'string');
    case 'shape':
      return isListOf(value, (v) => isCount(v) || isSize(v));
  }
}

/** Throws `TypeMismatch` when an attribute the op reads is missing or of another kind. */
export function checkAttrs(op: string, kinds: AttrKinds, attrs: Attrs): void {
  for (const [key, kind] of Object.entries(kinds)) {
    const name = key.replace(/\?$/, '');
    const value = Object.hasOwn(attrs, name) ? attrs[name] : undefined;
    if (value === undefined ? name !== key : holds(kind, value)) continue;
    const expected = typeof kind === 'object' ? kind.join(' or ') : kind;
    throw new TypeMismatch(
      `${op}: attribute ${name} is ${value === undefined ? 'missing' : 'not what it should be'}, expected ${expected}`,
    );
  }
}

/** Equal for equal attributes. */
export const attrsText = (attrs: Attrs): string =>
  Object.keys(attrs)
    .sort()
    .map((key) => `${key}=${attrText(attrs[key])}`)
    .join(';');

/** Tells 0 from −0, which printing them would not. */
function attrText(value: Attr | undefined): string {
  if (typeof value === 'string') return JSON.stringify(value);
  if (typeof value !== 'object') return Object.is(value, -0) ? '-0' : String(value);
  return 'terms' in value ? value.key : value.map(attrText).join();
}
