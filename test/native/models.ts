/** Small models for tests of the ways into ONNX Runtime, and the addon where it is built. */
import { existsSync } from 'node:fs';
import { beforeEach } from 'vitest';
import { encodeModel, type ElementType } from '../../src/passes/emit/ort/proto.js';
import { addonPath, loadNative } from '../../src/runtime/executor/onnx-native.js';
import type { Backend } from '../../src/runtime/executor/onnx.js';

const loaded = loadNative();

/** Skips every test of a file, saying why, where the addon cannot be used. One that is built has to load. */
export function skipWithoutAddon(): void {
  beforeEach((context) => {
    if (typeof loaded === 'function') return;
    const given = process.env['ITHACA_NATIVE'] === '0';
    if (!given && existsSync(addonPath())) throw new Error(loaded.reason);
    context.skip(loaded.reason);
  });
}

export const native: Backend = (model) => {
  if (typeof loaded !== 'function') throw new Error(loaded.reason);
  return loaded(model);
};

/** y = x op z, of equal shapes `[n, 3]`. */
export const binary = (op: string, type: ElementType = 'f32', result: ElementType = type): Uint8Array =>
  encodeModel({
    nodes: [{ op, inputs: ['x', 'z'], outputs: ['y'], attrs: {} }],
    inputs: [
      { name: 'x', type, dims: ['n', 3] },
      { name: 'z', type, dims: ['n', 3] },
    ],
    outputs: [{ name: 'y', type: result, dims: ['n', 3] }],
    inner: [],
    initializers: [],
  });

/** Two results of `x` and `z`, `[n, 3]`. */
export const sumAndProduct: Uint8Array = encodeModel({
  nodes: [
    { op: 'Add', inputs: ['x', 'z'], outputs: ['sum'], attrs: {} },
    { op: 'Mul', inputs: ['x', 'z'], outputs: ['product'], attrs: {} },
  ],
  inputs: ['x', 'z'].map((name) => ({ name, type: 'f32', dims: ['n', 3] })),
  outputs: ['sum', 'product'].map((name) => ({ name, type: 'f32', dims: ['n', 3] })),
  inner: [],
  initializers: [],
});

/** y = x + c, where c are `length` stored numbers. */
export const addStored = (length: number): Uint8Array =>
  encodeModel({
    nodes: [{ op: 'Add', inputs: ['x', 'c'], outputs: ['y'], attrs: {} }],
    inputs: [{ name: 'x', type: 'f32', dims: [length] }],
    outputs: [{ name: 'y', type: 'f32', dims: [length] }],
    inner: [],
    initializers: [{ name: 'c', type: 'f32', dims: [length], data: Array.from({ length }, (_, i) => i) }],
  });
