import { isFloat } from './dtype.js';
import type { OnnxInitializer, OnnxModel, OnnxNode } from './model.js';

/** Longer paths are no modules of anybody's. */
const MAX_PATH = 4000;

/** The parameter an initializer came from, in PyTorch's terms. */
export interface TorchName {
  /** As in `module.named_parameters()`. */
  readonly name: string;
  /** `transposed`: the initializer is the 2-D parameter's transpose. */
  readonly layout: 'same' | 'transposed';
}

/** Names that exporters make up for folded constants: `val_101`, `onnx::MatMul_692`, `_val_3`, `tensor_5`. */
const MADE_UP = /^(_?val_\d+|onnx::|_?tensor_|_?const(ant)?_|\/)|(_output_\d+$)/i;
/** A dotted path of identifiers or indices, ending in the parameter's own name. */
const TORCH_NAME = /^[A-Za-z_]\w*(\.\w+)+$/;

/**
 * Recovers the torch name of an initializer: its own name when it is one, else from the node that uses it
 * (the scope in the exporter's metadata, or the TorchScript node name), which tells the module; a folded
 * 2-D weight of a linear layer is the transpose of that module's `weight`.
 * @returns undefined for constants that are no parameter, and where the file does not tell
 */
export function torchName(model: OnnxModel, initializer: string): TorchName | undefined {
  const stored = model.initializers.get(initializer);
  if (stored === undefined || !isFloat(stored.dtype)) return undefined;
  if (TORCH_NAME.test(initializer) && !MADE_UP.test(initializer)) {
    return { name: initializer, layout: 'same' };
  }
  for (const { node, operand } of usesOf(model).get(initializer) ?? []) {
    const found = nameFromUse(node, operand, stored);
    if (found !== undefined) return found;
  }
  return undefined;
}

interface Use {
  readonly node: OnnxNode;
  /** The first, where it reads the tensor twice. */
  readonly operand: number;
}

const uses = new WeakMap<OnnxModel['nodes'], ReadonlyMap<string, readonly Use[]>>();

/** The nodes that read each initializer, in their order. */
function usesOf({ nodes, initializers }: OnnxModel): ReadonlyMap<string, readonly Use[]> {
  const known = uses.get(nodes);
  if (known !== undefined) return known;
  const found = new Map<string, Use[]>();
  for (const node of nodes)
    node.inputs.forEach((name, operand) => {
      if (!initializers.has(name)) return;
      const own = found.get(name) ?? [];
      if (own.at(-1)?.node !== node) own.push({ node, operand });
      found.set(name, own);
    });
  uses.set(nodes, found);
  return found;
}

/** Only the operands that linear layers have tell the parameter apart from other constants of a module. */
function nameFromUse(node: OnnxNode, operand: number, stored: OnnxInitializer): TorchName | undefined {
  const module = linearModule(node);
  if (module === undefined || module.length > MAX_PATH) return undefined;
  if (operand === 1 && stored.dims.length === 2 && (node.opType === 'MatMul' || node.opType === 'Gemm')) {
    const transB = node.attributes.get('transB');
    const transposed = !(transB?.kind === 'int' && transB.value === 1);
    return { name: `${module}.weight`, layout: transposed ? 'transposed' : 'same' };
  }
  const bias = (node.opType === 'Gemm' && operand === 2) || node.opType === 'Add';
  return bias && stored.dims.length === 1 ? { name: `${module}.bias`, layout: 'same' } : undefined;
}

/** The path of the linear module that a node was exported from. */
function linearModule(node: OnnxNode): string | undefined {
  const scopes = node.metadata.get('pkg.torch.onnx.name_scopes');
  if (scopes !== undefined) {
    // A Python list of nested scopes, the last being the operation: ['', 'model', 'model.fc', 'linear'].
    const list = [...scopes.matchAll(/'([^']*)'/g)].map((match) => match[1] ?? '');
    const target = /target=torch\.ops\.aten\.(\w+)/.exec(node.metadata.get('pkg.torch.onnx.fx_node') ?? '');
    const module = list.at(-2);
    // Files stripped of their other metadata still name the operation in the last scope.
    const isLinear = target === null ? /^linear(_\d+)?$/.test(list.at(-1) ?? '') : target[1] === 'linear';
    return isLinear && module !== undefined && module !== '' ? module : undefined;
  }
  // TorchScript: /model/layers.0/self_attn/q_proj/MatMul, with _1, _2… on repeated operations.
  const path = /^\/(.+)\/(MatMul|Gemm|Add)$/.exec(node.name);
  return path?.[1]?.replaceAll('/', '.');
}
