/**
 * Walks a model file without decoding it: finds the byte ranges of nodes and tensors, reads what the decoder
 * does not know (`metadata_props` of nodes), bounds nesting and size, and writes a *skeleton* of the file: the
 * same messages without tensor data and documentation. Only the skeleton is given to the protobuf decoder. In
 * it a tensor's `raw_data` and a node's `doc_string` hold that tensor's or node's number in `ScannedModel`.
 */
import { UserError } from '../../errors.js';
import type { ByteSource } from './bytes.js';
import { fieldsOf, isMessage } from './schema.js';
import type { FieldKind, MessageName, ScalarKind } from './schema.js';
import { WireError, concat, encodeField, encodeString, encodeVarint, wireReader } from './wire.js';
import type { WireField, WireReader } from './wire.js';

/** A message in the file, and the messages around it, which a change of its length changes. */
export interface MessageSpan {
  readonly parent: MessageSpan | undefined;
  readonly tagAt: number;
  readonly lengthAt: number;
  readonly start: number;
  readonly end: number;
}

/** Tensor data in the file: one packed (or raw) field, or a run of consecutive unpacked fields. */
export interface DataSpan {
  /** 4 float, 5 int32, 6 string, 7 int64, 9 raw, 10 double, 11 uint64. */
  readonly field: number;
  readonly packed: boolean;
  readonly tagAt: number;
  readonly start: number;
  readonly end: number;
}

export interface ScannedTensor {
  readonly message: MessageSpan;
  readonly data: readonly DataSpan[];
  /** `external_data` entries, in file order. */
  readonly external: readonly {
    readonly tagAt: number;
    readonly end: number;
    readonly key: string;
    readonly value: string;
  }[];
}

export interface ScannedNode {
  readonly message: MessageSpan;
  readonly metadata: ReadonlyMap<string, string>;
}

export interface ScannedModel {
  readonly skeleton: Uint8Array;
  readonly tensors: readonly ScannedTensor[];
  readonly nodes: readonly ScannedNode[];
  /** Spans of the model's `opset_import` (8) and `functions` (25) entries, tags included. */
  readonly preamble: readonly { readonly tagAt: number; readonly end: number }[];
}

/** A graph inside a node inside a graph is three messages deep; exporters nest two or three graphs. */
const MAX_DEPTH = 64;
/**
 * Bounds on what a hostile file can make the decoder allocate. Exports have about 80 nodes a layer, and tens
 * of fields a node; fields include the numbers in lists.
 */
const MAX_FIELDS = 4_000_000;
const MAX_MESSAGES = 1_000_000;
const MAX_NODES_AND_TENSORS = 250_000;
const MAX_SKELETON_BYTES = 128 * 1024 * 1024;
const NO_METADATA: ReadonlyMap<string, string> = new Map();

const TENSOR_DATA = new Set([4, 5, 6, 7, 9, 10, 11]);
const WIRE_TYPES: { readonly [K in ScalarKind]: readonly number[] } = {
  varint: [0],
  fixed32: [5],
  bytes: [2],
  varints: [0, 2],
  fixed32s: [5, 2],
  fixed64s: [1, 2],
};

/** @throws UserError when the file is no ONNX model, is truncated, or exceeds the bounds */
export function scanModel(source: ByteSource): ScannedModel {
  try {
    return scan(source);
  } catch (error) {
    if (!(error instanceof WireError)) throw error;
    const where = `byte ${error.at} of ${source.size}: ${error.message}`;
    if (error.truncated && error.at > 0) {
      throw new UserError(
        `${source.path}: truncated ONNX file, or not an ONNX file (${where})`,
        'download or export the file again',
        { cause: error },
      );
    }
    throw new UserError(
      `${source.path}: not an ONNX file (${where})`,
      'give a model.onnx, as torch.onnx.export writes it',
      { cause: error },
    );
  }
}

interface ScanState {
  readonly source: ByteSource;
  readonly reader: WireReader;
  readonly tensors: ScannedTensor[];
  readonly nodes: ScannedNode[];
  readonly preamble: { tagAt: number; end: number }[];
  fields: number;
  messages: number;
  skeletonBytes: number;
}

