import path from 'node:path';
import { lowerModel, type Lowered } from '../../src/compile/compile.js';
import { parseConfig } from '../../src/config.js';
import { inputName, inputRole, type Graph } from '../../src/ir/graph.js';
import type { Tensor } from '../../src/ir/op.js';
import { constantTensor } from '../../src/ir/onnx/attribute.js';
import { readOnnxModel } from '../../src/ir/onnx/decode.js';
import { packDocuments } from '../../src/runtime/data/pack.js';
import { targetsOf, type OracleDocument } from './oracle.js';

/** A model of test/models, compiled but not written. */
export const lowered = (folder: string, config: unknown = {}): Promise<Lowered> =>
  lowerModel(path.join(folder, 'model.onnx'), {
    config: parseConfig(config, 'test'),
    weights: true,
    replace: false,
  });

/** The model's weights as whole reference tensors, by initialiser. */
export function weightsOf(folder: string, graph: Graph): Map<string, Tensor> {
  const model = readOnnxModel(path.join(folder, 'model.onnx'), { weights: true });
  return new Map(
    graph.inputs
      .filter((v) => inputRole(v) === 'parameter')
      .map((v) => {
        const name = inputName(v);
        const node = model.nodes.find(({ outputs }) => outputs[0] === name);
        const tensor = (model.initializers.get(name) ?? constantTensor(node!))!.read();
        return [inputName(v), { shape: [...tensor.dims], data: Float64Array.from(tensor.toFloat64()) }];
      }),
  );
}

/** Documents as one packed row of reference tensors; labels are shifted here, per document. */
export function rowOf(documents: readonly OracleDocument[]): Map<string, Tensor> {
  const packed = packDocuments(
    documents.map((document) => ({
      ids: Int32Array.from(document.ids),
      labels: Int32Array.from(targetsOf(document)),
      ...(document.types && { types: Int32Array.from(document.types) }),
      origin: 'test',
    })),
  );
  const row = (data: Int32Array): Tensor => ({ shape: [data.length], data: Float64Array.from(data) });
  return new Map(Object.entries(packed).map(([k, v]) => [k, row(v as Int32Array)]));
}
