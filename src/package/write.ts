import { createHash } from 'node:crypto';
import { mkdir, open, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { invariant, UserError } from '../errors.js';
import { digestFile, writeDirectoryAtomic } from '../files/atomic.js';
import { chunksOf } from '../files/pieces.js';
import { writeSafetensors, type SafetensorsEntry } from '../files/safetensors.js';
import { checkProgram } from './check.js';
import { generateIndex } from './index-ts.js';
import { manifestSchema, type Manifest } from './manifest.js';
import {
  COST,
  INDEX,
  isContainedPath,
  MANIFEST,
  MODEL,
  programJson,
  programText,
  REPORT,
  TRACE,
  WEIGHTS,
} from './paths.js';
import { programSchema, type Program } from './program.js';
import { traceSchema, type Trace } from './trace.js';

/** What a package is made of. The same contents give the same bytes. */
export interface PackageContents {
  readonly manifest: Omit<Manifest, 'files'>;
  /** By name: exactly the programs that the manifest lists. `text` is the scheduled program's IR. */
  readonly programs: ReadonlyMap<string, { readonly program: Program; readonly text: string }>;
  /** Files that programs name, by path inside the package: `segments/<sha256>.onnx`. */
  readonly segments: ReadonlyMap<string, Uint8Array>;
  /** The ONNX file, copied into the package; it must still be the one that `manifest.source` describes. */
  readonly sourceModel: string;
  readonly cost: object;
  /** A page for people: what was recognised and placed, and what it costs. */
  readonly report: string;
  /** What each pass did to which node. */
  readonly trace: Trace;
  /** Text of `index.ts`, where it is being generated already. */
  readonly index?: Promise<string>;
  /** Parameters whose weight is of kind `safetensors`. */
  readonly weights?: readonly SafetensorsEntry[];
}

export interface WritePackageOptions {
  /** Replace an existing package (never another directory). */
  readonly replace?: boolean;
}

/**
 * Writes a package under a temporary name and renames it: there is a whole package afterwards, or none.
 * @returns the hash of the package (sha256 of its manifest)
 * @throws UserError when the disk refuses, the directory exists, or the source model changed meanwhile
 */
export async function writePackage(
  directory: string,
  contents: PackageContents,
  options: WritePackageOptions = {},
): Promise<string> {
  checkContents(contents);
  let hash = '';
  const fill = async (root: string): Promise<void> => {
    const writer = makeWriter(root);
    await writer.copyModel(contents.sourceModel, contents.manifest.source);
    for (const [file, bytes] of contents.segments) await writer.write(file, bytes);
    for (const [name, { program, text }] of contents.programs) {
      await writer.write(programJson(name), jsonLines(programSchema.parse(program)));
      await writer.write(programText(name), text);
    }
    if (contents.weights !== undefined) await writer.safetensors(contents.weights);
    await writer.write(REPORT, contents.report);
    await writer.write(TRACE, traceText(contents.trace));
    await writer.write(COST, `${JSON.stringify(contents.cost, undefined, 2)}\n`);
    await writer.write(
      INDEX,
      await (contents.index ?? generateIndex(contents.manifest, programsOf(contents))),
    );
    const manifest = manifestSchema.parse({ ...contents.manifest, files: writer.files() });
    hash = await writer.write(MANIFEST, `${JSON.stringify(manifest, undefined, 2)}\n`);
  };
  await writeDirectoryAtomic(directory, fill, { replace: options.replace === true });
  return hash;
}

const programsOf = ({ programs }: PackageContents): ReadonlyMap<string, Program> =>
  new Map([...programs].map(([name, { program }]) => [name, program]));

/** A package that could not be opened again is never written: these are ithaca's own mistakes. */
function checkContents({ manifest, programs, segments, weights = [] }: PackageContents): void {
  const named = [...programs.keys()].sort().join();
  invariant(
    named === [...manifest.programs].sort().join(),
    `the manifest lists other programs than ${named}`,
  );
  for (const file of segments.keys())
    invariant(isContainedPath(file) && file.includes('/'), `${file} is no path for a segment`);
  for (const [name, { program }] of programs) {
    invariant(program.name === name, `program ${program.name} is filed under ${name}`);
    checkProgram(program, `program ${name}`);
    for (const { file } of [...program.segments, ...program.kernels])
      invariant(segments.has(file), `program ${name} names ${file}, which is not there`);
  }
  const stored = new Set(weights.map((entry) => entry.name));
  for (const { name, weight } of manifest.parameters)
    invariant((weight.kind === 'safetensors') === stored.has(name), `weights of ${name} are misplaced`);
}

interface Writer {
  /** @returns sha256 */
  write(file: string, content: string | Uint8Array): Promise<string>;
  copyModel(source: string, expected: Manifest['source']): Promise<void>;
  safetensors(entries: readonly SafetensorsEntry[]): Promise<void>;
  /** Everything written so far, by path. */
  files(): Manifest['files'];
}

function makeWriter(root: string): Writer {
  const files = new Map<string, Manifest['files'][number]>();
  const target = async (file: string): Promise<string> => {
    invariant(!files.has(file), `${file} is written twice`);
    const absolute = path.join(root, ...file.split('/'));
    await mkdir(path.dirname(absolute), { recursive: true });
    return absolute;
  };
  return {
    write: async (file, content) => {
      const bytes = typeof content === 'string' ? Buffer.from(content) : content;
      await writeFile(await target(file), bytes, { flag: 'wx' });
      const sha256 = createHash('sha256').update(bytes).digest('hex');
      files.set(file, { path: file, bytes: bytes.length, sha256 });
      return sha256;
    },
    copyModel: async (source, expected) => {
      const copied = await copyHashed(source, await target(MODEL));
      if (copied.sha256 !== expected.sha256 || copied.bytes !== expected.bytes)
        throw new UserError(`${source} changed while it was compiled`, 'compile it again');
      files.set(MODEL, { path: MODEL, ...copied });
    },
    safetensors: async (entries) => {
      const absolute = await target(WEIGHTS);
      await writeSafetensors(absolute, entries);
      const { bytes, sha256 } = await digestFile(absolute);
      files.set(WEIGHTS, { path: WEIGHTS, bytes, sha256 });
    },
    files: () => [...files.values()].sort((a, b) => (a.path < b.path ? -1 : 1)),
  };
}

/** Copies a file of any size through a small buffer, hashing what it writes. */
async function copyHashed(source: string, target: string): Promise<{ sha256: string; bytes: number }> {
  const hash = createHash('sha256');
  let bytes = 0;
  const handle = await open(target, 'wx');
  try {
    for await (const chunk of chunksOf(source)) {
      hash.update(chunk);
      bytes += chunk.length;
      for (let done = 0; done < chunk.length;) {
        done += (await handle.write(chunk, done)).bytesWritten;
      }
    }
  } finally {
    await handle.close();
  }
  return { sha256: hash.digest('hex'), bytes };
}

/** JSON with one pass a line. */
function traceText(trace: Trace): string {
  const { pipelines, ...tables } = traceSchema.parse(trace);
  const lines = pipelines.map(({ name, passes }) => {
    const own = passes.map((pass) => `\n      ${JSON.stringify(pass)}`).join(',');
    return `\n    {"name": ${JSON.stringify(name)}, "passes": [${own}\n    ]}`;
  });
  const fields = Object.entries(tables).map(
    ([key, value]) => `  ${JSON.stringify(key)}: ${JSON.stringify(value)}`,
  );
  return `{\n${[...fields, `  "pipelines": [${lines.join(',')}\n  ]`].join(',\n')}\n}\n`;
}

/** JSON with one buffer, segment or instruction a line, so that two programs can be compared with diff. */
function jsonLines(program: Program): string {
  const fields = Object.entries(program).map(([key, value]) => {
    const lines = Array.isArray(value) ? value.map((item) => `\n    ${JSON.stringify(item)}`) : undefined;
    const text =
      lines === undefined || lines.length === 0 ? JSON.stringify(value) : `[${lines.join(',')}\n  ]`;
    return `  ${JSON.stringify(key)}: ${text}`;
  });
  return `{\n${fields.join(',\n')}\n}\n`;
}
