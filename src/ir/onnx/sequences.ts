/** Sequences of tensors that are known lists: TorchScript splits, picks and joins so. No sequence is left after import. */
import type { Expansion } from './inline.js';
import type { OnnxNode } from './model.js';

/** What folding needs to know of values. */
export interface KnownValues {
  /** Elements of an integer tensor, where they are known numbers. */
  ints(name: string): readonly number[] | undefined;
  /** A size of a tensor, where it is a number. */
  size(name: string, axis: number): number | undefined;
  readonly opset: number;
}

/** Longer lists are refused: their operator is then named. */
const MAX_PARTS = 1024;

const int = (node: OnnxNode, name: string, otherwise: number): number => {
  const found = node.attributes.get(name);
  return found?.kind === 'int' ? Number(found.value) : otherwise;
};

/**
 * Replaces the nodes of one graph, given in execution order, that make, change or read a known list.
 * @returns a function that gives undefined for nodes that stay as they are
 */
export function sequenceFolder(known: KnownValues): (node: OnnxNode) => Expansion | undefined {
  const lists = new Map<string, readonly string[]>();
  const keep = (node: OnnxNode, list: readonly string[], nodes: readonly OnnxNode[] = []): Expansion => {
    lists.set(node.outputs[0]!, list);
    return { nodes, initializers: [] };
  };
  /** The place a node means in a list of so many; undefined where it is not known. */
  const placeOf = (node: OnnxNode, operand: number, count: number): number | undefined => {
    const name = node.inputs[operand] ?? '';
    const [place, ...more] = name === '' ? [undefined] : (known.ints(name) ?? []);
    if (place === undefined || more.length > 0) return undefined;
    const normal = place < 0 ? place + count : place;
    return normal >= 0 && normal <= count ? normal : undefined;
  };
  return (node) => {
    if (node.domain !== '' && node.domain !== 'ai.onnx') return undefined;
    const list = lists.get(node.inputs[0] ?? '');
    switch (node.opType) {
      case 'SequenceEmpty':
        return keep(node, []);
      case 'SequenceConstruct':
        return keep(node, node.inputs);
      case 'SplitToSequence': {
        const split = splitOf(node, known);
        return split && keep(node, split.outputs, [split]);
      }
    }
    if (list === undefined) return undefined;
    const given = (node.inputs[node.opType === 'SequenceInsert' ? 2 : 1] ?? '') !== '';
    switch (node.opType) {
      case 'Identity':
        return keep(node, list);
      case 'SequenceInsert': {
        const at = given ? placeOf(node, 2, list.length) : list.length;
        return at === undefined || list.length >= MAX_PARTS
          ? undefined
          : keep(node, [...list.slice(0, at), node.inputs[1]!, ...list.slice(at)]);
      }
      case 'SequenceErase': {
        const at = given ? placeOf(node, 1, list.length) : list.length - 1;
        return at === undefined || at >= list.length || at < 0
          ? undefined
          : keep(node, list.toSpliced(at, 1));
      }
      case 'SequenceAt': {
        const at = placeOf(node, 1, list.length);
        const name = at === undefined ? undefined : list[at];
        if (name === undefined) return undefined;
        return { nodes: [{ ...node, opType: 'Identity', inputs: [name] }], initializers: [] };
      }
      case 'ConcatFromSequence':
        return int(node, 'new_axis', 0) === 1 || list.length === 0
          ? undefined
          : { nodes: [{ ...node, opType: 'Concat', inputs: list }], initializers: [] };
      default:
        return undefined;
    }
  };
}

/** The Split that gives the parts of a SplitToSequence. */
function splitOf(node: OnnxNode, known: KnownValues): OnnxNode | undefined {
  const [x, sizes = ''] = node.inputs as readonly [string, string?];
  const axis = int(node, 'axis', 0);
  const given = sizes === '' ? [1] : known.ints(sizes);
  // Parts of size 1 lose their dim where the sizes are not given.
  if (given === undefined || (sizes === '' && int(node, 'keepdims', 1) === 0)) return undefined;
  const whole = known.size(x, axis);
  const [size = 0] = given;
  // One number may be a list of one size, or the size of all parts.
  const equal = given.length === 1 && whole !== undefined && size > 0 && size !== whole;
  if (given.length === 1 && !equal && whole !== size) return undefined;
  const count = equal ? Math.ceil(whole / size) : given.length;
  // Parts of a last one that is smaller have no equal size for Split to find.
  if (count < 1 || count > MAX_PARTS || (equal && whole % size !== 0)) return undefined;
  const attributes = new Map(node.attributes);
  attributes.delete('keepdims');
  attributes.set('axis', { kind: 'int', value: axis });
  const asked = equal || count === 1;
  if (asked && known.opset >= 18) attributes.set('num_outputs', { kind: 'int', value: count });
  const outputs = Array.from({ length: count }, (_, i) => `${node.outputs[0]}/${i}`);
  return { ...node, opType: 'Split', inputs: asked ? [x] : [x, sizes], outputs, attributes };
}
