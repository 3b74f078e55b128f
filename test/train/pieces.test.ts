/** What is saved and exported is the same whatever the size of the pieces it moves in. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { SafetensorsReader, writeSafetensors } from '../../src/files/safetensors.js';
import { readOnnxModel } from '../../src/ir/onnx/decode.js';
import { findTiedInitializers } from '../../src/ir/onnx/tied.js';
import type { Package } from '../../src/package/read.js';
import { exportOnnx, exportSafetensors } from '../../src/train/export.js';
import { compiledModel, packageFolder } from '../runtime/session/packages.js';
import { modelFolder } from '../support/oracle.js';

const { folder, remove } = packageFolder();
afterAll(remove);

describe.each(['gpt2-ts', 'llama'])('%s', (name) => {
  const at = (file: string): string => path.join(folder, `${name}-${file}`);
  let pkg: Package;
  let weights: SafetensorsReader;
  beforeAll(async () => {
    pkg = await compiledModel(folder, name);
    const trained = pkg.manifest.parameters.map((parameter, p) => {
      const data = pkg.readParameter(parameter.name).map((x, i) => x + ((i * 7 + p) % 13) / 64);
      return { name: parameter.name, dtype: 'F32' as const, shape: parameter.shape, data };
    });
    // Copies of one weight are trained alike.
    for (const [i, { shape, tiedTo }] of pkg.manifest.parameters.entries()) {
      const source = trained.find((entry) => entry.name === tiedTo?.name);
      if (tiedTo === undefined || source === undefined) continue;
      const [rows, columns] = shape as [number, number];
      trained[i]!.data = tiedTo.transposed
        ? source.data.map((_, at) => source.data[(at % columns) * rows + Math.floor(at / columns)]!)
        : source.data;
    }
    await writeSafetensors(at('trained.safetensors'), trained);
    weights = SafetensorsReader.open(at('trained.safetensors'));
  });
  afterAll(() => weights.close());

  test('exports the same safetensors', async () => {
    await exportSafetensors(pkg, weights, at('whole'), 1 << 30);
    const whole = readFileSync(at('whole'));
    for (const pieceBytes of [1000, 4096]) {
      await exportSafetensors(pkg, weights, at('pieces'), pieceBytes);
      expect(readFileSync(at('pieces')).equals(whole)).toBe(true);
    }
    const read = SafetensorsReader.open(at('whole'));
    const { parameters } = pkg.manifest;
    const turned = parameters.filter((p) => p.torchLayout === 'transposed' && p.tiedTo === undefined);
    // Its linear layers are Conv1D, in the layout of the file.
    expect(turned.length > 0).toBe(name !== 'gpt2-ts');
    for (const { name: own, torchName, shape } of turned) {
      const [rows, columns] = shape as [number, number];
      const [from, to] = [weights.read(own), read.read(torchName!)];
      expect(read.info(torchName!).shape).toEqual([columns, rows]);
      expect(to.every((x, i) => x === from[(i % rows) * columns + Math.floor(i / rows)])).toBe(true);
    }
    read.close();
  });

  test('exports the same ONNX', async () => {
    await exportOnnx(pkg, weights, at('whole.onnx'), { pieceBytes: 1 << 30 });
    await exportOnnx(pkg, weights, at('pieces.onnx'), { pieceBytes: 500 });
    expect(readFileSync(at('pieces.onnx')).equals(readFileSync(at('whole.onnx')))).toBe(true);
    const model = readOnnxModel(at('pieces.onnx'), { weights: true });
    for (const { name: own, trainable } of pkg.manifest.parameters)
      if (trainable) expect(model.initializers.get(own)!.read().toFloat32()).toEqual(weights.read(own));
  });

  test('finds the same copies', () => {
    const model = readOnnxModel(path.join(modelFolder(name), 'model.onnx'), { weights: true });
    expect(findTiedInitializers(model, 300)).toEqual(findTiedInitializers(model));
  });
});
