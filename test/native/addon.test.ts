import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { loadNode } from '../../src/runtime/executor/onnx-node.js';
import { makeTensor, ortBackend, type OrtTensor, type Tensors } from '../../src/runtime/executor/onnx.js';
import { addStored, binary, native, sumAndProduct, skipWithoutAddon } from './models.js';

skipWithoutAddon();

const floats = (...values: number[]): OrtTensor =>
  makeTensor('f32', Float32Array.from(values), [values.length / 3, 3]);
const zeros = (rows: number): OrtTensor => makeTensor('f32', new Float32Array(rows * 3), [rows, 3]);
const sum = (): Tensors => ({ x: floats(1, 2, 3, 4, 5, 6), z: floats(10, 20, 30, 40, 50, 60) });

it('is what sessions are made with', () => {
  expect(ortBackend()).toEqual({ kind: 'native' });
});

describe('a call', () => {
  it('reads and writes the memory of its tensors, plainly or bound', () => {
    const session = native(binary('Add'));
    expect(session.outputs).toEqual(['y']);
    const feeds = sum();
    const y = zeros(2);
    session.run(feeds, { y });
    expect([...y.data]).toEqual([11, 22, 33, 44, 55, 66]);
    const call = session.bind(feeds, { y });
    feeds['x']!.data.set([0, 0, 0, 0, 0, 1.5] as never);
    call.run();
    expect([...y.data]).toEqual([10, 20, 30, 40, 50, 61.5]);
  });

  it('takes views at any element of a buffer, and outputs in the memory of inputs', () => {
    const memory = new Float32Array(13);
    memory.set([1, 2, 3, 4, 5, 6], 1);
    const x = makeTensor('f32', memory.subarray(1, 7), [2, 3]);
    const y = makeTensor('f32', memory.subarray(7, 13), [2, 3]);
    const session = native(binary('Mul'));
    session.run({ x, z: x }, { y });
    expect([...memory]).toEqual([0, 1, 2, 3, 4, 5, 6, 1, 4, 9, 16, 25, 36]);
    session.bind({ x, z: y }, { y }).run();
    expect([...memory.subarray(7)]).toEqual([1, 8, 27, 64, 125, 216]);
  });

  it('takes shared memory', () => {
    const shared = (...values: number[]): OrtTensor => {
      const data = new Float32Array(new SharedArrayBuffer(24));
      data.set(values);
      return makeTensor('f32', data, [2, 3]);
    };
    const y = shared();
    native(binary('Sub'))
      .bind({ x: shared(3, 3, 3, 3, 3, 3), z: shared(1, 2, 3, 4, 5, 6) }, { y })
      .run();
    expect([...y.data]).toEqual([2, 1, 0, -1, -2, -3]);
  });

  it.each(['plain', 'bound'])('takes every type, and results of another one: %s', (how) => {
    const run = (model: Uint8Array, feeds: Tensors, y: OrtTensor): unknown[] => {
      const session = native(model);
      if (how === 'bound') session.bind(feeds, { y }).run();
      else session.run(feeds, { y });
      return [...y.data];
    };
    const ints = makeTensor('i32', Int32Array.of(1, -2, 3), [1, 3]);
    const bools = (): OrtTensor => makeTensor('bool', Uint8Array.of(1, 0, 1), [1, 3]);
    const longs = (): OrtTensor => ({
      type: 'int64',
      dims: [1, 3],
      data: BigInt64Array.of(1n, -(2n ** 60n), 3n),
      location: 'cpu',
    });
    expect(
      run(
        binary('Less', 'i32', 'bool'),
        { x: ints, z: makeTensor('i32', Int32Array.of(2, 0, 3), [1, 3]) },
        bools(),
      ),
    ).toEqual([1, 1, 0]);
    expect(run(binary('Add', 'i64'), { x: longs(), z: longs() }, longs())).toEqual([2n, -(2n ** 61n), 6n]);
    expect(
      run(
        binary('And', 'bool'),
        { x: bools(), z: makeTensor('bool', Uint8Array.of(1, 1, 0), [1, 3]) },
        bools(),
      ),
    ).toEqual([1, 0, 0]);
  });

  it('takes tensors without elements', () => {
    const session = native(binary('Add'));
    const y = zeros(0);
    session.run({ x: zeros(0), z: zeros(0) }, { y });
    session.bind({ x: zeros(0), z: zeros(0) }, { y }).run();
    expect(y.data).toHaveLength(0);
  });

  it('drops outputs that are not fetched', () => {
    const session = native(sumAndProduct);
    const y = zeros(2);
    for (const name of session.outputs) {
      session.run(sum(), { [name]: y });
      session.bind(sum(), { [name]: y }).run();
    }
    expect(session.outputs).toEqual(['sum', 'product']);
    expect([...y.data]).toEqual([10, 40, 90, 160, 250, 360]);
  });
});

