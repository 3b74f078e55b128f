/** Matrix products, with transposes and a bias absorbed, and table look-ups. */
import { invariant } from '../../../errors.js';
import { numberAttr, numbersAttr, only, type Node, type Value } from '../../../ir/graph.js';
import { sameSize } from '../../../ir/size.js';
import { dim, tensorType, type Dim, type Type } from '../../../ir/type.js';
import type { OrtValue } from './builder.js';
import { operandType, operands, resultType, type KernelContext, type OrtKernel } from './kernel.js';

const isMatrix = (type: Type): boolean => type.dims.length === 2;

const isMatrixProduct = (node: Node): boolean =>
  node.op === 'matmul' && node.operands.every((v) => isMatrix(v.type));

const isMatrixTranspose = (node: Node): boolean =>
  node.op === 'transpose' && isMatrix(only(node).type) && numbersAttr(node.attrs, 'perm')[0] !== 0;

/** The operand of an `add` that is a matrix product, when the other is a vector. */
const productOperand = (node: Node): number | undefined => {
  if (node.op !== 'add') return undefined;
  const at = node.operands.findIndex((v) => isMatrixProduct(v.node));
  const bias = node.operands[1 - at];
  if (at < 0 || bias?.type.dims.length !== 1) return undefined;
  const columns = node.operands[at]!.type.dims[1]!.size;
  return sameSize(bias.type.dims[0]!.size, columns) ? at : undefined;
};

/**
 * Nodes that their users compute: transposes of matrices that are only multiplied, and products that are
 * only added to a bias. `users` lists the nodes of the segment that use a value, `kept` its outputs.
 */
export function absorbedNodes(
  nodes: readonly Node[],
  users: ReadonlyMap<Value, readonly Node[]>,
  kept: ReadonlySet<Value>,
): ReadonlySet<Node> {
  const absorbed = new Set<Node>();
  for (const node of nodes) {
    const usedBy = node.results.length === 1 ? (users.get(only(node)) ?? []) : [];
    if (usedBy.length === 0 || kept.has(only(node))) continue;
    if (isMatrixTranspose(node) && usedBy.every(isMatrixProduct)) absorbed.add(node);
    const [user] = usedBy;
    const at = user === undefined ? undefined : productOperand(user);
    if (usedBy.length === 1 && at !== undefined && user!.operands[at]!.node === node) absorbed.add(node);
  }
  return absorbed;
}

function gemm(k: KernelContext, product: Node, bias: OrtValue | undefined): OrtValue {
  const sides = product.operands.map((value) => {
    const transposed = k.absorbed(value);
    return {
      value: k.lowered(transposed?.operands[0] ?? value),
      transposed: transposed === undefined ? 0 : 1,
    };
  });
  const [a, b] = sides;
  invariant(a !== undefined && b !== undefined, 'a product has two operands');
  const type = only(product).type;
  if (bias === undefined && a.transposed === 0 && b.transposed === 0)
    return k.build.op('MatMul', [a.value, b.value], type);
  return k.build.op('Gemm', [a.value, b.value, ...(bias === undefined ? [] : [bias])], type, {
    transA: a.transposed,
    transB: b.transposed,
  });
}

export const matmul: OrtKernel = {
  lower: (k) => {
    if (!isMatrixProduct(k.node)) return [k.build.op('MatMul', operands(k), resultType(k))];
    return [gemm(k, k.node, k.takeAccumulator())];
  },
};

export const add: OrtKernel = {
  lower: (k) => {
    const at = k.node.operands.findIndex((v) => k.absorbed(v) !== undefined);
    if (at < 0) return [k.build.op('Add', operands(k), resultType(k))];
    return [gemm(k, k.node.operands[at]!.node, k.operand(1 - at))];
  },
};

export const gather: OrtKernel = {
  lower: (k) => [k.build.op('Gather', [k.operand(0), k.operand(1)], resultType(k), { axis: 0 })],
};

/**
 * ScatterElements, because ONNX Runtime's ScatterND with `add` loses updates of repeated ids when it runs on
 * several threads. It keeps its indices as int64 inside.
 */
export const gatherVjp: OrtKernel = {
  lower: (k) => {
    const [ids, g] = [k.operand(0), k.operand(1)];
    const lead = operandType(k, 0).dims;
    const rest = operandType(k, 1).dims.slice(lead.length);
    const single = lead.length === 1;
    const rows: readonly Dim[] = single ? lead : [dim(1)];
    const count = single ? lead[0]! : lead;
    const flat = (x: OrtValue, dtype: 'i32' | 'f32', dims: readonly Dim[]): OrtValue =>
      k.build.op(
        'Reshape',
        [x, k.build.shape([count, ...dims])],
        tensorType(dtype, [...(single ? rows : lead), ...dims]),
        { allowzero: 1 },
      );
    const columns = flat(
      ids,
      'i32',
      rest.map(() => dim(1)),
    );
    const updates = single ? g : flat(g, 'f32', rest);
    const wide = tensorType('i32', [...lead, ...rest]);
    const indices = k.build.op('Expand', [columns, k.build.shape([count, ...rest])], wide);
    const table = tensorType('f32', [dim(numberAttr(k.attrs, 'rows')), ...rest]);
    const into = k.takeAccumulator() ?? zeros(k, table);
    return [
      k.build.op('ScatterElements', [into, indices, updates], resultType(k), { axis: 0, reduction: 'add' }, [
        wide,
        wide,
      ]),
    ];
  },
};

export const zeros = (k: KernelContext, type: Type): OrtValue =>
  k.build.op('ConstantOfShape', [k.build.shape(type.dims)], type);

/** Rows are added up at the number of their document, which is below the number of tokens, and read there again. */
export const documentSum: OrtKernel = {
  lower: (k) => {
    const [x, documents] = [k.operand(0), k.operand(1)];
    const type = resultType(k);
    const wide = tensorType('i32', type.dims);
    const column = tensorType('i32', [type.dims[0]!, dim(1)]);
    const numbers = k.build.op('Unsqueeze', [documents, k.build.int64s([1])], column);
    const indices = k.build.op('Expand', [numbers, k.build.shape(type.dims)], wide);
    const sums = k.build.op(
      'ScatterElements',
      [zeros(k, type), indices, x],
      type,
      { axis: 0, reduction: 'add' },
      [wide, wide],
    );
    return [k.build.op('Gather', [sums, documents], type, { axis: 0 })];
  },
};
