/** Models of any depth: a layer of an export, repeated. */
import { readFileSync } from 'node:fs';
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';

type Node = onnx.INodeProto;
type Tensor = onnx.ITensorProto;

/** What the second layer of test/models/llama reads and gives. */
const FROM = 'add_399';
const TO = 'add_689';

/** Names that a copy of the layer has for itself: its values, and the initializers that no one else reads. */
interface Layer {
  readonly nodes: readonly Node[];
  readonly weights: readonly Tensor[];
  readonly own: ReadonlySet<string>;
}

function layerOf(graph: onnx.IGraphProto): { first: number; layer: Layer } {
  const nodes = graph.node ?? [];
  const ends = [FROM, TO].map((name) => nodes.findIndex((node) => node.output?.includes(name)));
  const inside = nodes.slice(ends[0]! + 1, ends[1]! + 1);
  const elsewhere = new Set(
    nodes.filter((node) => !inside.includes(node)).flatMap((node) => node.input ?? []),
  );
  const read = new Set(inside.flatMap((node) => node.input ?? []));
  const weights = (graph.initializer ?? []).filter(({ name, dataType }) => {
    return dataType === 1 && read.has(name!) && !elsewhere.has(name!);
  });
  const own = new Set([...inside.flatMap((node) => node.output ?? []), ...weights.map(({ name }) => name!)]);
  return { first: ends[0]! + 1, layer: { nodes: inside, weights, own } };
}

/** Weights that differ in one number: equal ones would be found to be tied. */
function otherWeight(tensor: Tensor, name: string, layer: number): Tensor {
  const rawData = Uint8Array.from(tensor.rawData!);
  new DataView(rawData.buffer).setFloat32(0, layer / 1000, true);
  return { ...tensor, name, rawData };
}

/** test/models/llama with so many layers (2 or more) as the bytes of a model file. */
export function llamaOfLayers(file: string, layers: number): Uint8Array {
  const { ModelProto } = onnxProto.onnx;
  const model: onnx.IModelProto = ModelProto.decode(readFileSync(file));
  const graph = model.graph!;
  const { first, layer } = layerOf(graph);
  const nodes: Node[] = [];
  for (let at = 1; at < layers; at++) {
    const last = at === layers - 1;
    const renamed = (name: string): string => {
      if (name === FROM) return at === 1 ? FROM : `${TO}.${at - 1}`;
      if (name === TO && last) return TO;
      return layer.own.has(name) ? `${name}.${at}` : name;
    };
    for (const node of layer.nodes)
      nodes.push({
        ...node,
        name: `${node.name}.${at}`,
        input: node.input!.map(renamed),
        output: node.output!.map(renamed),
      });
    graph.initializer!.push(...layer.weights.map((w) => otherWeight(w, renamed(w.name!), at)));
  }
  graph.node!.splice(first, layer.nodes.length, ...nodes);
  const replaced = new Set(layer.weights.map(({ name }) => name));
  graph.initializer = graph.initializer!.filter(({ name }) => !replaced.has(name));
  return ModelProto.encode(model).finish();
}
