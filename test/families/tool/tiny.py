"""Tiny models of a Hugging Face model type, with random weights; nothing is downloaded."""

import torch
from transformers import CONFIG_MAPPING
from transformers.models.auto import modeling_auto as auto

SEED = 1234
VOCABULARY = 96

# Set where the configuration of a family knows the key.
SIZES = {
    "vocab_size": VOCABULARY,
    "type_vocab_size": 2,
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "word_embed_proj_dim", "embedding_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads"), 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "hidden_dim", "d_ff"), 48),
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    "head_dim": 8,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk"), 2),
    "sliding_window": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "qk_head_dim": 12,
    "v_head_dim": 6,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}

# What a family needs beside those, or what makes its features show at this size.
FAMILIES = {
    "albert": {"num_hidden_groups": 1, "embedding_size": 16},
    "bert": {},
    "bloom": {"n_head": 6, "hidden_size": 36},
    "codegen": {"rotary_dim": 4, "n_ctx": 64},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "electra": {"embedding_size": 16},
    "falcon-alibi": {"type": "falcon", "alibi": True, "multi_query": True, "new_decoder_architecture": False},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
    "gemma2": {"query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma3_text": {"query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gpt_neox": {"rotary_pct": 0.5},
    "gptj": {"rotary_dim": 4},
    "granite": {"attention_multiplier": 0.3, "embedding_multiplier": 2.0, "logits_scaling": 3.0, "residual_multiplier": 0.5},
    "mobilebert": {"intra_bottleneck_size": 32, "true_hidden_size": 32, "embedding_size": 32},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "mpt": {},
    "nemotron": {"head_dim": 8, "partial_rotary_factor": 0.5, "num_key_value_heads": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "youtu": {"num_key_value_heads": 4, "head_dim": 4},
    "xmod": {"default_language": "en_XX"},
    "mamba2": {"head_dim": 16, "num_heads": 4, "n_groups": 1, "state_size": 8},
    "dots1": {"n_routed_experts": 4, "moe_intermediate_size": 24, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "esm": {"mask_token_id": 4, "vocab_size": VOCABULARY, "position_embedding_type": "rotary", "pad_token_id": 1},
    "deepseek_v2": {"num_experts_per_tok": 2, "head_dim": 4, "num_key_value_heads": 4},
    "deepseek_v3": {"head_dim": 4, "num_key_value_heads": 4},
    "smollm3": {"no_rope_layers": [1, 0]},
    "llama4_text": {"no_rope_layers": [1, 0], "attention_chunk_size": 8, "layer_types": ["chunked_attention", "full_attention"]},
    "exaone4": {"layer_types": ["sliding_attention", "full_attention"]},
    "cohere2": {"layer_types": ["sliding_attention", "full_attention"]},
    "olmo3": {"layer_types": ["sliding_attention", "full_attention"]},
    "gpt_oss": {"layer_types": ["sliding_attention", "full_attention"]},
    "ministral": {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "openai-gpt": {},
    "phi": {"partial_rotary_factor": 0.5},
    "phi3-long": {
        "type": "phi3",
        "max_position_embeddings": 64,
        "original_max_position_embeddings": 32,
        "rope_scaling": {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0]},
    },
}

ENCODERS = set(auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES) - set(auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) | {
    "bert", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert", "roberta",
    "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod", "big_bird",
}


def configuration(family):
    """The configuration of a tiny model of a family."""
    special = dict(FAMILIES.get(family, {}))
    kind = special.pop("type", family)
    made = CONFIG_MAPPING[kind]
    default = made()
    known = {
        key: value
        for key, value in SIZES.items()
        if getattr(default, key, None) is not None and not isinstance(getattr(made, key, None), property)
    }
    if getattr(default, "num_key_value_heads", None) == getattr(default, "num_attention_heads", 0):
        known["num_key_value_heads"] = 4
    return made(**{**known, **special})


def model_of(family, attention):
    """(model, kind of loss, attention it has) with every parameter random."""
    torch.manual_seed(SEED)
    config = configuration(family)
    # A mask of an encoder that is also a decoder is causal only where the class asks for it.
    encoder = family in ENCODERS
    names = auto.MODEL_FOR_MASKED_LM_MAPPING if encoder else auto.MODEL_FOR_CAUSAL_LM_MAPPING
    kind = names[type(config)]
    if isinstance(kind, tuple):
        kind = kind[0]
    config._experts_implementation = "batched_mm"
    if attention == "sdpa" and not kind._supports_sdpa:
        attention = "eager"
    model = kind._from_config(config, attn_implementation=attention)
    model.eval().float()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() < 2:
                # A norm's weight is about 1, or about 0 where 1 is added to it; both stay near what they were.
                p.copy_(p.nan_to_num() * 0 + (p.float().mean() if p.numel() else 0) + 0.2 * noise)
            else:
                p.copy_(noise / p.shape[-1] ** 0.5)
    if hasattr(model, "set_experts_implementation"):
        try:
            model.set_experts_implementation("batched_mm")
        except Exception:
            pass
    return model, "masked-lm" if encoder else "next-token", attention
