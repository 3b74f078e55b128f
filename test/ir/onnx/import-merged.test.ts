/** The layout of optimum's merged decoders: all of a model in the branches of one If, its weights around them. */
import { mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import onnxProto from 'onnx-proto';
import type { onnx } from 'onnx-proto';
import { expect, test } from 'vitest';
import { printGraph } from '../../../src/ir/text/print.js';
import { lowered } from '../../support/lowered.js';
import { modelFolder } from '../../support/oracle.js';
import { put, temporaryFolder } from './build.js';

const folder = temporaryFolder();

const programOf = async (own: string): Promise<string> =>
  printGraph((await lowered(own)).graphs.get('train')!).replaceAll(/ @"[^"]*"/g, '');

/** A branch that gives the logits, and the keys of a cache. */
const branch = (name: string, node: readonly onnx.INodeProto[], present: string): onnx.IAttributeProto => ({
  name,
  type: 5,
  g: { name, node: [...node], output: [{ name: 'logits' }, { name: present }] },
});

test('is the program of the branch without a cache', async () => {
  const source = modelFolder('gpt2');
  const model = onnxProto.onnx.ModelProto.decode(readFileSync(path.join(source, 'model.onnx')));
  const graph = model.graph!;
  const nodes = graph.node!.map((node, i) => ({ ...node, name: node.name || `n${i}` }));
  const cached: onnx.INodeProto[] = [
    { opType: 'Gather', name: 'g', input: [graph.initializer![0]!.name!, 'input_ids'], output: ['x'] },
    { opType: 'Concat', name: 'c', input: ['past_key_values.0.key', 'x'], output: ['logits'] },
    { opType: 'Identity', name: 'i', input: ['past_key_values.0.key'], output: ['kept'] },
  ];
  const first = { opType: 'Identity', name: 'p', input: ['input_ids'], output: ['ids'] };
  const merged: onnx.IModelProto = {
    ...model,
    graph: {
      ...graph,
      valueInfo: [],
      node: [
        {
          opType: 'If',
          name: 'optimum::if',
          input: ['use_cache_branch'],
          output: ['logits', 'present.0.key'],
          attribute: [branch('then_branch', cached, 'kept'), branch('else_branch', [...nodes, first], 'ids')],
        },
      ],
      input: [
        ...graph.input!,
        {
          name: 'use_cache_branch',
          type: { tensorType: { elemType: 9, shape: { dim: [{ dimValue: 1 }] } } },
        },
        {
          name: 'past_key_values.0.key',
          type: {
            tensorType: {
              elemType: 1,
              shape: { dim: [{ dimParam: 'b' }, { dimValue: 4 }, { dimParam: 'past' }, { dimValue: 16 }] },
            },
          },
        },
      ],
      output: [
        { name: 'logits', type: { tensorType: { elemType: 1 } } },
        { name: 'present.0.key', type: { tensorType: { elemType: 1 } } },
      ],
    },
  };
  const own = path.join(folder, 'merged');
  mkdirSync(own);
  put(own, 'model.onnx', onnxProto.onnx.ModelProto.encode(merged).finish());
  expect(await programOf(own)).toBe(await programOf(source));
});
