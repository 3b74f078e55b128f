import { expect, test } from 'vitest';
import { fitGrowth } from './growth.js';
import { llamaOfLayers } from './layers.js';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { lowerModel } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';

test.each([1, 1.4, 2])('an exponent of %f is found under a fixed cost', (exponent) => {
  const points = [2, 4, 8, 16, 32].map((n) => ({ n, cost: 1.5 + 0.02 * n ** exponent }));
  const found = fitGrowth(points);
  expect(found.exponent).toBeCloseTo(exponent, 1);
  expect(found.fixed).toBeCloseTo(1.5, 1);
});

test('a model of five layers has five attentions and five times the weights of a layer', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'ithaca-layers-'));
  const file = path.join(folder, 'model.onnx');
  try {
    writeFileSync(file, llamaOfLayers('test/models/llama/model.onnx', 5));
    const { manifest } = await lowerModel(file, {
      config: parseConfig({}, 'test'),
      weights: true,
      replace: false,
    });
    expect(manifest.recognized['attention']).toBe(5);
    expect(manifest.parameters.filter((p) => p.trainable)).toHaveLength(3 + 5 * 9);
    expect(manifest.parameters.filter((p) => p.tiedTo !== undefined)).toHaveLength(0);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
