import { invariant } from '../../errors.js';
import { localShape, localSize, type RankBinding } from '../../ir/placement.js';
import { parseDim, parseType } from '../../ir/type.js';
import type { Instruction, SegmentInfo } from '../../package/program.js';
import type { OnTile, RunContext } from './host.js';
import { int64Tensor, makeTensor, type OrtCall, type OrtSession, type OrtTensor } from './onnx.js';
import { rowElements, type Views } from './views.js';

type Run = Extract<Instruction, { kind: 'run' }>;
type Tiled = Extract<Instruction, { kind: 'tiled' }>;
type Step = (context: RunContext) => void;

/** Local sizes that a segment's model takes. */
function sizesOf(segment: SegmentInfo, binding: RankBinding): Record<string, OrtTensor> {
  if (segment.sizes.length === 0) return {};
  return { sizes: int64Tensor(segment.sizes.map((text) => localSize(parseDim(text), binding))) };
}

/** One call. A rank without tokens calls too: sums over its tokens are zero, weights are weights. */
export function runStep(instruction: Run, segment: SegmentInfo, views: Views): Step {
  const feeds = sizesOf(segment, views.bound.rank);
  instruction.inputs.forEach((buffer, i) => (feeds[segment.inputs[i]!] = views.tensor(buffer)));
  const fetches: Record<string, OrtTensor> = {};
  instruction.outputs.forEach((buffer, i) => {
    const name = segment.outputs[i]!;
    fetches[name] = views.tensor(buffer);
    if (segment.accumulates.includes(name)) feeds[`acc_${name}`] = views.tensor(buffer);
  });
  const empty = instruction.outputs.every((buffer) => views.array(buffer).length === 0);
  if (empty) return () => {};
  return boundStep(segment, { feeds, fetches });
}

interface CallTensors {
  readonly feeds: Record<string, OrtTensor>;
  readonly fetches: Record<string, OrtTensor>;
}

/** A call that is prepared when it first runs, which is when its model is loaded. */
function boundStep(segment: SegmentInfo, { feeds, fetches }: CallTensors): Step {
  let call: OrtCall | undefined;
  return ({ session, host }) => {
    const model = session(segment);
    host.nativeSync(() => (call ??= model.bind(feeds, fetches)).run());
  };
}

/** A tile that leaves the program as it is made. */
interface Streamed {
  readonly output: string;
  readonly name: string;
  readonly shape: readonly number[];
}

interface TileCall extends CallTensors {
  readonly row: number;
  readonly step: Step;
  readonly streamed: readonly Streamed[];
}

/**
 * A loop over tiles of rows. `keeps(buffer)`: the sum goes on from what its memory holds; others start at zero.
 * @param streams names of the program's outputs that are streamed, in the order of the results that are
 */
export function tiledStep(
  instruction: Tiled,
  segment: SegmentInfo,
  views: Views,
  keeps: (buffer: number) => boolean,
  streams: readonly string[],
): Step {
  const { operands, sliced, results, tile } = instruction;
  const rows = views.shapeOf(operands[sliced.indexOf(true)]!)[0]!;
  const sums = new Map<number, Float32Array>();
  results.forEach(({ how, buffer, type }, i) => {
    if (how !== 'sum') return;
    const size = localShape(parseType(type), { ...views.bound.rank, tile }).reduce((p, n) => p * n, 1);
    sums.set(i, buffer < 0 ? new Float32Array(size) : views.floats(buffer));
  });
  const zeroed = [...sums].filter(([i]) => !keeps(results[i]!.buffer)).map(([, sum]) => sum);
  const calls: TileCall[] = [];
  for (let row = 0; row < rows; row += tile)
    calls.push(
      tileCall(instruction, segment, views, sums, streams, { row, rows: Math.min(tile, rows - row) }),
    );
  return (context) => {
    for (const sum of zeroed) sum.fill(0);
    for (const call of calls) {
      if (context.onTile === undefined || call.streamed.length === 0) call.step(context);
      else streamTile(context, context.session(segment), call, context.onTile);
    }
  };
}

/** A streamed tile is given away: it needs memory of its own every time. */
function streamTile(context: RunContext, session: OrtSession, call: TileCall, onTile: OnTile): void {
  const tiles = call.streamed.map(({ shape }) => new Float32Array(shape.reduce((p, n) => p * n, 1)));
  const fetches = { ...call.fetches };
  call.streamed.forEach(({ name, shape }, i) => (fetches[name] = makeTensor('f32', tiles[i]!, shape)));
  context.host.nativeSync(() => session.run(call.feeds, fetches));
  call.streamed.forEach(({ output }, i) => onTile(output, call.row, tiles[i]!));
}

function tileCall(
  { operands, sliced, results }: Tiled,
  segment: SegmentInfo,
  views: Views,
  sums: ReadonlyMap<number, Float32Array>,
  streams: readonly string[],
  { row, rows }: { readonly row: number; readonly rows: number },
): TileCall {
  const binding = { ...views.bound.rank, tile: rows };
  const feeds = sizesOf(segment, binding);
  const fetches: Record<string, OrtTensor> = {};
  const streamed: Streamed[] = [];
  operands.forEach((buffer, i) => {
    const shape = views.shapeOf(buffer);
    feeds[segment.inputs[i]!] = sliced[i]
      ? views.part(buffer, row * rowElements(shape), [rows, ...shape.slice(1)])
      : views.tensor(buffer);
  });
  results.forEach(({ how, buffer, type: text }, i) => {
    const name = segment.outputs[i]!;
    const type = parseType(text);
    const shape = localShape(type, binding);
    if (how === 'sum') {
      const sum = makeTensor('f32', sums.get(i)!, shape);
      feeds[`acc_${name}`] = sum;
      fetches[name] = sum;
    } else if (how === 'stream') {
      const output = streams[streamed.length];
      invariant(output !== undefined && type.dtype === 'f32', `a streamed result has no name`);
      streamed.push({ output, name, shape });
    } else if (buffer >= 0) {
      const elements = shape.reduce((product, n) => product * n, 1);
      fetches[name] = views.part(buffer, (row * elements) / rows, shape);
    }
  });
  return { row, feeds, fetches, streamed, step: boundStep(segment, { feeds, fetches }) };
}
