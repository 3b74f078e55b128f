import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import { ithaca, LARGE_ROWS, writeLargeModel } from './large.js';

test('a model with more than 2 GiB of weights compiles, and never holds them', () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-large-'));
  try {
    const bytes = writeLargeModel('test/models/llama/model.onnx', folder, LARGE_ROWS);
    expect(bytes).toBeGreaterThan(2 ** 31);
    const model = path.join(folder, 'model.onnx');
    const { peakBytes } = ithaca('.', ['compile', model, '-o', path.join(folder, 'model.ithaca')]);
    expect(peakBytes).toBeLessThan(600e6);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
