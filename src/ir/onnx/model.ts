/**
 * An ONNX file as the importer sees it: immutable, checked, with weights behind byte ranges that are read
 * only on demand. Types only; `readOnnxModel` (decode.ts) makes them.
 */

/** Element types of ONNX tensors; the numbers of `TensorProto.DataType` are in dtype.ts. */
export type OnnxDtype =
  | 'f32'
  | 'f64'
  | 'f16'
  | 'bf16'
  | 'i64'
  | 'i32'
  | 'i16'
  | 'i8'
  | 'u64'
  | 'u32'
  | 'u16'
  | 'u8'
  | 'bool'
  | 'string'
  | 'c64'
  | 'c128'
  | 'f8e4m3fn'
  | 'f8e4m3fnuz'
  | 'f8e5m2'
  | 'f8e5m2fnuz'
  | 'f8e8m0'
  | 'f4e2m1'
  | 'u4'
  | 'i4'
  | 'u2'
  | 'i2';

/** A size, a symbol's name, or undefined where the file says nothing. */
export type OnnxDim = number | string | undefined;

/** A declared value: graph input, graph output or intermediate. */
export interface OnnxValueInfo {
  readonly name: string;
  /** Undefined when the value is no tensor (a sequence, a map) or its type is not declared. */
  readonly elemType: OnnxDtype | undefined;
  /** Undefined when not even the rank is declared. */
  readonly dims: readonly OnnxDim[] | undefined;
}

/**
 * A tensor in memory. `bytes` are the elements, row-major, little-endian, as ONNX's `raw_data`; they may be a
 * view of the file's bytes, so they must not be written into.
 */
export interface OnnxTensor {
  readonly dtype: OnnxDtype;
  readonly dims: readonly number[];
  readonly elementCount: number;
  readonly bytes: Uint8Array;
  /** Floating types (f16 and bf16 widened, f64 rounded); a new array. @throws UserError for other types */
  toFloat32(): Float32Array;
  /** Floating and integer types and bool; a new array. @throws UserError for other types */
  toFloat64(): Float64Array;
  /**
   * Integer types and bool, as numbers; values beyond ±(2⁵³ − 1) saturate (ONNX says "to the end" with
   * INT64_MAX). @throws UserError for other types
   */
  toInts(): readonly number[];
  /** Integer types and bool, exactly (u64 above 2⁶³ − 1 saturates). @throws UserError for other types */
  toBigInts(): BigInt64Array;
}

/** Where an initializer's bytes are. */
export type OnnxLocation =
  /** `raw_data`, or packed `float_data`/`double_data`: a byte range of the model file, same layout as `bytes`. */
  | { readonly kind: 'inline'; readonly offset: number; readonly length: number }
  /** A byte range of another file; `relativePath` as the model spells it, `file` absolute and inside its folder. */
  | {
      readonly kind: 'external';
      readonly relativePath: string;
      readonly file: string;
      readonly offset: number;
      readonly length: number;
    }
  /** Typed repeated fields or attribute scalars: the file holds no byte range with the tensor's layout. */
  | { readonly kind: 'fields' };

/** A stored constant: an initializer, or the tensor of a `Constant` node (then named as the node's output). */
export interface OnnxInitializer {
  readonly name: string;
  readonly dtype: OnnxDtype;
  readonly dims: readonly number[];
  readonly elementCount: number;
  /** Size of the tensor in `raw_data` layout. */
  readonly bytes: number;
  readonly location: OnnxLocation;
  /** False when the tensor is in an external file that is not there. */
  isPresent(): boolean;
  /** Reads the whole tensor. @throws UserError when the data is absent, too short or above 2 GiB − 1 bytes */
  read(): OnnxTensor;
  /** Reads part of the `raw_data` layout. @throws UserError when the data is absent or too short */
  readRange(byteOffset: number, byteLength: number): Uint8Array;
}

/** An attribute's value. Integers are numbers where safe, else bigints. */
export type OnnxAttribute =
  | { readonly kind: 'int'; readonly value: number | bigint }
  | { readonly kind: 'ints'; readonly value: readonly (number | bigint)[] }
  | { readonly kind: 'float'; readonly value: number }
  | { readonly kind: 'floats'; readonly value: readonly number[] }
  | { readonly kind: 'string'; readonly value: string }
  | { readonly kind: 'strings'; readonly value: readonly string[] }
  | { readonly kind: 'tensor'; readonly value: OnnxInitializer }
  | { readonly kind: 'tensors'; readonly value: readonly OnnxInitializer[] }
  | { readonly kind: 'graph'; readonly value: OnnxGraph }
  | { readonly kind: 'graphs'; readonly value: readonly OnnxGraph[] }
  /** Refers to an attribute of the enclosing function. */
  | { readonly kind: 'ref'; readonly value: string }
  /** Sparse tensors and type protos: kept by name, not decoded. */
  | { readonly kind: 'unsupported'; readonly value: string };

export interface OnnxNode {
  /** Position in the file. */
  readonly index: number;
  /** The file's name, or `OpType#index` when that is empty. */
  readonly name: string;
  readonly opType: string;
  /** '' for ai.onnx. */
  readonly domain: string;
  /** '' stands for an omitted optional operand. */
  readonly inputs: readonly string[];
  /** '' stands for an unused optional result. */
  readonly outputs: readonly string[];
  readonly attributes: ReadonlyMap<string, OnnxAttribute>;
  /** `metadata_props`, e.g. `pkg.torch.onnx.name_scopes`. */
  readonly metadata: ReadonlyMap<string, string>;
}

/** A graph: the model's, or the body of a control-flow node (which may use names of the graphs around it). */
export interface OnnxGraph {
  readonly name: string;
  /** Declared inputs without those that an initializer gives a default. */
  readonly inputs: readonly OnnxValueInfo[];
  readonly outputs: readonly OnnxValueInfo[];
  readonly nodes: readonly OnnxNode[];
  /** By name, in file order. */
  readonly initializers: ReadonlyMap<string, OnnxInitializer>;
  /** Declared types of intermediates, by name. */
  readonly valueInfo: ReadonlyMap<string, OnnxValueInfo>;
}

/** A model-local function. */
export interface OnnxFunction {
  readonly domain: string;
  readonly name: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Names of the attributes it takes. */
  readonly attributes: readonly string[];
  readonly opsets: ReadonlyMap<string, number>;
  readonly nodes: readonly OnnxNode[];
}

export interface OnnxModel extends OnnxGraph {
  /** As given to `readOnnxModel`. */
  readonly path: string;
  /** Of the model file alone, lower-case hex; computed at the first call. */
  sha256(): string;
  readonly irVersion: number;
  /** `name version`, or ''. */
  readonly producer: string;
  /** Domain ('' for ai.onnx) → version. */
  readonly opsets: ReadonlyMap<string, number>;
  readonly functions: readonly OnnxFunction[];
  /** The model's `metadata_props`. */
  readonly metadata: ReadonlyMap<string, string>;
}

/** A tensor given to, or got from, the evaluator. */
export interface TensorValue {
  readonly dtype: OnnxDtype;
  readonly dims: readonly number[];
  readonly data: TensorData;
}

/** i64/u64 are 64-bit arrays; bool is one byte an element; f16 and bf16 are their bit patterns. */
export type TensorData =
  | Float32Array
  | Float64Array
  | BigInt64Array
  | BigUint64Array
  | Int32Array
  | Int16Array
  | Int8Array
  | Uint32Array
  | Uint16Array
  | Uint8Array;
