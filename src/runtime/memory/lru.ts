/** A map that forgets what was used longest ago. */
export interface Lru<Value> {
  /** The known value of `key`, or that of `make`, kept. */
  get(key: string, make: () => Value): Value;
}

export function lruCache<Value>(capacity: number): Lru<Value> {
  const entries = new Map<string, Value>();
  return {
    get: (key, make) => {
      const known = entries.get(key);
      const value = known === undefined ? make() : known;
      entries.delete(key);
      entries.set(key, value);
      if (entries.size > capacity) entries.delete(entries.keys().next().value!);
      return value;
    },
  };
}
