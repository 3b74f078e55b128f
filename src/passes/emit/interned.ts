/** A list without equal entries. */
export interface Interned<T> {
  readonly list: T[];
  /** Index of an equal entry, or of a new one. */
  readonly indexOf: (entry: T) => number;
}

export function interned<T>(): Interned<T> {
  const list: T[] = [];
  const known = new Map<string, number>();
  return {
    list,
    indexOf: (entry) => {
      const key = JSON.stringify(entry);
      const index = known.get(key) ?? list.push(entry) - 1;
      known.set(key, index);
      return index;
    },
  };
}
