import { UserError } from '../../errors.js';
import { CLUSTERS, type Cluster } from './cluster.js';
import type { CostModel } from './cost.js';
import { flexSpCost } from './flexsp-cost.js';
import type { ProgramWork } from './physical-cost.js';

/** A model that FlexSP was measured on (arXiv 2412.01523, section 6), with the constants its authors fitted. */
interface FlexSpModel {
  readonly attentionMsPerToken2: number;
  readonly linearMsPerToken: number;
  readonly microBatchMs: number;
  readonly hidden: number;
  readonly layers: number;
  /** 2³⁰ parameters, the table of positions left out: it has a row for every token of the context. */
  readonly parameters: number;
  /** 2²⁰ bytes. */
  readonly activationMibPerToken: number;
}

/** As fitted, but for 13b, which is only published rounded. */
const MODELS: ReadonlyMap<string, FlexSpModel> = new Map([
  [
    '7b',
    {
      attentionMsPerToken2: 5.128e-6,
      linearMsPerToken: 0.1839576,
      microBatchMs: 629.3563,
      hidden: 4096,
      layers: 32,
      parameters: 6.3850250244140625,
      activationMibPerToken: 4.480441895,
    },
  ],
  [
    '13b',
    {
      attentionMsPerToken2: 9.285e-6,
      linearMsPerToken: 0.30602,
      microBatchMs: 1132.6,
      hidden: 5120,
      layers: 40,
      parameters: 12.2005,
      activationMibPerToken: 4.22,
    },
  ],
  [
    '30b',
    {
      attentionMsPerToken2: 15.4262e-6,
      linearMsPerToken: 0.8035742,
      microBatchMs: 2789.3644,
      hidden: 6656,
      layers: 60,
      parameters: 30.33495330810547,
      activationMibPerToken: 3.417381836,
    },
  ],
]);

export const FLEXSP_MODELS: readonly string[] = [...MODELS.keys()];

const HEADS = 64;
/** 2³⁰ bytes a second and rank, by degree, on FlexSP's nodes of 8 × A100. */
const BANDWIDTH: ReadonlyMap<number, number> = new Map([
  [2, 119.54],
  [4, 104.07],
  [8, 96.5],
  [16, 10.33],
  [32, 5.94],
  [64, 4.87],
]);
/** 2³⁰ bytes of 40 that a rank may use. */
const MEMORY_GIB = 28;
/** Parameters, gradients and two moments, sharded over all ranks (ZeRO-3). */
const STATE_BYTES_PER_PARAMETER = 16;
/** Queries, keys, values and outputs, forward and backward, 2 bytes an element. */
const EXCHANGED_TENSORS = 8;
const BYTES_PER_ELEMENT = 2;
const MIB = 2 ** 20;

export interface FlexSpSetting {
  readonly ranks: number;
  /** Tokens of the longest sequence that the model has positions for. */
  readonly context: number;
}

/**
 * FlexSP's own cost model of one of its models: degrees are powers of two up to 64, as published.
 * @throws UserError for another model, or one that does not fit
 */
export function flexSpModelCost(name: string, { ranks, context }: FlexSpSetting): CostModel {
  const model = modelNamed(name);
  const stateBytes = stateOf(model, { ranks, context });
  const activationBytesPerToken = model.activationMibPerToken * MIB;
  const memoryLimitBytes = MEMORY_GIB * 1024 * MIB;
  const tokensPerRank = Math.floor((memoryLimitBytes - stateBytes) / activationBytesPerToken);
  if (tokensPerRank < 1)
    throw new UserError(
      `the ${name} model needs ${(stateBytes / 1024 / MIB).toFixed(1)} GiB on each of ${ranks} ranks, they have ${MEMORY_GIB}`,
      'use more ranks',
    );
  return flexSpCost({
    name,
    ranks,
    ranksPerNode: 8,
    degrees: [1, ...BANDWIDTH.keys()].filter((degree) => degree <= ranks),
    attentionMsPerToken2: model.attentionMsPerToken2,
    linearMsPerToken: model.linearMsPerToken,
    microBatchMs: model.microBatchMs,
    exchangeMibPerToken: exchangedBytesPerToken(model) / MIB,
    bandwidth: BANDWIDTH,
    tokensPerRank,
    stateBytes,
    activationBytesPerToken,
    memoryLimitBytes,
  });
}

/**
 * The same model for ithaca's physical terms: compute and memory as fitted, all-to-alls by bytes, links and latency,
 * heads in whole numbers, so that every degree has a price.
 * @throws UserError for another model
 */
export function flexSpModelWork(name: string, setting: FlexSpSetting, cluster: Cluster): ProgramWork {
  const model = modelNamed(name);
  const flopsPerMs = cluster.teraflopsPerRank * 1e9;
  const stateBytes = stateOf(model, setting);
  const bytesPerToken = exchangedBytesPerToken(model);
  return {
    name,
    flopsPerToken: model.linearMsPerToken * flopsPerMs,
    flopsPerMicroBatch: model.microBatchMs * flopsPerMs,
    flopsPerPair: model.attentionMsPerToken2 * flopsPerMs,
    attention: 'full',
    heads: HEADS,
    kvHeads: HEADS,
    launches: 0,
    // Queries, keys and values go together.
    exchanges: 4 * model.layers,
    exchangedTensors: EXCHANGED_TENSORS * model.layers,
    queryBytesPerToken: bytesPerToken / 2,
    kvBytesPerToken: bytesPerToken / 2,
    // What parameters cost to gather is in the fixed time of a micro-batch.
    gatherBytes: 0,
    settleBytes: 0,
    gathers: 0,
    settles: 0,
    peakBytes: (degree, tokens) => stateBytes + (model.activationMibPerToken * MIB * tokens) / degree,
  };
}

/** FlexSP's machines. */
export const flexSpCluster = (): Cluster => CLUSTERS.get('a100x64')!;

const exchangedBytesPerToken = ({ layers, hidden }: FlexSpModel): number =>
  EXCHANGED_TENSORS * layers * hidden * BYTES_PER_ELEMENT;

const stateOf = ({ parameters, hidden }: FlexSpModel, { ranks, context }: FlexSpSetting): number =>
  ((parameters * 2 ** 30 + context * hidden) * STATE_BYTES_PER_PARAMETER) / ranks;

function modelNamed(name: string): FlexSpModel {
  const model = MODELS.get(name);
  if (model === undefined)
    throw new UserError(`there is no model ${JSON.stringify(name)}`, `use ${FLEXSP_MODELS.join(', ')}`);
  return model;
}
