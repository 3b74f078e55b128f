/** The first stage: an ONNX model becomes one unplaced IR graph. */
import { UserError } from '../../../errors.js';
import type { Graph } from '../../graph.js';
import type { Pool } from '../../pooled.js';
import { constantOf } from '../../size.js';
import { isFloat } from '../dtype.js';
import type { OnnxModel } from '../model.js';
import { classify, type Classified } from './classify.js';
import { decideTrainable, parameterInfos, type ParameterInfo, type TrainableOptions } from './parameters.js';
import { planImport } from './plan.js';
import { poolOf } from './pool.js';
import { logitsBehind, lossOutput, ownLossOf, type OwnLoss } from './own-loss.js';
import { printDims, rowsOf, tokens } from './shapes.js';
import { isInlined, translate } from './translate.js';

export type { ParameterInfo, TrainableOptions } from './parameters.js';

export interface ImportOptions {
  /** False: the weights may be absent; tied copies are then not looked for. */
  readonly weights: boolean;
  readonly trainable?: TrainableOptions;
}

export interface Imported {
  /**
   * Inputs `tokens`, `positions`, `documents`, and `token_types` and `lengths` where read: i32[S]; recognised masks (role data, attribute `form` = mask,
   * consumed by `recognize`); parameters. Output `logits`: f32[S, V]. Unplaced; interior values keep the
   * model's unit batch dims.
   */
  readonly graph: Graph;
  readonly parameters: readonly ParameterInfo[];
  readonly notes: readonly string[];
  /** Longest document for which the recognised masks and positions were proved; undefined: any. */
  readonly provenLength: number | undefined;
  /** What stands for a document, whose logits are the document's; absent: every token has its own. */
  readonly pool?: Pool;
  /** A loss among the outputs. */
  readonly ownLoss?: OwnLoss;
  /** Longest document that the model's position tables allow. */
  readonly maxPositions?: number;
  /** Token ids that stand for padding: what was recognised holds for documents without them. */
  readonly padding?: readonly number[];
}

/** @throws UserError naming the node, input or pattern that does not fit, and what would fix it */
export async function importOnnx(model: OnnxModel, options: ImportOptions): Promise<Imported> {
  const notes: string[] = [];
  const output = logitsOf(model, notes);
  const classified = classify(model, output);
  const { dims, dtype } = classified.facts.get(output)!;
  const plan = await planImport(classified, output);
  const pooled = await poolOf(classified, plan, output);
  if (pooled?.note !== undefined) notes.push(pooled.note);
  const width = constantOf(rowsOf(dims)?.[1] ?? tokens);
  if (width === undefined || !isFloat(dtype))
    throw new UserError(
      `${model.path}: the output '${output}' is ${dtype}${printDims(dims)}, expected logits [1, S, vocabulary]`,
      'export a head that scores every token, or the first, the last or the mean of a sequence',
    );
  const ownLoss = await ownLossOf(model, classified, {
    name: output,
    dtype,
    width,
    pooled: pooled !== undefined,
  });
  const stored = [...plan.leaves].flatMap(([name, leaf]) =>
    leaf.kind === 'stored' ? [classified.facts.get(name)!.stored!] : [],
  );
  const rule = decideTrainable({ ...classified, model }, plan.nodes, stored);
  const kept = stored.filter((tensor) => !isInlined(tensor.elementCount, rule.get(tensor.name)!));
  const infos = parameterInfos(model, kept, rule, options);
  const decisions = new Map([...rule, ...infos.map((info) => [info.name, info] as const)]);
  const { graph } = translate(classified, plan, decisions, output, 'model');
  const half = kept.filter((tensor) => tensor.dtype !== 'f32').length;
  if (half > 0) notes.push(`${half} parameters are stored in another precision and trained in float32`);
  if (!options.weights) notes.push('weights were not asked for: copies of tied weights are not looked for');
  const caches = [...classified.facts.values()].filter(({ input }) => input?.role === 'past').length;
  if (caches > 0) notes.push(`${caches} KV cache inputs are taken as empty: training has no cache`);
  const padding = paddingOf(classified);
  for (const id of padding)
    notes.push(`positions are counted from the tokens: token ${id} is padding, which no document may hold`);
  const maxPositions = classified.limit.value();
  if (maxPositions !== undefined && maxPositions < 1)
    throw new UserError(
      `${model.path}: takes no document: a table or a slice would have ${maxPositions} rows for its tokens`,
      'export the model again, with positions that lie inside its position table',
    );
  return {
    graph,
    parameters: infos,
    notes: [...notes, ...plan.notes],
    provenLength: plan.provenLength,
    ...(pooled === undefined ? {} : { pool: pooled.pool }),
    ...(ownLoss === undefined ? {} : { ownLoss }),
    ...(maxPositions === undefined ? {} : { maxPositions }),
    ...(padding.length === 0 ? {} : { padding }),
  };
}

/** Ids that stand for padding in models are one or two. */
const MAX_PADDING = 64;

/** Ids that documents may not hold. Negative ones they cannot. */
function paddingOf({ model, padding }: Classified): readonly number[] {
  const ids = [...padding].filter((id) => id >= 0).sort((a, b) => a - b);
  if (ids.length > MAX_PADDING)
    throw new UserError(
      `${model.path}: counts positions from the tokens without ${ids.length} ids, more than ${MAX_PADDING}`,
      'export with position_ids as an input',
    );
  return ids;
}

function logitsOf(model: OnnxModel, notes: string[]): string {
  const names = model.outputs.map((output) => output.name);
  const loss = lossOutput(model)?.name;
  const alone = names.length === 1 ? names[0]! : undefined;
  const chosen = names.includes('logits')
    ? 'logits'
    : alone !== undefined && alone === loss
      ? logitsBehind(model, loss)
      : alone;
  if (chosen === undefined)
    throw new UserError(
      alone === undefined
        ? `${model.path}: has outputs ${names.slice(0, 5).join(', ')}, none of them is 'logits'`
        : `${model.path}: its only output '${alone}' is a loss, and the logits behind it are not found`,
      'export a language-modelling head (AutoModelForCausalLM) with its output called logits',
    );
  const others = names.filter((name) => name !== chosen && name !== loss);
  if (others.length > 0)
    notes.push(`outputs ${others.slice(0, 3).join(', ')}${others.length > 3 ? ', …' : ''} are left out`);
  return chosen;
}
