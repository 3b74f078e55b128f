/** What is exported: every family once, and a few families in many ways. */

/** An export of a family. */
export interface Case {
  readonly family: string;
  readonly exporter: 'dynamo' | 'torchscript' | 'transformers' | 'transformers-fused' | 'optimum';
  /** Opset that is asked for. */
  readonly opset: number;
  /** Asked for; families without sdpa are exported with eager attention. */
  readonly attention: 'sdpa' | 'eager';
  /** Inputs of the graph: `ids`, `mask`, `positions`, `types`, `cache`, joined by `+`. */
  readonly inputs: string;
  /** An axis that is exported with a fixed size. */
  readonly frozen?: 'batch' | 'sequence';
}

/** Name of a case, and of the folder that it is exported to. */
export const caseName = ({ family, exporter, opset, attention, inputs, frozen }: Case): string =>
  [family, exporter, opset, attention, inputs, ...(frozen === undefined ? [] : [frozen])].join('--');

const DECODERS =
  'gpt2 llama qwen3 mistral mixtral bloom falcon falcon-alibi gemma2 openai-gpt gptj mpt phi gpt_neox gpt_neo gpt_bigcode starcoder2 codegen opt olmo olmo2 olmo3 gemma gemma3_text smollm3 phi3 phi3-long qwen2 qwen2_moe cohere cohere2 stablelm persimmon glm glm4 granite exaone4 nemotron ministral gpt_oss deepseek_v2 deepseek_v3 llama4_text biogpt xglm dbrx olmoe phimoe apertus seed_oss hunyuan_v1_dense ernie4_5 arcee dots1 lfm2 bitnet minimax helium jamba mamba qwen3_moe afmoe ctrl cwm diffllama doge ernie4_5_moe exaone_moe falcon_h1 flex_olmo glm4_moe glm4_moe_lite gpt_neox_japanese granite_swa granitemoe granitemoeshared hy_v3 hyperclovax internlm3 iquestcoder jais2 jetmoe minicpm3 bert-generation cpmant qwen3_next mellum minimax_m2 ministral3 modernbert-decoder nanochat solar_open vaultgemma youtu laguna mimo_v2_flash recurrent_gemma rwkv mamba2'.split(
    ' ',
  );
const ENCODERS =
  'bert distilbert roberta electra modernbert albert mobilebert xlm-roberta esm deberta deberta-v2 data2vec-text mpnet roformer rembert camembert ernie eurobert nomic_bert layoutlm squeezebert gte megatron-bert xmod roberta-prelayernorm ibert'.split(
    ' ',
  );

const plain = (family: string): Case => ({
  family,
  exporter: 'dynamo',
  opset: 20,
  attention: 'sdpa',
  inputs: 'ids+mask',
});

/** One thing different from the plain export. */
const VARIANTS: readonly Partial<Case>[] = [
  ...[18, 23, 24].map((opset) => ({ opset })),
  ...[14, 17, 20].map((opset) => ({ exporter: 'torchscript' as const, opset })),
  // Before opset 14 the exporter has no scaled_dot_product_attention.
  { exporter: 'torchscript', opset: 13, attention: 'eager' },
  { exporter: 'transformers' },
  { exporter: 'transformers', opset: 23 },
  { exporter: 'transformers-fused' },
  { attention: 'eager' },
  { exporter: 'torchscript', opset: 17, attention: 'eager' },
  { inputs: 'ids' },
  { inputs: 'ids+positions' },
  { inputs: 'ids+mask+positions' },
  { frozen: 'batch' },
  { frozen: 'sequence' },
];
const CACHED: readonly Partial<Case>[] = [
  { inputs: 'ids+mask+cache' },
  { exporter: 'torchscript', opset: 17, inputs: 'ids+mask+cache' },
];
/** Optimum's exports: decoders as it serves them, with a cache. It lacks newer families, and wants an older transformers. */
const OPTIMUM: readonly Case[] = [
  ...'gpt2:14 opt:14 gptj:14 llama:17 bloom:17 codegen:17 falcon:17 gemma:17 gpt_bigcode:17 gpt_neox:17 phi:17 cohere:18 gemma2:18 granite:18 mistral:18 mpt:18 olmo2:18 phi3:18 qwen2:18 qwen3:18 stablelm:18'
    .split(' ')
    .map((text) => optimum(text, 'ids+mask+cache')),
  optimum('llama:17', 'ids+mask+positions'),
  ...'bert:14 distilbert:14 electra:14 mpnet:14 roberta:14 modernbert:17'
    .split(' ')
    .map((text) => optimum(text, 'ids+mask')),
];

function optimum(text: string, inputs: string): Case {
  const [family, opset] = text.split(':') as [string, string];
  return { family, exporter: 'optimum', opset: Number(opset), attention: 'sdpa', inputs };
}

const WIDELY = 'qwen2 phi gpt_neox gemma3_text olmo2 deepseek_v3 modernbert roberta'.split(' ');

/** All cases, in the order of the table. */
export function allCases(): readonly Case[] {
  const plainly = [...DECODERS, ...ENCODERS].flatMap((family): readonly Case[] => {
    const first = plain(family);
    if (family === 'llama' || family === 'gpt2')
      return [first, ...[...VARIANTS, ...CACHED].map((change) => ({ ...first, ...change }))];
    if (family === 'bert')
      return [
        first,
        ...VARIANTS.filter(({ inputs }) => inputs?.includes('positions') !== true).map((change) => ({
          ...first,
          ...change,
        })),
      ];
    if (WIDELY.includes(family))
      return [
        first,
        { ...first, exporter: 'torchscript', opset: 17 },
        { ...first, exporter: 'transformers' },
        { ...first, opset: 23 },
      ];
    return [first];
  });
  return [...plainly, ...OPTIMUM];
}
