import {
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { UserError } from '../../src/errors.js';
import {
  digestFile,
  isIthacaDirectory,
  removeAbandonedTemporaries,
  removeDirectoryAtomic,
  sha256File,
  writeDirectoryAtomic,
  writeFileAtomic,
} from '../../src/files/atomic.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'ithaca-atomic-'));
});
afterEach(() => rmSync(folder, { recursive: true }));
const at = (...names: string[]) => path.join(folder, ...names);

/** A real ENOSPC: the kernel's device that is always full. */
const fillDisk = () => writeFileSync('/dev/full', 'x');
const hasFullDevice = existsSync('/dev/full');

async function userError(promise: Promise<unknown>): Promise<UserError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(UserError);
  expect((error as UserError).message).not.toContain('\n');
  expect((error as UserError).hint).toBeTruthy();
  return error as UserError;
}

describe('writeFileAtomic', () => {
  test('shows the new content only when it is whole', async () => {
    writeFileSync(at('a'), 'old');
    await writeFileAtomic(at('a'), async (handle) => {
      await handle.write('ne');
      expect(readFileSync(at('a'), 'utf8')).toBe('old');
      await handle.write('w');
    });
    expect(readFileSync(at('a'), 'utf8')).toBe('new');
    expect(readdirSync(folder)).toEqual(['a']);
  });

  test('keeps the old content and no temporary when writing fails', async () => {
    writeFileSync(at('a'), 'old');
    const failing = writeFileAtomic(at('a'), async (handle) => {
      await handle.write('half');
      throw new TypeError('a bug');
    });
    await expect(failing).rejects.toThrow(TypeError);
    expect(readFileSync(at('a'), 'utf8')).toBe('old');
    expect(readdirSync(folder)).toEqual(['a']);
  });

  test.runIf(hasFullDevice)('says that the disk is full', async () => {
    const error = await userError(writeFileAtomic(at('a'), fillDisk));
    expect(error.message).toBe(`cannot write ${at('a')}: the disk is full`);
    expect(readdirSync(folder)).toEqual([]);
  });

  test('names the target when its folder is missing or a file', async () => {
    expect((await userError(writeFileAtomic(at('no', 'a'), () => {}))).message).toMatch(/does not exist/);
    writeFileSync(at('file'), '');
    expect((await userError(writeFileAtomic(at('file', 'a'), () => {}))).message).toMatch(/not a folder/);
    expect((await userError(writeFileAtomic(folder, () => {}))).message).toMatch(/not a regular file/);
  });

  test('leaves errors about other files alone', async () => {
    const reading = writeFileAtomic(at('a'), () => void readFileSync('/no/such/file'));
    await expect(reading).rejects.toMatchObject({ code: 'ENOENT' });
  });

  test('refuses a device, follows a link, leaves a hard-linked twin as it was', async () => {
    await userError(writeFileAtomic('/dev/null', () => {}));
    writeFileSync(at('real'), 'old');
    linkSync(at('real'), at('twin'));
    symlinkSync('real', at('link'));
    await writeFileAtomic(at('link'), async (handle) => void (await handle.write('new')));
    expect(readFileSync(at('real'), 'utf8')).toBe('new');
    expect(readFileSync(at('twin'), 'utf8')).toBe('old');
  });
});

