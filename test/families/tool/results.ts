/** What became of every case, as it is kept in `results.json`. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';

const row = z.strictObject({
  family: z.string(),
  exporter: z.string(),
  /** Of the file, which may not be the one that was asked for. */
  opset: z.int(),
  attention: z.enum(['sdpa', 'eager']),
  inputs: z.string(),
  frozen: z.enum(['batch', 'sequence']).optional(),
  /** Folder of test/families that holds this export. */
  fixture: z.string().optional(),
  outcome: z.discriminatedUnion('result', [
    z.strictObject({
      result: z.literal('trains'),
      lossError: z.number(),
      gradientError: z.number(),
      /** Parameters of one element, which are not trained. */
      untrained: z.int().optional(),
      /** What attention was recognised as. */
      recognized: z.array(z.string()),
    }),
    z.strictObject({ result: z.literal('refused'), message: z.string(), hint: z.string().optional() }),
    z.strictObject({ result: z.literal('wrong'), message: z.string() }),
    /** The exporter itself failed. */
    z.strictObject({ result: z.literal('not exported'), message: z.string() }),
  ]),
});

export const resultsSchema = z.strictObject({
  torch: z.string(),
  transformers: z.string(),
  rows: z.array(row),
});

export type Results = z.infer<typeof resultsSchema>;
export type Row = Results['rows'][number];

export const readResults = (file: string): Results =>
  resultsSchema.parse(JSON.parse(readFileSync(file, 'utf8')));
