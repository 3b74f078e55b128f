import { z } from 'zod';
import { UserError } from '../errors.js';
import { emit } from '../ir/build.js';
import { makeInput } from '../ir/graph.js';
import { constantOf } from '../ir/size.js';
import { bodyOf, headInput } from './loss/head.js';
import { dataOf, lossOf, lossTerms } from './loss/terms.js';
import { definePass } from './pass.js';

const options = z.strictObject({
  /** Tokens a tile: the peak holds tile × vocabulary logits instead of tokens × vocabulary. */
  tile: z.number().int().positive().default(1024),
  /** Also return the logits, tile by tile (the eval program). */
  logits: z.boolean().default(false),
  ...lossTerms.shape,
});

export const loss = definePass({
  name: 'loss',
  doc: 'Replaces the logits by the loss: (sum of token losses, number of counted tokens), tiled over tokens so that whole logits never exist. Labels arrive aligned with what predicts them: next-token labels are shifted already.',
  requires: ['recognized', 'unplaced'],
  ensures: ['lossy'],
  numerics: 'reordered',
  options,
  run: (graph, { tile, logits: withLogits, ...terms }) => {
    const logits = graph.outputs.find((o) => o.name === 'logits')?.value;
    if (
      logits === undefined ||
      logits.type.dims.length !== 2 ||
      logits.type.dims[0]!.size.key !== 'S' ||
      constantOf(logits.type.dims[1]!.size) === undefined
    )
      throw new UserError(
        'the model has no output `logits` of shape [tokens, vocabulary]',
        'export the model with its language-model head',
      );
    const data = dataOf(terms, logits).map(({ name, type }) => makeInput(name, 'data', type));
    const { body, operands, slices } = bodyOf(headInput(logits), logits, data, (build, tiled, tiles) => [
      ...lossOf(build, terms, tiled, tiles),
      ...(withLogits ? [{ name: 'logits', value: tiled }] : []),
    ]);
    const results = body.outputs.map(({ name }) => (name === 'logits' ? 'concat' : 'sum'));
    const values = emit(
      'tiled',
      operands,
      { tile, slice: slices, results },
      { loc: logits.node.loc, region: body },
    );
    return {
      ...graph,
      inputs: [...graph.inputs, ...data],
      outputs: body.outputs.map(({ name }, i) => ({ name, value: values[i]! })),
    };
  },
});
