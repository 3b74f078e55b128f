import { topologicalOrder, type Graph, type Node } from '../ir/graph.js';
import { evaluateSize } from '../ir/size.js';
import { numberOfElements } from '../ir/type.js';

export type SectionKind = 'before' | 'layer' | 'after' | 'whole';

/** A stretch of a program: what leads to the layers, one layer, what follows them. */
export interface Section {
  readonly kind: SectionKind;
  /** Number of the layer, from 0; 0 for others. */
  readonly index: number;
  readonly forward: readonly Node[];
  readonly backward: readonly Node[];
}

/** Nodes of a scheduled program without inputs, in order, cut where the loss is known. */
export interface Phases {
  readonly forward: readonly Node[];
  readonly backward: readonly Node[];
}

export function phasesOf(graph: Graph): Phases {
  const nodes = topologicalOrder(graph).filter((node) => node.op !== 'input');
  const loss = graph.outputs.find(({ name }) => name === 'loss_sum')?.value.node;
  const end = loss === undefined ? nodes.length : nodes.indexOf(loss) + 1;
  return { forward: nodes.slice(0, end), backward: nodes.slice(end) };
}

/**
 * Cuts a program into layers, one for each attention, without a look at names: between two attentions, at the last
 * place where the fewest elements are alive, which is where the residual stream stands alone. Backward nodes belong
 * to the section of the forward nodes that they carry the name of.
 */
export function sectionsOf(graph: Graph): Section[] {
  const { forward, backward } = phasesOf(graph);
  const cuts = cutsOf(forward);
  const ranges = cuts.slice(0, -1).map((from, i) => forward.slice(from, cuts[i + 1]));
  const pieces =
    cuts.length === 0 ? [forward] : [forward.slice(0, cuts[0]), ...ranges, forward.slice(cuts.at(-1))];
  const own = assign(pieces, backward);
  return pieces.map((nodes, i) => ({
    kind: cuts.length === 0 ? 'whole' : i === 0 ? 'before' : i === pieces.length - 1 ? 'after' : 'layer',
    index: cuts.length === 0 || i === pieces.length - 1 ? 0 : Math.max(0, i - 1),
    forward: nodes,
    backward: own[i]!,
  }));
}

/** Where layers begin, and where the last one ends; nothing when there is no attention. */
function cutsOf(forward: readonly Node[]): number[] {
  const attentions = forward.flatMap((node, i) => (node.op === 'attention' ? [i] : []));
  if (attentions.length === 0) return [];
  const alive = aliveAfter(forward);
  const cuts = [lastLeast(alive, 0, attentions[0]!)];
  for (let i = 1; i < attentions.length; i++) cuts.push(lastLeast(alive, attentions[i - 1]!, attentions[i]!));
  cuts.push(endOfLast(alive, cuts, attentions));
  return cuts;
}

/** What follows the last attention is as long as what follows the one before it, where that is a cut too. */
function endOfLast(alive: readonly number[], cuts: readonly number[], attentions: readonly number[]): number {
  const [previous, last] = [attentions.at(-2), attentions.at(-1)!];
  const least = lastLeast(alive, last, alive.length - 1);
  const repeated = previous === undefined ? least : last + (cuts.at(-1)! - previous);
  return alive[repeated - 1] === alive[least - 1] ? repeated : least;
}

/** Index after the last node in [from, to) that leaves the fewest elements alive, some at least. */
function lastLeast(alive: readonly number[], from: number, to: number): number {
  let [least, at] = [Infinity, from];
  for (let i = from; i < to; i++) {
    const now = alive[i]!;
    if (now > 0 && now <= least) [least, at] = [now, i + 1];
  }
  return at;
}

/** A row long enough that tokens outweigh everything else. */
const TOKENS = new Map([['S', 2 ** 20]]);

/** Elements that later forward nodes read, after each node. */
function aliveAfter(forward: readonly Node[]): number[] {
  const position = new Map(forward.map((node, i) => [node, i]));
  const lastUse = new Map<Node['results'][number], number>();
  forward.forEach((node, i) => node.operands.forEach((value) => lastUse.set(value, i)));
  const change = new Float64Array(forward.length + 1);
  for (const [value, last] of lastUse) {
    const first = position.get(value.node);
    if (first === undefined) continue;
    const elements = evaluateSize(numberOfElements(value.type), TOKENS);
    change[first]! += elements;
    change[last]! -= elements;
  }
  let sum = 0;
  return forward.map((_, i) => (sum += change[i]!));
}

/** Backward nodes by section. Those without a name of the forward pass follow what they read. */
function assign(pieces: readonly (readonly Node[])[], backward: readonly Node[]): Node[][] {
  const home = new Map<Node, number>();
  const named = new Map<string, number>();
  pieces.forEach((nodes, i) =>
    nodes.forEach((node) => {
      home.set(node, i);
      if (node.loc !== undefined) named.set(node.loc, i);
    }),
  );
  const found: Node[][] = pieces.map(() => []);
  let last = pieces.length - 1;
  for (const node of backward) {
    const own = node.loc === undefined ? undefined : named.get(node.loc);
    const near = node.operands.map((v) => home.get(v.node)).find((i) => i !== undefined);
    last = own ?? near ?? last;
    home.set(node, last);
    found[last]!.push(node);
  }
  return found;
}
