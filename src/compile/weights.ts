import { invariant, unreachable } from '../errors.js';
import { PIECE_BYTES, rangesOf } from '../files/pieces.js';
import type { SafetensorsDtype, SafetensorsEntry, StoredData } from '../files/safetensors.js';
import { constantTensor } from '../ir/onnx/attribute.js';
import type { OnnxInitializer, OnnxModel } from '../ir/onnx/model.js';
import type { ParameterEntry, WeightLocation } from '../package/manifest.js';

/** Initialisers, and the tensors of Constant nodes by their output. */
export function storedTensors(model: OnnxModel): (name: string) => OnnxInitializer | undefined {
  const constants = new Map(model.nodes.map((node) => [node.outputs[0] ?? '', node]));
  return (name) => {
    const constant = constants.get(name);
    return model.initializers.get(name) ?? (constant && constantTensor(constant));
  };
}

/**
 * Where a package finds a weight: in the model, or in the model's own external data. Typed fields are no range of any
 * file: such a weight is written into the package.
 */
export function weightOf(stored: OnnxInitializer | undefined): WeightLocation {
  if (stored === undefined || !stored.isPresent()) return { kind: 'absent' };
  const { location, dtype, bytes } = stored;
  switch (location.kind) {
    case 'inline':
      return { kind: 'model', offset: location.offset, bytes, dtype };
    case 'external':
      return { kind: 'external', file: location.file, offset: location.offset, bytes, dtype };
    case 'fields':
      return { kind: 'safetensors' };
    default:
      return unreachable(location);
  }
}

/** The weights that a package holds itself, read when they are written, in pieces. */
export function ownWeights(
  model: OnnxModel,
  parameters: readonly ParameterEntry[],
  pieceBytes: number = PIECE_BYTES,
): readonly SafetensorsEntry[] {
  const stored = storedTensors(model);
  return parameters
    .filter(({ weight }) => weight.kind === 'safetensors')
    .map(({ name, shape }) => {
      const tensor = stored(name);
      invariant(tensor !== undefined, `${name} is not stored`);
      const { dtype, make } = formatOf(tensor);
      const data = function* (): Generator<StoredData> {
        for (const { start, end } of rangesOf(tensor.bytes, Math.max(8, pieceBytes - (pieceBytes % 8))))
          yield make(Uint8Array.from(tensor.readRange(start, end - start)).buffer);
      };
      return { name, dtype, shape, data };
    });
}

interface Format {
  readonly dtype: SafetensorsDtype;
  make(bytes: ArrayBuffer): StoredData;
}

function formatOf({ name, dtype }: OnnxInitializer): Format {
  switch (dtype) {
    case 'f64':
      return { dtype: 'F64', make: (bytes) => new Float64Array(bytes) };
    case 'f32':
      return { dtype: 'F32', make: (bytes) => new Float32Array(bytes) };
    case 'f16':
      return { dtype: 'F16', make: (bytes) => new Uint16Array(bytes) };
    case 'bf16':
      return { dtype: 'BF16', make: (bytes) => new Uint16Array(bytes) };
    default:
      invariant(false, `parameter ${name} has element type ${dtype}`);
  }
}
