import type { Node, Value } from '../../ir/graph.js';
import type { Builder } from '../../ir/op.js';

/** What nearly matched, and what was missing. */
export interface NearMiss {
  readonly nearMiss: string;
}

/** What a recognition rule makes of a node: its replacement, a reason why it is not quite one, or nothing. */
export type Recognition = Value | NearMiss | undefined;

export type RecognitionRule = (node: Node, build: Builder) => Recognition;

export const isNearMiss = <T extends object>(found: T | NearMiss): found is NearMiss => 'nearMiss' in found;

/** How messages name a node: its op and where it came from. */
export const describe = (node: Node): string =>
  node.op === 'input'
    ? `input '${String(node.attrs['name'])}'`
    : `${node.op}${node.loc === undefined ? '' : ` at ${node.loc}`}`;
