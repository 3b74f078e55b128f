import { z } from 'zod';

const text = z.string().max(65_536);
const index = z.number().int().nonnegative().max(10_000_000);

/** `trace.json`: what each pass took from and added to the nodes that carry the name of an ONNX node. */
export const traceSchema = z.strictObject({
  version: z.literal(1),
  /** Names of ONNX nodes. */
  locs: z.array(text),
  /** What a node is: `matmul : f32[S, 64]`. */
  nodes: z.array(text),
  pipelines: z.array(
    z.strictObject({
      /** `front` stands before every program. */
      name: text,
      passes: z.array(
        z.strictObject({
          name: text,
          /** [loc, node, how many more there are]; negative: fewer. */
          changes: z.array(z.tuple([index, index, z.number().int()])),
        }),
      ),
    }),
  ),
});

export type Trace = z.infer<typeof traceSchema>;
