import { createColors } from 'picocolors';

type Colors = ReturnType<typeof createColors>;

interface Stream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): boolean;
}

/** Colours only on a terminal that wants them (https://no-color.org); FORCE_COLOR overrules. */
export function colorsFor(
  stream: { readonly isTTY?: boolean },
  env: NodeJS.ProcessEnv = process.env,
): Colors {
  const forced = (env['FORCE_COLOR'] ?? '') !== '' && env['FORCE_COLOR'] !== '0';
  const refused = (env['NO_COLOR'] ?? '') !== '' || env['TERM'] === 'dumb';
  return createColors(!refused && (forced || stream.isTTY === true));
}

export const out: Colors = colorsFor(process.stdout);
export const err: Colors = colorsFor(process.stderr);

/** One line of standard output: results. */
export const print = (line = ''): void => void process.stdout.write(`${line}\n`);

/** One line of standard error: remarks. */
export const remark = (line: string): void => void process.stderr.write(`${line}\n`);

export const printJson = (value: unknown): void => print(JSON.stringify(value, undefined, 2));

/** Small results: one line. */
export const printJsonLine = (value: unknown): void => print(JSON.stringify(value));

// oxlint-disable-next-line no-control-regex
const CONTROL = /[\u0000-\u001f\u007f-\u009f]/g;

/** Names from files are a stranger's: control characters (terminal escapes) are shown, not obeyed. */
export const shown = (text: string): string =>
  text.replace(CONTROL, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}`);

// oxlint-disable-next-line no-control-regex
const COLOR = /\u001b\[[0-9;]*m/g;
const widthOf = (text: string): number => [...text.replace(COLOR, '')].length;

export type Align = 'left' | 'right';

/** Rows as aligned columns, two spaces apart, indented by two; `head` is set off by a dim line of its own. */
export function table(
  rows: readonly (readonly string[])[],
  options: { readonly head?: readonly string[]; readonly align?: readonly Align[] } = {},
): string[] {
  const all = options.head === undefined ? rows : [options.head, ...rows];
  const widths: number[] = [];
  for (const row of all) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, widthOf(cell))));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, i) => {
        const gap = ' '.repeat(widths[i]! - widthOf(cell));
        return options.align?.[i] === 'right' ? gap + cell : cell + gap;
      })
      .join('  ')
      .trimEnd();
  const lines = rows.map((row) => `  ${line(row)}`);
  return options.head === undefined ? lines : [`  ${out.dim(line(options.head))}`, ...lines];
}

/** A section of a report: a bold title and its lines. */
export function section(title: string, lines: readonly string[]): void {
  print();
  print(out.bold(title));
  for (const line of lines) print(line);
}

/** `1.5 MiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]!}`;
}

/** `1,234`, `1.24 M`: counts of elements, tokens, operations. */
export function formatCount(count: number): string {
  const units = ['', ' k', ' M', ' G', ' T', ' P', ' E'];
  let [value, unit] = [count, 0];
  if (Math.abs(count) < 10_000)
    return Number.isInteger(count) ? count.toLocaleString('en-US') : count.toFixed(1);
  while (Math.abs(value) >= 1000 && unit < units.length - 1) [value, unit] = [value / 1000, unit + 1];
  return `${value.toFixed(value < 10 ? 2 : 1)}${units[unit]!}`;
}

/** `12 ms`, `3.4 s`, `2 min 5 s`. */
export function formatMs(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  return seconds < 3600
    ? `${Math.floor(seconds / 60)} min ${seconds % 60} s`
    : `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** `1 rank`, `2 ranks`. */
export const plural = (count: number, word: string, many = `${word}s`): string =>
  `${count.toLocaleString('en-US')} ${count === 1 ? word : many}`;

/** Remarks that differ in numbers only (one a layer), folded into the first of them. */
export function foldNotes(notes: readonly string[]): string[] {
  const groups = new Map<string, string[]>();
  for (const note of notes) {
    const key = note.replace(/(?:_?\d+)+/g, '');
    groups.set(key, [...(groups.get(key) ?? []), note]);
  }
  return [...groups.values()].map(
    (same) => `${shown(same[0]!)}${same.length > 1 ? ` (× ${same.length})` : ''}`,
  );
}

export interface Progress {
  /** Shows where things stand: rewrites the line on a terminal, elsewhere says nothing. */
  update(line: string): void;
  /** A line that stays. */
  keep(line: string): void;
  /** Clears what was rewritten. */
  end(): void;
}

/** Progress on a stream: a terminal gets one line rewritten, anything else only the lines that stay. */
export function progressOn(stream: Stream = process.stderr): Progress {
  let dirty = false;
  const clear = (): void => {
    if (dirty) stream.write('\r\u001b[K');
    dirty = false;
  };
  return {
    update: (line) => {
      if (stream.isTTY !== true) return;
      const width = (stream.columns ?? 80) - 1;
      clear();
      stream.write(widthOf(line) > width ? [...line.replace(COLOR, '')].slice(0, width).join('') : line);
      dirty = true;
    },
    keep: (line) => {
      clear();
      stream.write(`${line}\n`);
    },
    end: clear,
  };
}
