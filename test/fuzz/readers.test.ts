/** A few cases for each other file that a stranger may have written. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { readerCases } from './readers.js';

test('packages, configs, weights, data and tokenizers are read, or refused in one line', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-readers-'));
  const counts = { accepted: 0, refused: 0, fault: 0 };
  try {
    for await (const { reader, kind, text } of readerCases(folder, 1, 25)) {
      expect(kind, `${reader}: ${text}`).not.toBe('fault');
      counts[kind]++;
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  expect(counts.accepted).toBeGreaterThan(0);
  expect(counts.refused).toBeGreaterThan(8);
});
