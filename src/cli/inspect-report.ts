import { z } from 'zod';
import { UserError } from '../errors.js';
import { attendedPairs } from '../ir/ops/attention-mask.js';
import { evaluateSize, parseSize } from '../ir/size.js';
import { COST } from '../package/paths.js';
import type { LossEntry, ParameterEntry } from '../package/manifest.js';
import type { Program } from '../package/program.js';
import type { Package } from '../package/read.js';
import type { PeakPlan } from '../runtime/memory/peak.js';
import { bindingOf, momentBytes, programPeak } from '../train/peak.js';
import { checkDegree } from '../runtime/session/plan.js';
import { attentionsOf, exchangesOf, isEven, layerBytes, type Exchange } from './exchanges.js';

/** The group that numbers are given for: one document of `tokens` tokens over `degree` ranks. */
export interface GroupSize {
  readonly tokens: number;
  readonly degree: number;
}

export interface Flops {
  /** A polynomial in S and the attended pairs A_…. */
  readonly formula: string;
  readonly group: number;
  readonly byOp: readonly { readonly op: string; readonly formula: string; readonly group: number }[];
}

export interface SegmentSummary {
  readonly distinct: number;
  readonly calls: number;
}

export interface ExchangeSummary {
  readonly layers: number;
  readonly all: readonly Exchange[];
  readonly forward: { readonly count: number; readonly bytes: number };
  readonly backward: { readonly count: number; readonly bytes: number };
  /** S·(2H + 2·Hkv)·D·4·(P−1)/P of the first layer, and whether P divides the K/V heads, which makes it exact. */
  readonly formulaBytes: number | undefined;
  readonly exact: boolean;
}

export interface Report {
  readonly package: { readonly directory: string; readonly hash: string };
  readonly model: {
    readonly name: string;
    readonly source: string;
    readonly sha256: string;
    readonly vocabulary: number;
    readonly loss: LossEntry;
    readonly maxDegree: number;
    readonly maxDocument: { readonly tokens: number; readonly reason: string } | undefined;
    readonly elements: number;
    readonly trainedElements: number;
  };
  readonly parameters: readonly ParameterEntry[];
  readonly recognized: Readonly<Record<string, number>>;
  readonly notes: readonly string[];
  readonly optimizer: Readonly<Record<string, number>>;
  readonly group: GroupSize;
  readonly inputs: readonly { readonly name: string; readonly role: string; readonly type: string }[];
  readonly flops: Readonly<Record<string, Flops>>;
  readonly exchanges: ExchangeSummary;
  readonly segments: Readonly<Record<string, SegmentSummary>>;
  /** Of the rank that needs most. */
  readonly peak: Readonly<Record<string, RankPeak>>;
  /** Of every rank of the group. */
  readonly ranks: Readonly<Record<string, readonly RankPeak[]>>;
}

export interface RankPeak extends PeakPlan {
  readonly rank: number;
  /** AdamW's moments, which stay while a program runs; part of `peakBytes`. */
  readonly stateBytes: number;
}

/** @throws UserError for a degree that the model does not allow */
export function reportOn(pkg: Package, group: GroupSize): Report {
  const { manifest } = pkg;
  checkDegree(group.degree, manifest);
  const train = pkg.program('train');
  const elements = (list: readonly ParameterEntry[]): number =>
    list.reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0);
  const perToken = manifest.programs.filter((name) => name !== 'update');
  const ranks = perToken.map((name) => [name, peaksOf(pkg, name, group)] as const);
  return {
    package: { directory: pkg.directory, hash: pkg.hash },
    model: {
      name: manifest.name,
      source: manifest.source.file,
      sha256: manifest.source.sha256,
      vocabulary: manifest.vocabulary,
      loss: manifest.loss,
      maxDegree: manifest.maxDegree,
      maxDocument: manifest.maxDocument,
      elements: elements(manifest.parameters),
      trainedElements: elements(manifest.parameters.filter((p) => p.trainable)),
    },
    parameters: manifest.parameters,
    recognized: manifest.recognized,
    notes: manifest.notes,
    optimizer: manifest.optimizer,
    group,
    inputs: train.inputs.map(({ name, role, buffer }) => ({ name, role, type: train.buffers[buffer]!.type })),
    flops: flopsOf(pkg, group),
    exchanges: exchangeSummary(train, group),
    segments: Object.fromEntries(manifest.programs.map((name) => [name, segmentSummary(pkg.program(name))])),
    peak: Object.fromEntries(ranks.map(([name, plans]) => [name, largest(plans)])),
    ranks: Object.fromEntries(ranks),
  };
}

const costSchema = z.record(
  z.string(),
  z.looseObject({ flops: z.string(), byOp: z.record(z.string(), z.string()) }),
);

/** Undefined for what is no JSON. */
function jsonOf(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(bytes).toString('utf8'));
  } catch {
    return undefined;
  }
}

function flopsOf(pkg: Package, { tokens }: GroupSize): Record<string, Flops> {
  const parsed = costSchema.safeParse(jsonOf(pkg.bytes(COST)));
  if (!parsed.success)
    throw new UserError(`package ${pkg.directory}: ${COST} is not valid`, 'compile the model again');
  return Object.fromEntries(
    Object.entries(parsed.data).map(([name, { flops, byOp }]) => [
      name,
      {
        formula: flops,
        group: flopsAt(flops, tokens),
        byOp: Object.entries(byOp)
          .map(([op, formula]) => ({ op, formula, group: flopsAt(formula, tokens) }))
          .sort((a, b) => b.group - a.group),
      },
    ]),
  );
}

/** The value for one document of `tokens` tokens. */
function flopsAt(formula: string, tokens: number): number {
  const size = parseSize(formula);
  const symbols = new Map([['S', tokens]]);
  for (const { symbols: names } of size.terms)
    for (const name of names) if (name.startsWith('A_')) symbols.set(name, attendedPairs(name, [tokens]));
  return evaluateSize(size, symbols);
}

function exchangeSummary(train: Program, group: GroupSize): ExchangeSummary {
  const all = exchangesOf(train, group);
  const attentions = attentionsOf(train);
  const total = (phase: Exchange['phase']): { count: number; bytes: number } => {
    const own = all.filter((e) => e.phase === phase);
    return { count: own.length, bytes: own.reduce((sum, e) => sum + e.bytes, 0) };
  };
  const [first] = attentions;
  return {
    layers: attentions.length,
    all,
    forward: total('forward'),
    backward: total('backward'),
    formulaBytes: first && layerBytes(first, group.tokens, group.degree),
    exact: isEven(train, group.degree),
  };
}

function segmentSummary({ instructions, segments, kernels }: Program): SegmentSummary {
  const compute = instructions.filter((i) => i.kind !== 'collective' && i.kind !== 'shard');
  return { distinct: segments.length + kernels.length, calls: compute.length };
}

function peaksOf(pkg: Package, program: string, { tokens, degree }: GroupSize): RankPeak[] {
  return Array.from({ length: degree }, (_, index): RankPeak => {
    const plan = programPeak(pkg.program(program), bindingOf(tokens, { index, degree }), tokens);
    const stateBytes = program.startsWith('train') ? momentBytes(pkg, index, degree) : 0;
    return { ...plan, rank: index, stateBytes, peakBytes: plan.peakBytes + stateBytes };
  });
}

const largest = (plans: readonly RankPeak[]): RankPeak =>
  plans.reduce((most, plan) => (plan.peakBytes > most.peakBytes ? plan : most));
