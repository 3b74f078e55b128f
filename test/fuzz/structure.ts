/** Damage to the structure of a model: names, edges, attributes, shapes, constants, control flow, files. */
import type { onnx } from 'onnx-proto';
import type { Dice } from './dice.js';
import {
  asNumber,
  edge,
  edgeInteger,
  freshName,
  graphOf,
  int64,
  intTensor,
  nodesOf,
  tensorsOf,
  type Model,
  type Node,
  type Tensor,
} from './proto.js';

export type StructureEdit = (model: Model, dice: Dice) => void;

export const ODD_NAMES: readonly string[] = [
  '__proto__',
  'constructor',
  'toString',
  'hasOwnProperty',
  '',
  'tokens',
  'positions',
  'documents',
  'labels',
  'logits',
  'loss_sum',
  'grad/x',
  'a\nb',
  '\u001b[2Jgone',
  '../x',
  '\u0000',
  'x'.repeat(5000),
  '%0 = evil',
  '"; return',
  '\ud800',
];

const OPS: readonly string[] =
  'Add Sub Mul Div Mod Pow Sqrt Neg Reshape Transpose Expand Tile Concat Slice Gather GatherND GatherElements ScatterND Where Cast Shape Size Range ConstantOfShape CumSum Trilu Pad TopK MatMul Gemm Softmax ReduceMean ReduceSum ReduceMax LayerNormalization RMSNormalization Attention RotaryEmbedding Squeeze Unsqueeze Split Identity Flatten Equal Less And Or Not Einsum If Loop Scan Constant NonZero OneHot Resize Conv Dropout Clip Erf Tanh Gelu Max Min Abs Sign Floor IsNaN SequenceEmpty Optional StringNormalizer'.split(
    ' ',
  );

const ATTRIBUTES: readonly string[] =
  'axis axes perm to keepdims allowzero start end epsilon transA transB alpha beta batch_dims exclusive reverse upper value value_int value_ints is_causal scale q_num_heads kv_num_heads num_outputs split largest sorted k noop_with_empty_axes interleaved rotary_embedding_dim num_heads softcap mode fmod direction approximate stash_type'.split(
    ' ',
  );

const anyName = (model: Model, dice: Dice): string => {
  const nodes = nodesOf(model);
  const node = nodes.length > 0 ? dice.pick(nodes) : undefined;
  const names = [...(node?.output ?? []), ...(node?.input ?? [])];
  return names.length > 0 ? dice.pick(names) : 'x';
};

const someNode = (model: Model, dice: Dice): Node | undefined =>
  nodesOf(model).length > 0 ? dice.pick(nodesOf(model)) : undefined;

/** Renames a value wherever it stands in the outermost graph. */
function rename(model: Model, from: string, to: string): void {
  const renamed = (list: string[] | null | undefined): string[] =>
    (list ?? []).map((name) => (name === from ? to : name));
  for (const node of nodesOf(model)) {
    node.input = renamed(node.input);
    node.output = renamed(node.output);
  }
  const graph = graphOf(model);
  for (const item of [...tensorsOf(model), ...(graph.input ?? []), ...(graph.output ?? [])])
    if (item.name === from) item.name = to;
}

/** Small integer constants, initializers and Constant nodes alike. */
function smallInts(model: Model): Tensor[] {
  const constants = nodesOf(model).flatMap((node) =>
    node.opType === 'Constant' ? (node.attribute ?? []).flatMap((a) => a.t ?? []) : [],
  );
  return [...tensorsOf(model), ...constants].filter(
    (tensor) => tensor.dataType === 7 && (tensor.rawData?.length ?? 0) <= 128,
  );
}

function someTensor(model: Model, dice: Dice): Tensor | undefined {
  const small = smallInts(model);
  const all = tensorsOf(model);
  if (small.length > 0 && (dice.chance(0.5) || all.length === 0)) return dice.pick(small);
  return all.length > 0 ? dice.pick(all) : undefined;
}

