/** Operators that are refused, and why. The importer says it, and so does docs/ops.md. */
import type { OnnxNode } from '../../model.js';

interface Refusal {
  /** Completes "it …". */
  readonly reason: string;
  readonly hint: string;
}

const because = (
  reason: string,
  hint: string,
  names: string,
): readonly (readonly [name: string, refusal: Refusal])[] =>
  names.split(' ').map((name) => [name, { reason, hint }] as const);

const TEXT_ONLY = 'use a transformer: images, sound and state-space layers are not supported';
const FLOAT_MODEL = 'export the float model: quantised weights cannot be trained';
const NO_CONTROL_FLOW = 'export without control flow: torch.onnx.export(..., dynamo=True)';
const NO_FUSION = 'export without runtime-specific fusions (optimize=False), to opset 14 … 23 of ai.onnx';
const OTHER_MODEL = 'use a transformer whose attention is softmax(q·kᵀ)·v';
const NO_CACHE = 'export the model with use_cache=False';

const STANDARD: ReadonlyMap<string, Refusal> = new Map([
  ...because(
    'works on neighbourhoods of pixels or tokens, which ranks do not share',
    TEXT_ONLY,
    'Conv ConvTranspose DeformConv AveragePool MaxPool MaxUnpool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool LRN Col2Im MaxRoiPool RoiAlign GridSample AffineGrid Resize Upsample DepthToSpace SpaceToDepth CenterCropPad ImageDecoder NonMaxSuppression',
  ),
  ...because(
    'transforms signals',
    TEXT_ONLY,
    'DFT STFT HannWindow HammingWindow BlackmanWindow MelWeightMatrix',
  ),
  ...because(
    'carries a state from token to token',
    OTHER_MODEL,
    'RNN GRU LSTM LinearAttention CausalConvWithState',
  ),
  ...because(
    'normalises with statistics over other dims than the last ones',
    'use a model with layer or RMS norms',
    'BatchNormalization InstanceNormalization GroupNormalization MeanVarianceNormalization',
  ),
  ...because(
    'is random',
    'call model.eval() before the export',
    'RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial',
  ),
  ...because(
    'computes with quantised numbers',
    FLOAT_MODEL,
    'QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger MatMulInteger',
  ),
  ...because('is control flow', NO_CONTROL_FLOW, 'Loop Scan SequenceMap'),
  ...because(
    'makes or reads a sequence or an optional value',
    NO_CONTROL_FLOW,
    'SequenceEmpty SequenceConstruct SequenceInsert SequenceErase SequenceAt SequenceLength SplitToSequence ConcatFromSequence Optional OptionalGetElement OptionalHasElement',
  ),
  ...because(
    'works on text',
    'tokenise before the model',
    'StringConcat StringNormalizer StringSplit RegexFullMatch TfIdfVectorizer',
  ),
  ...because(
    'has a result whose shape depends on values',
    'export the model without data-dependent shapes',
    'NonZero Compress Unique',
  ),
  ...because('writes into a KV cache', NO_CACHE, 'TensorScatter'),
  ...because(
    'is a loss, and ithaca attaches its own to the logits',
    'export the model without labels, so that its output is logits',
    'SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss',
  ),
  ...because('reorders tokens', OTHER_MODEL, 'ReverseSequence'),
  ...because('reads the bits of numbers', 'export the model without it', 'BitShift BitCast'),
  ...because('has no derivative in ithaca', 'export the model without it', 'Det'),
  ...because('is deprecated in ONNX for ScatterElements', 'export to opset 14 or later', 'Scatter'),
]);

/** ONNX Runtime's own operators, by what their names say; the first that fits. */
const OWN: readonly (readonly [name: RegExp, refusal: Refusal])[] = [
  [
    /^Q[A-Z]|Quant|NBits|Bnb4|FpQ4|Float8|Fp[48]|Integer|BFP|^MulInteger$|^QMoE$/,
    { reason: 'computes with quantised numbers', hint: FLOAT_MODEL },
  ],
  [
    /Search$|Sampling|SampleOp|Tokenizer|MurmurHash|NGram/,
    { reason: 'generates or hashes text', hint: 'export the model without its generation loop' },
  ],
  [
    /Paged|Masked|^DecoderAttention$|^Varlen/,
    { reason: 'decodes with a KV cache', hint: 'export the model without a KV cache (use_cache=False)' },
  ],
  [
    /Sparse|Longformer|LinearAttention|GatedDeltaNet|AttnLSTM|LSTM|CausalConvWithState|Engram/,
    { reason: 'has another attention than softmax(q·kᵀ)·v', hint: OTHER_MODEL },
  ],
  [
    /Conv|Nhwc|Pool|GroupNorm|GridSample|CropAndResize|fft$|Wavelet|UnfoldTensor|TimeWarping/,
    { reason: 'works on images or signals', hint: TEXT_ONLY },
  ],
  [/Dropout/, { reason: 'is random', hint: 'call model.eval() before the export' }],
];

/** Why a node is refused whose operator no table has. */
export function refusalOf({ domain, opType }: Pick<OnnxNode, 'domain' | 'opType'>): Refusal {
  if (domain === '' || domain === 'ai.onnx')
    return (
      STANDARD.get(opType) ?? {
        reason: 'is none of ONNX that ithaca knows',
        hint: 'use a plain decoder or encoder in eager attention mode, or ask for the operation with this node’s name',
      }
    );
  if (domain === 'com.microsoft')
    return (
      OWN.find(([name]) => name.test(opType))?.[1] ?? {
        reason: 'is a fusion of ONNX Runtime that ithaca does not take apart',
        hint: NO_FUSION,
      }
    );
  return { reason: `belongs to domain ${domain}`, hint: NO_FUSION };
}

/** Names of the standard's operators that are refused. */
export const REFUSED_NAMES: readonly string[] = [...STANDARD.keys()];
