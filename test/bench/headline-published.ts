/** A setting of FlexSP's headline comparison: 64 A100-40GB, 512 sequences a batch. */
export interface Setting {
  readonly model: '7b' | '13b' | '30b';
  readonly context: 192_000 | 384_000;
  readonly corpus: 'github' | 'common_crawl' | 'wikipedia';
}

/** Seconds a step as published (arXiv 2412.01523), read off its figure; the ratios it prints agree. */
export interface Published {
  readonly deepSpeed: number;
  readonly megatron: number;
  readonly bestDegree: number;
  readonly flexSp: number;
}

type Row = readonly [deepSpeed: number, megatron: number, bestDegree: number, flexSp: number];

const SECONDS: Readonly<Record<string, Readonly<Record<Setting['corpus'], Row>>>> = {
  '7b 192000': {
    github: [28.7, 28.2, 26.6, 19.8],
    common_crawl: [24.2, 26.8, 22.1, 16.0],
    wikipedia: [8.0, 9.2, 5.9, 4.7],
  },
  '13b 192000': {
    github: [47.8, 47.1, 44.4, 34.4],
    common_crawl: [40.0, 45.9, 37.3, 29.5],
    wikipedia: [13.8, 15.7, 10.5, 8.6],
  },
  '30b 192000': {
    github: [121, 121, 115, 83],
    common_crawl: [110, 112, 101, 71],
    wikipedia: [28.7, 34.5, 23.9, 17.2],
  },
  '7b 384000': {
    github: [32.4, 37.6, 31.5, 25.6],
    common_crawl: [27.0, 33.6, 25.8, 18.8],
    wikipedia: [8.2, 9.9, 6.1, 5.6],
  },
  '13b 384000': {
    github: [54.1, 68.3, 51.1, 41.8],
    common_crawl: [53.0, 65.6, 50.0, 38.4],
    wikipedia: [14.9, 18.3, 12.3, 10.4],
  },
  '30b 384000': {
    github: [134, 154, 131, 109],
    common_crawl: [116, 140, 112, 88],
    wikipedia: [32.4, 40.0, 27.6, 21.0],
  },
};

export const SETTINGS: readonly Setting[] = ([192_000, 384_000] as const).flatMap((context) =>
  (['7b', '13b', '30b'] as const).flatMap((model) =>
    (['github', 'common_crawl', 'wikipedia'] as const).map((corpus): Setting => ({ model, context, corpus })),
  ),
);

export function publishedOf({ model, context, corpus }: Setting): Published {
  const [deepSpeed, megatron, bestDegree, flexSp] = SECONDS[`${model} ${context}`]![corpus];
  return { deepSpeed, megatron, bestDegree, flexSp };
}

export const nameOf = ({ model, context, corpus }: Setting): string =>
  `${model.replace('b', 'B')} ${context / 1000}K ${corpus}`;