function scan(source: ByteSource): ScannedModel {
  const state: ScanState = {
    source,
    reader: wireReader(source),
    tensors: [],
    nodes: [],
    preamble: [],
    fields: 0,
    messages: 0,
    skeletonBytes: 0,
  };
  const root: MessageSpan = { parent: undefined, tagAt: 0, lengthAt: 0, start: 0, end: source.size };
  const skeleton = scanMessage(state, 'Model', root, 1) ?? keep(state, 0, source.size);
  return { skeleton, tensors: state.tensors, nodes: state.nodes, preamble: state.preamble };
}

/** Walks one message; returns its skeleton body, or undefined when that is the message itself. */
function scanMessage(
  state: ScanState,
  name: MessageName,
  span: MessageSpan,
  depth: number,
): Uint8Array | undefined {
  if (depth > MAX_DEPTH) {
    throw new WireError(span.tagAt, false, `messages nested deeper than ${MAX_DEPTH}`);
  }
  if (++state.messages > MAX_MESSAGES) tooLarge(state, `more than ${MAX_MESSAGES} messages`);
  const kinds = fieldsOf(name);
  const parts: Uint8Array[] = [];
  const recorded: WireField[] = [];
  // Bytes from here on are not yet in `parts`.
  let pending = span.start;
  const flush = (from: number, to: number): void => {
    if (from > pending) parts.push(keep(state, pending, from));
    pending = to;
  };
  let graphs = 0;
  for (let at = span.start; at < span.end;) {
    const field = state.reader.field(at, span.end);
    at = field.end;
    countFields(state, 1);
    const kind = kinds.get(field.number);
    if (kind === undefined) {
      flush(field.tagAt, field.end);
      continue;
    }
    checkField(state, name, field, kind);
    if (name === 'Model' && kind === 'Graph' && ++graphs > 1) {
      throw new WireError(field.tagAt, false, 'a second graph');
    }
    if (name === 'Tensor' || name === 'Node') recorded.push(field);
    if (name === 'Model' && (field.number === 8 || field.number === 25)) {
      state.preamble.push({ tagAt: field.tagAt, end: field.end });
    }
    if (dropped(name, field.number)) {
      flush(field.tagAt, field.end);
    } else if (isMessage(kind)) {
      const { tagAt, lengthAt, start, end } = field;
      const body = scanMessage(state, kind, { parent: span, tagAt, lengthAt, start, end }, depth + 1);
      if (body === undefined) continue;
      flush(field.tagAt, field.end);
      parts.push(encodeVarint(field.number * 8 + 2), encodeVarint(body.length), body);
    } else if (kind !== 'bytes' && field.wireType === 2) {
      countFields(state, Math.ceil((field.end - field.start) / (kind === 'varints' ? 1 : 4)));
    }
  }
  const ticket = ticketOf(state, name, span, recorded);
  if (ticket === undefined && parts.length === 0 && pending === span.start) return undefined;
  flush(span.end, span.end);
  if (ticket !== undefined) parts.push(ticket);
  return concat(parts);
}

function countFields(state: ScanState, count: number): void {
  state.fields += count;
  if (state.fields > MAX_FIELDS) tooLarge(state, `more than ${MAX_FIELDS} fields`);
}

/** The field must have its type's wire form, or the decoder would lose step with this walk. */
function checkField(state: ScanState, name: MessageName, field: WireField, kind: FieldKind): void {
  const allowed = isMessage(kind) ? [2] : WIRE_TYPES[kind];
  expectWireType(field, allowed, `${name} field ${field.number}`);
  if (!isMessage(kind)) checkPacked(state, field, kind);
}

/** Tensor data, documentation, and metadata read here stay out of the skeleton. */
function dropped(name: MessageName, field: number): boolean {
  switch (name) {
    case 'Tensor':
      return TENSOR_DATA.has(field) || field === 12 || field === 16;
    case 'Node':
      return field === 6 || field >= 8;
    case 'Graph':
      return field === 10;
    case 'Function':
      return field === 8;
    case 'ValueInfo':
      return field > 2;
    default:
      return false;
  }
}

