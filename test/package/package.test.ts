import {
  appendFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { UserError } from '../../src/errors.js';
import { writeSafetensors } from '../../src/files/safetensors.js';
import { readOnnxModel } from '../../src/ir/onnx/decode.js';
import { numberToBf16, numberToF16 } from '../../src/ir/onnx/half.js';
import type { ParameterEntry } from '../../src/package/manifest.js';
import { openPackage } from '../../src/package/read.js';
import { writePackage, type PackageContents } from '../../src/package/write.js';
import { makeContents, MODEL_FILE, modelParameters, SEGMENT_FILE, sha256 } from './fixture.js';

let folder: string;
/** A package, written once; tests work on copies. */
let original: string;
let hash: string;
let copy: string;
let copies = 0;
beforeAll(async () => {
  folder = mkdtempSync(path.join(tmpdir(), 'ithaca-package-'));
  original = path.join(folder, 'llama.ithaca');
  hash = await writePackage(original, makeContents());
});
afterAll(() => rmSync(folder, { recursive: true }));
beforeEach(() => {
  copy = path.join(folder, `copy-${copies++}.ithaca`);
  cpSync(original, copy, { recursive: true });
});
const at = (...names: string[]): string => path.join(copy, ...names);

async function refused(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(UserError);
  expect((error as UserError).message).not.toContain('\n');
  expect((error as UserError).hint).toBeTruthy();
  return (error as UserError).message;
}

/** Changes a JSON file, and the manifest so that the hashes agree: what a forger would do. */
function forge(file: string, change: (json: never) => unknown): void {
  const edit = (name: string, apply: (json: never) => unknown): Buffer => {
    const json = JSON.parse(readFileSync(at(name), 'utf8')) as never;
    const bytes = Buffer.from(JSON.stringify(apply(json) ?? json));
    writeFileSync(at(name), bytes);
    return bytes;
  };
  const bytes = edit(file, change);
  if (file === 'manifest.json') return;
  edit('manifest.json', (manifest: { files: { path: string; bytes: number; sha256: string }[] }) => {
    for (const entry of manifest.files)
      if (entry.path === file) Object.assign(entry, { bytes: bytes.length, sha256: sha256(bytes) });
  });
}

describe('writePackage', () => {
  test('what was written is what is opened', async () => {
    const contents = makeContents();
    const opened = await openPackage(original);
    expect(opened.hash).toBe(hash);
    expect(opened.hash).toBe(sha256(readFileSync(path.join(original, 'manifest.json'))));
    const { files, ...manifest } = opened.manifest;
    expect(manifest).toEqual(contents.manifest);
    expect(files.map((file) => file.path)).toEqual([
      'cost.json',
      'index.ts',
      'model/model.onnx',
      'programs/eval/program.ir',
      'programs/eval/program.json',
      'programs/train/program.ir',
      'programs/train/program.json',
      'report.html',
      SEGMENT_FILE,
      'trace.json',
    ]);
    for (const [name, { program }] of contents.programs) expect(opened.program(name)).toEqual(program);
    expect(readFileSync(opened.file('model/model.onnx')).equals(readFileSync(MODEL_FILE))).toBe(true);
    expect(Buffer.from(opened.bytes(SEGMENT_FILE))).toEqual(contents.segments.get(SEGMENT_FILE));
    expect(readFileSync(at('programs/train/program.ir'), 'utf8')).toContain('graph @train');
    expect((await openPackage(pathToFileURL(`${original}/`))).hash).toBe(hash);
  });

  test('the same contents give the same bytes', async () => {
    const again = path.join(folder, 'again.ithaca');
    expect(await writePackage(again, makeContents())).toBe(hash);
  });

  test('replaces a package when told to, and nothing else', async () => {
    const before = readdirSync(folder);
    expect(await refused(writePackage(copy, makeContents()))).toMatch(/exists already/);
    await writePackage(copy, makeContents({ notes: ['again'] }), { replace: true });
    expect((await openPackage(copy)).manifest.notes).toEqual(['again']);
    const other = path.join(folder, 'other');
    mkdirSync(other);
    writeFileSync(path.join(other, 'thesis.txt'), 'mine');
    expect(await refused(writePackage(other, makeContents(), { replace: true }))).toMatch(
      /not made by ithaca/,
    );
    expect(readdirSync(folder).sort()).toEqual([...before, 'other'].sort());
  });

  test('leaves nothing behind when it fails', async () => {
    const target = path.join(folder, 'failed.ithaca');
    const contents = makeContents({ source: { file: 'm.onnx', sha256: '0'.repeat(64), bytes: 1 } });
    expect(await refused(writePackage(target, contents))).toMatch(/changed while it was compiled/);
    const gone = { ...makeContents(), sourceModel: path.join(folder, 'gone.onnx') };
    expect(await refused(writePackage(target, gone))).toMatch(/gone.onnx does not exist/);
    const without: PackageContents = { ...makeContents(), segments: new Map() };
    await expect(writePackage(target, without)).rejects.toThrow(/which is not there/);
    expect(readdirSync(folder).filter((name) => name.includes('failed'))).toEqual([]);
  });
});

describe('openPackage refuses', () => {
  test('what is no package', async () => {
    expect(await refused(openPackage(path.join(folder, 'nowhere')))).toMatch(/nowhere does not exist/);
    expect(await refused(openPackage(MODEL_FILE))).toMatch(/is not a package: it is no directory/);
    expect(await refused(openPackage(folder))).toMatch(/it has no manifest.json/);
    forge('manifest.json', () => ({ format: 'ithaca-checkpoint', version: 1 }));
    expect(await refused(openPackage(copy))).toMatch(/is not a package: .*"ithaca-checkpoint"/);
    forge('manifest.json', () => ({ format: 'ithaca-package', version: 7 }));
    expect(await refused(openPackage(copy))).toMatch(/version 7, this ithaca reads version 1/);
    writeFileSync(at('manifest.json'), '{"format": ');
    expect(await refused(openPackage(copy))).toMatch(/manifest.json is cut short or altered/);
  });

  test('any file with one byte changed, by name, with the command that mends it', async () => {
    const files = (await openPackage(copy)).manifest.files.map((file) => file.path);
    for (const file of files) {
      const bytes = readFileSync(at(file));
      const changed = Buffer.from(bytes);
      changed[bytes.length >> 1]! ^= 1;
      writeFileSync(at(file), changed);
      const error = await openPackage(copy).catch((reason: unknown) => reason as UserError);
      expect((error as UserError).message).toBe(
        `package ${copy}: ${file} has changed since it was compiled (sha256 ${sha256(changed).slice(0, 12)}…, expected ${sha256(bytes).slice(0, 12)}…)`,
      );
      expect((error as UserError).hint).toBe(`compile it again: ithaca compile llama.onnx -o ${copy}`);
      writeFileSync(at(file), bytes);
    }
    expect((await openPackage(copy)).hash).toBe(hash);
  });

  test('a file that is missing, cut short, longer, or no file', async () => {
    truncateSync(at('model/model.onnx'), 100);
    expect(await refused(openPackage(copy))).toMatch(/model.onnx is cut short .*: 100 bytes, expected/);
    cpSync(MODEL_FILE, at('model/model.onnx'));
    appendFileSync(at(SEGMENT_FILE), '!');
    expect(await refused(openPackage(copy))).toMatch(/has grown/);
    rmSync(at(SEGMENT_FILE));
    expect(await refused(openPackage(copy))).toMatch(/segments.* is missing/);
    mkdirSync(at(SEGMENT_FILE));
    expect(await refused(openPackage(copy))).toMatch(/is not a regular file/);
  });

  test('paths and links that lead out, and accepts links that stay inside', async () => {
    const model = at('model/model.onnx');
    cpSync(model, at('inside.onnx'));
    rmSync(model);
    symlinkSync('../inside.onnx', model);
    expect((await openPackage(copy)).hash).toBe(hash);
    rmSync(model);
    symlinkSync(MODEL_FILE, model);
    expect(await refused(openPackage(copy))).toMatch(/model.onnx is a link that leads out/);
    for (const evil of ['../x', '/etc/passwd', 'a/../../x', 'C:\\x', '', 'a//b', 'a\0b', './a', 'nul:x']) {
      forge('manifest.json', (manifest: { files: { path: string }[] }) => {
        manifest.files[0]!.path = evil;
      });
      expect(await refused(openPackage(copy))).toMatch(/is not a path inside the package/);
    }
  });

  test('files that are used and not listed', async () => {
    forge('manifest.json', (manifest: { files: { path: string }[] }) => {
      manifest.files = manifest.files.filter((file) => file.path !== SEGMENT_FILE);
    });
    expect(await refused(openPackage(copy))).toMatch(/segments.* is not listed in manifest.json/);
  });

  test('a manifest that contradicts itself', async () => {
    const cases: readonly (readonly [(manifest: Forged) => unknown, RegExp])[] = [
      [(m) => (m.parameters[0]!.shape = [2 ** 26, 2 ** 26]), /absurd shape/],
      [(m) => m.parameters[0]!.shape.push(3), /its shape needs/],
      [(m) => (m.parameters[0]!.weight.offset = 2 ** 40), /of a model of \d+ bytes/],
      [(m) => (m.parameters[0]!.weight.dtype = 'string'), /element type string/],
      [(m) => m.parameters.push(m.parameters[0]!), /a parameter is listed twice/],
      [(m) => (m.parameters[0]!.tiedTo = { name: '__proto__', transposed: false }), /tied to __proto__/],
      [(m) => (m.parameters[0]!.weight = { kind: 'safetensors' }), /weights.safetensors is not listed/],
      [(m) => m.files.push(m.files[0]!), /a file is listed twice/],
      [(m) => (m.source.sha256 = '0'.repeat(64)), /is not the source model/],
      [(m) => m.programs.push('train'), /a program is listed twice/],
      [(m) => (m.programs = ['update']), /programs\/update\/program.json is not listed/],
      [(m) => (m.extra = 1), /manifest.json is not valid: .*extra/],
      [(m) => (m.files[0]!.bytes = -1), /manifest.json is not valid: files.0.bytes/],
    ];
    const manifest = readFileSync(at('manifest.json'));
    for (const [change, message] of cases) {
      forge('manifest.json', (json: Forged) => void change(json));
      expect(await refused(openPackage(copy))).toMatch(message);
      writeFileSync(at('manifest.json'), manifest);
    }
  });

  test('a program that does not hold together, even if its hash is right', async () => {
    forge('programs/train/program.json', (program: { name: string }) => void (program.name = 'eval'));
    expect(await refused(openPackage(copy))).toMatch(/train\/program.json holds the program eval/);
    forge('programs/train/program.json', (program: { name: string; buffers: { type: string }[] }) => {
      program.name = 'train';
      program.buffers[1]!.type = 'f32[S@sp, Q]';
    });
    expect(await refused(openPackage(copy))).toMatch(/train\/program.json: buffer 1: .*unknown symbol Q/);
  });
});

interface Forged {
  parameters: {
    shape: number[];
    weight: { kind: string; offset?: number; dtype?: string };
    tiedTo?: { name: string; transposed: boolean };
  }[];
  files: { path: string; bytes: number }[];
  source: { sha256: string };
  programs: string[];
  extra?: number;
}

test('a thread that knows the hash of the package does not hash its files again', async () => {
  const bytes = readFileSync(at(SEGMENT_FILE));
  bytes[0]! ^= 1;
  writeFileSync(at(SEGMENT_FILE), bytes);
  const opened = await openPackage(copy, { checked: hash });
  expect(() => opened.bytes(SEGMENT_FILE)).toThrow(/has changed since it was compiled/);
  expect(await refused(openPackage(copy, { checked: '0'.repeat(64) }))).toMatch(/has changed/);
});

describe('parameters', () => {
  test('are read out of the model, whole or in part', async () => {
    const opened = await openPackage(original);
    const model = readOnnxModel(MODEL_FILE, { weights: true });
    const names = modelParameters().map((parameter) => parameter.name);
    expect(names.length).toBeGreaterThan(10);
    for (const name of names) {
      const expected = model.initializers.get(name)!.read().toFloat32();
      expect(Buffer.from(opened.readParameter(name).buffer).equals(Buffer.from(expected.buffer))).toBe(true);
      const [from, to] = [expected.length >> 1, expected.length];
      const part = new Float32Array(new SharedArrayBuffer(4 * (to - from)));
      opened.readParameterInto(name, part, from);
      expect(Buffer.from(part.buffer).equals(Buffer.from(expected.slice(from, to).buffer))).toBe(true);
    }
    for (const name of ['nothing', '__proto__', 'constructor'])
      expect(() => opened.parameter(name)).toThrow(/has no parameter/);
    expect(() => opened.readParameterInto(names[0]!, new Float32Array(1), -1)).toThrow(/range outside/);
  });

  test('of any width, from external data and from safetensors; absent ones are refused', async () => {
    const values = Float32Array.from([0, -0, 1.5, -2.75, 1024, 2 ** -20, Infinity, NaN]);
    const external = path.join(folder, 'weights.bin');
    const stored = [
      { dtype: 'f64', bytes: new Uint8Array(Float64Array.from(values).buffer) },
      { dtype: 'f16', bytes: new Uint8Array(Uint16Array.from(values, numberToF16).buffer) },
      { dtype: 'bf16', bytes: new Uint8Array(Uint16Array.from(values, numberToBf16).buffer) },
      { dtype: 'f32', bytes: new Uint8Array(values.buffer) },
    ];
    writeFileSync(external, Buffer.concat(stored.map(({ bytes }) => bytes)));
    const base = { shape: [2, 4], trainable: true, reason: 'a matrix' };
    let offset = 0;
    const parameters: ParameterEntry[] = stored.map(({ dtype, bytes }) => {
      const weight = { kind: 'external', file: external, offset, bytes: bytes.length, dtype } as const;
      offset += bytes.length;
      return { ...base, name: dtype, weight };
    });
    const weights = [{ name: 'new', dtype: 'F32', shape: [2, 4], data: values }] as const;
    parameters.push(
      { ...base, name: 'new', weight: { kind: 'safetensors' } },
      { ...base, name: 'none', weight: { kind: 'absent' } },
    );
    const target = path.join(folder, 'mixed.ithaca');
    await writePackage(target, { ...makeContents({ parameters }), weights });
    const opened = await openPackage(target);
    for (const name of ['f64', 'f16', 'bf16', 'f32', 'new']) {
      expect(opened.readParameter(name)).toEqual(values);
      const part = new Float32Array(2);
      opened.readParameterInto(name, part, 3);
      expect([...part]).toEqual([-2.75, 1024]);
    }
    expect(() => opened.readParameter('none')).toThrow(/was compiled without weights/);
    truncateSync(external, offset - 1);
    expect(() => opened.readParameter('f32')).toThrow(/parameter f32: .*weights.bin is too short/);
    rmSync(external);
    expect(() => opened.readParameter('f16')).toThrow(/parameter f16: its file .*weights.bin is missing/);
  });

  test('of another shape in the safetensors file are refused', async () => {
    const target = path.join(folder, 'shapes.ithaca');
    const parameters: ParameterEntry[] = [
      { name: 'w', shape: [4], trainable: true, reason: '', weight: { kind: 'safetensors' } },
    ];
    const weights = [{ name: 'w', dtype: 'F32', shape: [5], data: new Float32Array(5) }] as const;
    await writePackage(target, { ...makeContents({ parameters }), weights });
    const opened = await openPackage(target);
    expect(() => opened.readParameter('w')).toThrow(/w has shape \[5\], expected \[4\]/);
    await writeSafetensors(path.join(target, 'weights/weights.safetensors'), []);
    expect(await refused(openPackage(target))).toMatch(/weights.safetensors is cut short/);
  });
});
