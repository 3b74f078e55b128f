/**
 * What the backward may run again, from least memory saved to most:
 *
 * - `none`: nothing.
 * - `cheap`: norms, activations, data movement.
 * - `products`: all compute between exchanges, matrix products too.
 * - `exchanges`: the all-to-alls before and after attention as well. What attention itself gives is kept: its work
 *   grows with the square of the length, its results do not.
 * - `layers`: everything, from what stands at the start of each layer (arXiv 1604.06174).
 */
export const POLICIES = ['none', 'cheap', 'products', 'exchanges', 'layers'] as const;
export type Policy = (typeof POLICIES)[number];
