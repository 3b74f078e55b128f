/** Small ONNX files for tests, and a folder to put them in. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import { afterAll } from 'vitest';

export interface Small {
  readonly inputs?: readonly onnx.IValueInfoProto[];
  readonly outputs?: readonly string[];
  readonly nodes: readonly onnx.INodeProto[];
  readonly initializers?: readonly onnx.ITensorProto[];
  readonly valueInfo?: readonly onnx.IValueInfoProto[];
}

/** A float32 value of given sizes. */
export function floats(name: string, dims: readonly (number | string)[]): onnx.IValueInfoProto {
  const dim = dims.map((size) => (typeof size === 'number' ? { dimValue: size } : { dimParam: size }));
  return { name, type: { tensorType: { elemType: 1, shape: { dim } } } };
}

/** The bytes of a model, opset 20; every output is float32 of unknown shape. */
export function encode({
  inputs = [],
  outputs = ['y'],
  nodes,
  initializers = [],
  valueInfo = [],
}: Small): Uint8Array {
  const output = outputs.map((name) => ({ name, type: { tensorType: { elemType: 1 } } }));
  return onnxProto.onnx.ModelProto.encode({
    irVersion: 8,
    opsetImport: [{ domain: '', version: 20 }],
    producerName: 'test',
    graph: {
      name: 'g',
      node: [...nodes],
      initializer: [...initializers],
      input: [...inputs],
      output,
      valueInfo: [...valueInfo],
    },
  }).finish();
}

/** y = x · w for a stored 2×3 tensor `w`. */
export function product(w: onnx.ITensorProto): Uint8Array {
  return encode({
    inputs: [floats('x', ['n', 2])],
    nodes: [{ opType: 'MatMul', input: ['x', 'w'], output: ['y'] }],
    initializers: [{ name: 'w', dims: [2, 3], dataType: 1, ...w }],
  });
}

/** Raw data of float32 numbers. */
export function raw(values: readonly number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(values).buffer);
}

/** An `external_data` tensor. */
export function external(entries: Readonly<Record<string, string>>): onnx.ITensorProto {
  return { dataLocation: 1, externalData: Object.entries(entries).map(([key, value]) => ({ key, value })) };
}

/** A folder that is removed after the file's tests. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'ithaca-onnx-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Writes a file; returns its path. */
export function put(folder: string, name: string, bytes: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}