function changeAttribute(attribute: onnx.IAttributeProto, dice: Dice): void {
  switch (dice.below(7)) {
    case 0:
      attribute.type = dice.below(16) as onnx.AttributeProto.AttributeType;
      return;
    case 1:
      attribute.name = dice.pick([...ATTRIBUTES, ...ODD_NAMES]);
      return;
    case 2:
      attribute.refAttrName = dice.pick(ODD_NAMES);
      return;
    default:
  }
  attribute.i = asNumber(edgeInteger(dice));
  attribute.f = dice.pick([0, -1, NaN, Infinity, 1e-45, 3.4e38, 0.5]);
  if ((attribute.ints?.length ?? 0) > 0) {
    const list = [...attribute.ints!];
    const way = dice.below(4);
    if (way === 0) list.push(asNumber(edgeInteger(dice)));
    else if (way === 1) list.pop();
    else list[dice.below(list.length)] = asNumber(edgeInteger(dice));
    attribute.ints = list;
  }
}

const deepBody = (levels: number, name: string): onnx.IGraphProto => {
  const branch = (key: string, body: onnx.IGraphProto): onnx.IAttributeProto => ({
    name: key,
    type: 5,
    g: body,
  });
  let body: onnx.IGraphProto = {
    name: 'leaf',
    node: [{ opType: 'Identity', input: [name], output: ['deep_0'] }],
    output: [{ name: 'deep_0', type: { tensorType: { elemType: 1 } } }],
  };
  for (let level = 1; level < levels; level++) {
    const output = `deep_${level}`;
    const node = {
      opType: 'If',
      input: [name],
      output: [output],
      attribute: [branch('then_branch', body), branch('else_branch', { ...body, name: 'else' })].slice(0, 1),
    };
    body = { name: 'body', node: [node], output: [{ name: output, type: { tensorType: { elemType: 1 } } }] };
  }
  return body;
};

export const LOCATIONS: readonly string[] = [
  'weights.bin',
  '../canary.bin',
  'sub/../../canary.bin',
  'link.bin',
  'linkdir/canary.bin',
  'subdir',
  '/etc/passwd',
  '/proc/self/mem',
  '/dev/zero',
  'C:\\x.bin',
  '..\\canary.bin',
  '',
  '.',
  'model.onnx',
  'missing.bin',
  'nul\u0000.bin',
  'file:///etc/passwd',
  'cwd.bin',
  'pipe',
  'zero.bin',
  'circle.bin',
  'hard/../weights.bin',
];

/** Turns a stored tensor into one whose data lies in a file. */
function externalise(tensor: Tensor, dice: Dice): void {
  const bytes = tensor.rawData?.length ?? 4;
  const entries: Record<string, string> = {
    location: dice.pick(LOCATIONS),
    offset: dice.pick(['0', '0', '8', '-1', '1e3', '9007199254740991', '99999999999999999999', '']),
    length: dice.pick([String(bytes), String(bytes), '0', '-1', '9007199254740991']),
  };
  tensor.rawData = new Uint8Array(0);
  tensor.dataLocation = 1;
  tensor.externalData = Object.entries(entries)
    .filter(([key]) => key === 'location' || dice.chance(0.7))
    .map(([key, value]) => ({ key, value }));
}