describe('an error', () => {
  const session = (): ReturnType<typeof native> => native(binary('Add'));
  const x = floats(1, 2, 3);
  const wrong: [string, () => void, string][] = [
    ['no model', () => native(new Uint8Array(10)), 'protobuf parsing failed'],
    ['an empty model', () => native(new Uint8Array(0)), 'pointer is null'],
    ['no input', () => session().run({ x }, {}), 'no input z is given'],
    ['another input', () => session().run({ ...sum(), w: x }, {}), 'the model has no input w'],
    ['a name of the prototype', () => session().run({ ...sum(), toString: x }, {}), 'has no input toString'],
    ['no output', () => session().run(sum(), {}), 'At least one output'],
    ['another output', () => session().run(sum(), { w: x }), 'the model has no output w'],
    [
      'inputs of other shapes',
      () => session().run({ x, z: makeTensor('f32', new Float32Array(2), [1, 2]) }, {}),
      'Got invalid dimensions for input',
    ],
    ['a small output', () => session().run(sum(), { y: zeros(1) }), 'has shape {1,3}'],
    [
      'another type',
      () => session().run({ x, z: makeTensor('i32', new Int32Array(3), [1, 3]) }, {}),
      'input z: the model has another type than int32',
    ],
    [
      'an output of another type',
      () => session().run(sum(), { y: makeTensor('i32', new Int32Array(6), [2, 3]) }),
      'output y: the model has another type than int32',
    ],
    [
      'data of another type',
      () => session().run({ x, z: { ...x, data: new Int32Array(3) } }, {}),
      'data is of another type',
    ],
    [
      'dims that do not fit',
      () => session().run({ x, z: { ...x, dims: [2, 3] } }, {}),
      'dims are 6 elements, its data is 3',
    ],
    ['negative dims', () => session().run({ x, z: { ...x, dims: [-1, -3] } }, {}), 'dims are not sizes'],
    [
      'dims that overflow',
      () => session().run({ x, z: { ...x, dims: [2 ** 40, 2 ** 40] } }, {}),
      'too large',
    ],
    ['no tensor', () => session().run({ x, z: 3 } as never, {}), 'input z is not a tensor'],
    ['a tensor without data', () => session().run({ x, z: {} } as never, {}), 'has a type, dims and data'],
  ];
  it.each(wrong)('is thrown for %s', (_, call, message) => {
    expect(call).toThrow(message);
  });
  it.each(wrong.slice(2))('leaves other calls as they are: %s', (_, call) => {
    const y = zeros(2);
    const bound = session().bind(sum(), { y });
    expect(call).toThrow();
    bound.run();
    expect(y.data[5]).toBe(66);
  });

  it('is thrown after dispose, which may come twice', () => {
    const made = session();
    const call = made.bind(sum(), { y: zeros(2) });
    made.dispose();
    made.dispose();
    expect(() => call.run()).toThrow('disposed of');
    expect(() => made.run(sum(), {})).toThrow('disposed of');
  });

  it('is thrown once the memory has been transferred or can be resized', () => {
    const y = zeros(2);
    const call = session().bind(sum(), { y });
    structuredClone(y.data.buffer, { transfer: [y.data.buffer as ArrayBuffer] });
    expect(() => call.run()).toThrow('has been transferred');
    const resizable = Reflect.construct(ArrayBuffer, [24, { maxByteLength: 48 }]) as ArrayBuffer;
    const z = makeTensor('f32', new Float32Array(resizable, 0, 6), [2, 3]);
    expect(() => session().run({ ...sum(), z }, {})).toThrow('can be resized');
  });
});

describe('memory', () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const nextTurn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
  const MiB = 1 << 20;

  /** Growth of the process by `times` of `once`, after a few to warm up, in bytes. */
  async function growth(times: number, once: () => void): Promise<number> {
    const repeat = async (n: number): Promise<void> => {
      for (let i = 0; i < n; i++) {
        once();
        if (i % 20 !== 19) continue;
        collect();
        await nextTurn();
      }
      for (let i = 0; i < 3; i++) {
        collect();
        await nextTurn();
      }
    };
    await repeat(Math.ceil(times / 4));
    const before = process.memoryUsage.rss();
    await repeat(times);
    return process.memoryUsage.rss() - before;
  }

  it('of a session is released by dispose, or with it', async () => {
    // 256 KiB of numbers are stored in each.
    const model = addStored(65_536);
    expect(await growth(200, () => native(model).dispose())).toBeLessThan(25 * MiB);
    expect(await growth(200, () => void native(model))).toBeLessThan(25 * MiB);
  });

  it('of tensors is kept while a call is there, and released with it', async () => {
    const session = native(binary('Add'));
    const tensor = (value: number): OrtTensor => filled(20_000, value);
    expect(
      await growth(200, () => void session.bind({ x: tensor(1), z: tensor(2) }, { y: tensor(0) })),
    ).toBeLessThan(75 * MiB);
    const y = zeros(20_000);
    const call = session.bind({ x: filled(20_000, 1), z: filled(20_000, 2) }, { y });
    collect();
    await nextTurn();
    // What was freed would be taken by these.
    const others = Array.from({ length: 50 }, () => filled(20_000, 9));
    call.run();
    expect(others).toHaveLength(50);
    expect((y.data as Float32Array).every((value) => value === 3)).toBe(true);
  });
});

const filled = (rows: number, value: number): OrtTensor =>
  makeTensor('f32', new Float32Array(rows * 3).fill(value), [rows, 3]);

it('computes what the binding of onnxruntime-node computes', () => {
  const node = loadNode();
  for (const op of ['Add', 'Mul', 'Div', 'Pow']) {
    const feeds = { x: floats(0.1, 2.7, 3.3), z: floats(1.7, 0.3, 9.1) };
    const [one, other] = [native, node].map((backend) => {
      const y = zeros(1);
      backend(binary(op)).run(feeds, { y });
      return y.data;
    });
    expect(one).toEqual(other);
  }
});
