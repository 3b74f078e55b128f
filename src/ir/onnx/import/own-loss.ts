/** A loss that the model computes itself. */

export type OwnLoss = {
  /** The output that holds it. */
  readonly output: string;
} & (
  | {
      readonly kind: 'next-token' | 'aligned' | 'document-classification' | 'regression';
      /** The value it is computed from. */
      readonly logits: string;
      readonly proof: string;
    }
  | { /** Why it is not recognised. */ readonly unknown: string }
);