export const STRUCTURE_EDITS: Readonly<Record<string, StructureEdit>> = {
  swapInputs: (model, dice) => {
    const node = someNode(model, dice);
    if ((node?.input?.length ?? 0) > 1) node!.input!.reverse();
  },
  rewire: (model, dice) => {
    const at = edge(model, dice);
    if (at) at.node.input![at.operand] = anyName(model, dice);
  },
  dropInput: (model, dice) => {
    const at = edge(model, dice);
    if (!at) return;
    if (dice.chance(0.5)) at.node.input![at.operand] = '';
    else at.node.input!.splice(at.operand, 1);
  },
  addInput: (model, dice) => {
    const node = someNode(model, dice);
    node?.input?.push(dice.chance(0.8) ? anyName(model, dice) : 'nothing');
  },
  removeNode: (model, dice) => void nodesOf(model).splice(dice.below(nodesOf(model).length), 1),
  repeatNode: (model, dice) => {
    const node = someNode(model, dice);
    if (node) nodesOf(model).splice(dice.below(nodesOf(model).length), 0, { ...node });
  },
  moveNode: (model, dice) => {
    const [node] = nodesOf(model).splice(dice.below(nodesOf(model).length), 1);
    if (node) nodesOf(model).splice(dice.below(nodesOf(model).length), 0, node);
  },
  renameValue: (model, dice) => rename(model, anyName(model, dice), dice.pick(ODD_NAMES)),
  renameParameter: (model, dice) => {
    const tensors = tensorsOf(model);
    if (tensors.length > 0) rename(model, dice.pick(tensors).name ?? '', dice.pick(ODD_NAMES));
  },
  renameNode: (model, dice) => {
    const node = someNode(model, dice);
    if (node) node.name = dice.pick(ODD_NAMES);
  },
  changeOp: (model, dice) => {
    const node = someNode(model, dice);
    if (node) node.opType = dice.chance(0.95) ? dice.pick(OPS) : dice.pick(ODD_NAMES);
  },
  changeDomain: (model, dice) => {
    const node = someNode(model, dice);
    if (node) node.domain = dice.pick(['ai.onnx', 'com.microsoft', 'pkg', 'ai.onnx.ml', ...ODD_NAMES]);
  },
  changeAttribute: (model, dice) => {
    const attributes = nodesOf(model).flatMap((node) => node.attribute ?? []);
    if (attributes.length > 0) changeAttribute(dice.pick(attributes), dice);
  },
  addAttribute: (model, dice) => {
    const node = someNode(model, dice);
    const attribute: onnx.IAttributeProto = {
      name: dice.pick(ATTRIBUTES),
      type: dice.pick([2, 2, 7, 1, 3]),
      i: asNumber(edgeInteger(dice)),
      ints: [edgeInteger(dice), edgeInteger(dice)].map(asNumber),
      s: new TextEncoder().encode(dice.pick(ODD_NAMES).replace('\ud800', '')),
    };
    node?.attribute?.push(attribute);
  },
  dropAttribute: (model, dice) => {
    const nodes = nodesOf(model).filter((node) => (node.attribute?.length ?? 0) > 0);
    if (nodes.length > 0) dice.pick(nodes).attribute!.pop();
  },
  inputShape: (model, dice) => {
    const infos = [...(graphOf(model).input ?? []), ...(graphOf(model).output ?? [])];
    const type = infos.length > 0 ? dice.pick(infos).type?.tensorType : undefined;
    if (!type) return;
    const dims = type.shape?.dim ?? [];
    const way = dice.below(5);
    if (way === 0) type.elemType = dice.below(24);
    else if (way === 1) type.shape = { dim: dims.slice(1) };
    else if (dims.length > 0) {
      const at = dice.below(dims.length);
      dims[at] = dice.chance(0.7)
        ? { dimValue: asNumber(edgeInteger(dice)) }
        : { dimParam: dice.pick(ODD_NAMES) };
    }
  },
  tensorShape: (model, dice) => {
    const tensor = someTensor(model, dice);
    if (!tensor) return;
    const dims = [...(tensor.dims ?? [])];
    const way = dice.below(4);
    if (way === 0) dims.push(asNumber(edgeInteger(dice)));
    else if (way === 1) dims.reverse();
    else dims[dice.below(Math.max(1, dims.length))] = asNumber(edgeInteger(dice));
    tensor.dims = dims;
  },
  tensorType: (model, dice) => {
    const tensor = someTensor(model, dice);
    if (tensor) tensor.dataType = dice.below(26);
  },
  tensorData: (model, dice) => {
    const tensor = someTensor(model, dice);
    if (!tensor?.rawData) return;
    const way = dice.below(3);
    if (way === 0) tensor.rawData = tensor.rawData.slice(0, dice.below(tensor.rawData.length + 1));
    else if (way === 1) tensor.floatData = [1, 2, 3];
    else tensor.rawData = Uint8Array.from(tensor.rawData, () => dice.below(256));
  },
  integers: (model, dice) => {
    const found = smallInts(model);
    const tensor = found.length > 0 ? dice.pick(found) : undefined;
    if (!tensor?.rawData || tensor.rawData.length < 8) return;
    const values = new BigInt64Array(Uint8Array.from(tensor.rawData).buffer);
    const integer = edgeInteger(dice);
    values[dice.below(values.length)] = (BigInt(integer.high) << 32n) | BigInt(integer.low >>> 0);
    tensor.rawData = new Uint8Array(values.buffer);
  },
  opset: (model, dice) => {
    const entry = {
      domain: dice.pick(['', '', 'ai.onnx', 'com.microsoft']),
      version: asNumber(edgeInteger(dice)),
    };
    if (dice.chance(0.5)) model.opsetImport = [entry];
    else model.opsetImport = [...(model.opsetImport ?? []), entry];
    if (dice.chance(0.3)) model.irVersion = asNumber(edgeInteger(dice));
  },
  commonOpset: (model, dice) => {
    model.opsetImport = [{ domain: '', version: 1 + dice.below(27) }];
  },
  outputs: (model, dice) => {
    const outputs = (graphOf(model).output ??= []);
    const name = dice.chance(0.7) ? anyName(model, dice) : 'nothing';
    const way = dice.below(3);
    if (way === 0) outputs.unshift({ name });
    else if (way === 1) outputs.pop();
    else outputs.forEach((output) => (output.name = name));
  },
  localFunction: (model, dice) => {
    const op = someNode(model, dice)?.opType ?? 'Add';
    const opType = dice.chance(0.3) ? op : 'Expand';
    const big = freshName('big');
    model.functions = [
      {
        name: op,
        domain: dice.pick(['', 'ai.onnx', 'local']),
        input: ['a', 'b'].slice(0, 1 + dice.below(2)),
        output: ['y'],
        opsetImport: [{ domain: '', version: 17 }],
        node: [
          {
            opType: 'Constant',
            output: [big],
            attribute: [{ name: 'value', type: 4, t: intTensor('', [2n ** 36n]) }],
          },
          { opType, input: ['a', big], output: ['y'] },
        ],
      },
    ];
  },
  nested: (model, dice) => {
    const at = edge(model, dice);
    if (!at) return;
    const attribute = { name: 'then_branch', type: 5, g: deepBody(1 + dice.below(80), at.name) };
    if (dice.chance(0.3)) at.node.attribute = [...(at.node.attribute ?? []), attribute];
    else {
      at.node.opType = 'If';
      at.node.attribute = [attribute, { ...attribute, name: 'else_branch' }];
    }
  },
  external: (model, dice) => {
    const tensor = someTensor(model, dice);
    if (tensor) externalise(tensor, dice);
  },
  externalAttribute: (model, dice) => {
    const tensors = nodesOf(model).flatMap((node) => (node.attribute ?? []).flatMap((a) => a.t ?? []));
    if (tensors.length > 0) externalise(dice.pick(tensors), dice);
  },
  constant: (model, dice) => {
    const constants = nodesOf(model).filter((node) => node.opType === 'Constant');
    if (constants.length === 0) return;
    const node = dice.pick(constants);
    node.attribute = [
      ...(dice.chance(0.5) ? (node.attribute ?? []) : []),
      dice.pick<onnx.IAttributeProto>([
        { name: 'value_int', type: 2, i: asNumber(int64(2n ** 62n)) },
        { name: 'value_ints', type: 7, ints: [asNumber(edgeInteger(dice))] },
        { name: 'value_string', type: 3, s: Uint8Array.of(65) },
        { name: 'value_strings', type: 8, strings: [Uint8Array.of(255)] },
        { name: 'sparse_value', type: 11, sparseTensor: { dims: [asNumber(edgeInteger(dice))] } },
        { name: 'value_float', type: 1, f: NaN },
      ]),
    ];
  },
};