describe('writeDirectoryAtomic', () => {
  const manifest = (directory: string) =>
    writeFileSync(path.join(directory, 'manifest.json'), '{"format": "ithaca-test"}');

  test('makes parents, shows the directory only when it is whole', async () => {
    await writeDirectoryAtomic(at('x', 'y', 'out'), (temporary) => {
      mkdirSync(path.join(temporary, 'deep'));
      writeFileSync(path.join(temporary, 'deep', 'file'), '1');
      expect(existsSync(at('x', 'y', 'out'))).toBe(false);
    });
    expect(readFileSync(at('x', 'y', 'out', 'deep', 'file'), 'utf8')).toBe('1');
    expect(readdirSync(at('x', 'y'))).toEqual(['out']);
  });

  test('leaves nothing when filling fails', async () => {
    const failing = writeDirectoryAtomic(at('out'), (temporary) => {
      writeFileSync(path.join(temporary, 'file'), '1');
      throw new Error('a bug');
    });
    await expect(failing).rejects.toThrow('a bug');
    expect(readdirSync(folder)).toEqual([]);
  });

  test.runIf(hasFullDevice)('a full disk is an error in terms of the target', async () => {
    const error = await userError(
      writeDirectoryAtomic(at('out'), (temporary) =>
        writeFileAtomic(path.join(temporary, 'weights'), fillDisk),
      ),
    );
    expect(error.message).toBe(`cannot write ${at('out', 'weights')}: the disk is full`);
    expect(readdirSync(folder)).toEqual([]);
  });

  test('replaces only when asked to, and only what ithaca made', async () => {
    await writeDirectoryAtomic(at('out'), (temporary) => {
      manifest(temporary);
      writeFileSync(path.join(temporary, 'old'), '');
    });
    expect(isIthacaDirectory(at('out'))).toBe(true);
    expect((await userError(writeDirectoryAtomic(at('out'), manifest))).message).toMatch(/exists already/);
    await writeDirectoryAtomic(at('out'), manifest, { replace: true });
    expect(readdirSync(at('out'))).toEqual(['manifest.json']);
    expect(readdirSync(folder)).toEqual(['out']);

    mkdirSync(at('mine'));
    writeFileSync(at('mine', 'thesis.tex'), 'years of work');
    const refused = await userError(writeDirectoryAtomic(at('mine'), manifest, { replace: true }));
    expect(refused.message).toMatch(/not made by ithaca/);
    expect(readdirSync(at('mine'))).toEqual(['thesis.tex']);

    mkdirSync(at('empty'));
    await writeDirectoryAtomic(at('empty'), manifest, { replace: true });
    expect(isIthacaDirectory(at('empty'))).toBe(true);
  });

  test('keeps the old directory when filling the new one fails', async () => {
    await writeDirectoryAtomic(at('out'), manifest);
    const failing = writeDirectoryAtomic(at('out'), () => Promise.reject(new Error('a bug')), {
      replace: true,
    });
    await expect(failing).rejects.toThrow('a bug');
    expect(isIthacaDirectory(at('out'))).toBe(true);
    expect(readdirSync(folder)).toEqual(['out']);
  });

  test('a file in the way', async () => {
    writeFileSync(at('file'), '');
    const fill = () => {};
    expect((await userError(writeDirectoryAtomic(at('file'), fill, { replace: true }))).message).toMatch(
      /a file/,
    );
    expect((await userError(writeDirectoryAtomic(at('file', 'x'), fill))).message).toMatch(
      /not a folder|a file/,
    );
  });
});

test('removeDirectoryAtomic removes it whole', async () => {
  mkdirSync(at('out', 'deep'), { recursive: true });
  await removeDirectoryAtomic(at('out'));
  expect(readdirSync(folder)).toEqual([]);
});

test('temporaries of dead processes go after an hour, others stay', async () => {
  const dead = 2 ** 22 + 12345; // above Linux' largest process identifier
  const names = [
    `.a.tmp-${dead}-00ff`,
    `.b.tmp-${dead}-00ff`,
    `.c.tmp-${process.pid}-00ff`,
    '.d.tmp',
    'step-000001',
  ];
  for (const name of names) mkdirSync(at(name));
  const longAgo = new Date(Date.now() - 7_200_000);
  for (const name of names.filter((each) => !each.startsWith('.b'))) utimesSync(at(name), longAgo, longAgo);
  await removeAbandonedTemporaries(folder);
  expect(readdirSync(folder).sort()).toEqual(names.slice(1).sort());
});

test('digests', async () => {
  writeFileSync(at('a'), 'abc');
  const abc = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad';
  expect(await digestFile(at('a'))).toEqual({ sha256: abc, bytes: 3 });
  expect(await sha256File(at('a'))).toBe(abc);
  await userError(sha256File(at('missing')));
});