function keep(state: ScanState, start: number, end: number): Uint8Array {
  state.skeletonBytes += end - start;
  if (state.skeletonBytes > MAX_SKELETON_BYTES) {
    tooLarge(state, `more than ${MAX_SKELETON_BYTES >> 20} MiB besides tensor data`);
  }
  return state.source.slice(start, end);
}

function tooLarge(state: ScanState, what: string): never {
  throw new UserError(
    `${state.source.path}: the graph is too large (${what})`,
    'export the model without stack traces and with weights as initializers',
  );
}

/** Packed scalars must fill their field exactly, or the decoder would read past it. */
function checkPacked(state: ScanState, field: WireField, kind: ScalarKind): void {
  if (field.wireType !== 2 || kind === 'bytes' || field.end === field.start) return;
  const length = field.end - field.start;
  const whole =
    kind === 'varints'
      ? (state.source.slice(field.end - 1, field.end)[0] as number) < 0x80
      : length % (kind === 'fixed64s' ? 8 : 4) === 0;
  if (!whole) throw new WireError(field.tagAt, false, 'packed numbers that do not fill their field');
}

function expectWireType(field: WireField, wireTypes: readonly number[], what: string): void {
  if (!wireTypes.includes(field.wireType)) {
    throw new WireError(field.tagAt, false, `wire type ${field.wireType} in ${what}`);
  }
}

/** Records a tensor or node, and returns the skeleton field that carries its number. */
function ticketOf(
  state: ScanState,
  name: MessageName,
  message: MessageSpan,
  fields: readonly WireField[],
): Uint8Array | undefined {
  if (name !== 'Tensor' && name !== 'Node') return undefined;
  if (state.tensors.length + state.nodes.length >= MAX_NODES_AND_TENSORS) {
    tooLarge(state, `more than ${MAX_NODES_AND_TENSORS} nodes and tensors`);
  }
  if (name === 'Tensor') {
    const data = dataSpans(fields);
    const external = fields
      .filter((field) => field.number === 13)
      .map((field) => ({ tagAt: field.tagAt, end: field.end, ...stringEntry(state, field) }));
    state.tensors.push({ message, data, external });
    return encodeField(9, encodeVarint(state.tensors.length - 1));
  }
  const entries = fields.filter((field) => field.number === 9).map((field) => stringEntry(state, field));
  const metadata =
    entries.length === 0 ? NO_METADATA : new Map(entries.map(({ key, value }) => [key, value]));
  state.nodes.push({ message, metadata });
  return encodeString(6, String(state.nodes.length - 1));
}

function dataSpans(fields: readonly WireField[]): DataSpan[] {
  const spans: DataSpan[] = [];
  for (const field of fields) {
    if (!TENSOR_DATA.has(field.number)) continue;
    const packed = field.wireType === 2;
    const last = spans.at(-1);
    if (
      !packed &&
      last !== undefined &&
      last.field === field.number &&
      !last.packed &&
      last.end === field.tagAt
    ) {
      spans[spans.length - 1] = { ...last, end: field.end };
    } else {
      const start = packed ? field.start : field.tagAt;
      spans.push({ field: field.number, packed, tagAt: field.tagAt, start, end: field.end });
    }
  }
  return spans;
}

function stringEntry(state: ScanState, span: { start: number; end: number }): { key: string; value: string } {
  const entry = { key: '', value: '' };
  for (let at = span.start; at < span.end;) {
    const field = state.reader.field(at, span.end);
    at = field.end;
    if (field.number > 2) continue;
    expectWireType(field, [2], 'a metadata entry');
    state.skeletonBytes += field.end - field.start;
    if (state.skeletonBytes > MAX_SKELETON_BYTES) tooLarge(state, 'metadata');
    const text = new TextDecoder().decode(state.source.slice(field.start, field.end));
    if (field.number === 1) entry.key = text;
    else entry.value = text;
  }
  return entry;
}
