import { UserError } from '../errors.js';

const LISTED = 12;
const MAX_COMPARED = 200;

const quoted = (names: readonly string[]): string =>
  names.slice(0, LISTED).join(', ') + (names.length > LISTED ? `, and ${names.length - LISTED} more` : '');

/**
 * The name that `query` is, or the only one that it is a part of.
 * @param aliases other names of the same things: of values, for the node that gives them
 * @throws UserError that lists several matches, or the nearest names
 */
export function findName(
  names: ReadonlySet<string>,
  query: string,
  aliases: ReadonlyMap<string, string> = new Map(),
): string {
  if (names.has(query)) return query;
  const alias = query === '' ? undefined : aliases.get(query);
  if (alias !== undefined) return alias;
  const parts = query === '' ? [] : matching(names, query);
  if (parts.length === 1) return parts[0]!;
  if (parts.length > 1)
    throw new UserError(
      `${JSON.stringify(query)} is a part of ${parts.length} node names: ${quoted(parts)}`,
      'give more of the name',
    );
  const near = nearest(names, query);
  throw new UserError(
    `no ONNX node is called ${JSON.stringify(query)}`,
    near.length === 0 ? 'list the nodes: ithaca inspect --html' : `did you mean ${near.join(', ')}?`,
  );
}

/** Names with `query` in them; with the same capitals, if there are any such. */
function matching(names: ReadonlySet<string>, query: string): string[] {
  const exact = [...names].filter((name) => name.includes(query));
  if (exact.length > 0) return exact;
  const lower = query.toLowerCase();
  return [...names].filter((name) => name.toLowerCase().includes(lower));
}

/** At most three names, no further away than half of the query's length. */
function nearest(names: ReadonlySet<string>, query: string): string[] {
  if (query.length > MAX_COMPARED) return [];
  const limit = Math.ceil(query.length / 2);
  return [...names]
    .filter((name) => Math.abs(name.length - query.length) <= limit)
    .map((name) => ({ name, distance: editDistance(name, query) }))
    .filter(({ distance }) => distance <= limit)
    .sort((a, b) => a.distance - b.distance)
    .slice(0, 3)
    .map(({ name }) => name);
}

/** Levenshtein's. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const changed = previous[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(changed, previous[j]! + 1, row[j - 1]! + 1));
    }
    previous = row;
  }
  return previous[b.length]!;
}

const INSIDE = /[\w./:]/;

/** Whether a remark names `name`, rather than a longer name that it is a part of. */
export function mentions(note: string, name: string): boolean {
  if (name === '') return false;
  for (let at = note.indexOf(name); at >= 0; at = note.indexOf(name, at + 1)) {
    const [before, after] = [note[at - 1] ?? ' ', note.slice(at + name.length)];
    if (!INSIDE.test(before) && !/^[\w/]/.test(after) && !/^[.:]\w/.test(after)) return true;
  }
  return false;
}
