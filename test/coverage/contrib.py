"""Nodes of ONNX Runtime's own operators (com.microsoft), with random operands."""

import numpy as np
from onnx import helper

HEADS, SIZE, TOKENS = 2, 4, 5
HIDDEN = HEADS * SIZE


def cases():
    """(name, node, operands by name)"""
    rng = np.random.default_rng(7)

    def x(*dims):
        return rng.standard_normal(dims).astype(np.float32)

    def angles(width, rows=16):
        at = np.arange(rows)[:, None] / 10.0 ** np.arange(width)[None]
        return np.cos(at).astype(np.float32), np.sin(at).astype(np.float32)

    def case(name, op, feeds, outputs=("y",), **attributes):
        inputs = ["" if value is None else key for key, value in feeds.items()]
        while inputs and inputs[-1] == "":
            inputs.pop()
        node = helper.make_node(op, inputs, list(outputs), name=op, domain="com.microsoft", **attributes)
        return name, node, {key: value for key, value in feeds.items() if value is not None}

    ids = np.array([[0, 3, 1, 2, 4]], np.int64)
    int32 = lambda *values: np.array(values, np.int32)
    row = x(1, TOKENS, HIDDEN)
    w, b = x(HIDDEN), x(HIDDEN)

    yield case("FastGelu", "FastGelu", {"x": row})
    yield case("FastGelu_bias", "FastGelu", {"x": row, "bias": b})
    yield case("BiasGelu", "BiasGelu", {"x": row, "bias": b})
    yield case("Gelu", "Gelu", {"x": row})
    yield case("QuickGelu", "QuickGelu", {"x": row})
    yield case("QuickGelu_alpha", "QuickGelu", {"x": row}, alpha=1.25)
    for flags in ({}, {"transA": 1}, {"transB": 1}, {"transA": 1, "transB": 1, "alpha": 0.5}):
        a, c = x(2, 3, 4), x(2, 4, 5)
        a = a.transpose(0, 2, 1).copy() if flags.get("transA") else a
        c = c.transpose(0, 2, 1).copy() if flags.get("transB") else c
        yield case(f"FusedMatMul{''.join(sorted(flags))}", "FusedMatMul", {"a": a, "b": c}, **flags)
    yield case(
        "FusedMatMul_transBatchA", "FusedMatMul", {"a": x(3, 2, 4), "b": x(2, 4, 5)}, transBatchA=1
    )
    skip = x(1, TOKENS, HIDDEN)
    for op, weights in (
        ("SkipLayerNormalization", {"gamma": w, "beta": b}),
        ("SkipSimplifiedLayerNormalization", {"gamma": w}),
    ):
        yield case(op, op, {"x": row, "skip": skip, **weights})
        yield case(f"{op}_sum", op, {"x": row, "skip": skip, **weights, "bias": x(HIDDEN)}, ("y", "", "", "sum"))
        yield case(f"{op}_broadcast", op, {"x": x(2, TOKENS, HIDDEN), "skip": skip, **weights}, epsilon=1e-3)
    cos, sin = angles(SIZE // 2)
    for interleaved in (0, 1):
        flag = {"interleaved": interleaved}
        tables = {"ids": ids, "cos": cos, "sin": sin}
        yield case(f"RotaryEmbedding_{interleaved}", "RotaryEmbedding", {"x": row, **tables}, **flag)
        yield case(
            f"RotaryEmbedding_4d_{interleaved}", "RotaryEmbedding", {"x": x(1, HEADS, TOKENS, SIZE), **tables}, **flag
        )
    half_cos, half_sin = angles(SIZE // 4)
    yield case(
        "RotaryEmbedding_partial",
        "RotaryEmbedding",
        {"x": row, "ids": ids, "cos": half_cos, "sin": half_sin},
        num_heads=HEADS,
        rotary_embedding_dim=SIZE // 2,
    )
    qkv = {"q": row, "k": x(1, TOKENS, HIDDEN), "v": x(1, TOKENS, HIDDEN)}
    mha = lambda name, feeds, **kw: case(name, "MultiHeadAttention", feeds, num_heads=HEADS, **kw)
    yield mha("MultiHeadAttention", qkv)
    yield mha("MultiHeadAttention_causal", qkv, unidirectional=1, scale=0.3)
    yield mha("MultiHeadAttention_bias", {**qkv, "bias": x(3 * HIDDEN)})
    no_pads = {"bias": None, "padding": None, "scores": x(1, HEADS, TOKENS, TOKENS)}
    yield mha("MultiHeadAttention_scores", {**qkv, **no_pads})
    yield mha("MultiHeadAttention_padding", {**qkv, "bias": None, "padding": int32(3)})
    fused = {"x": row, "w": x(HIDDEN, 3 * HIDDEN), "b": x(3 * HIDDEN)}
    att = lambda name, feeds, **kw: case(name, "Attention", feeds, num_heads=HEADS, **kw)
    yield att("Attention", fused)
    yield att("Attention_causal", fused, unidirectional=1)
    yield att("Attention_scores", {**fused, "mask": None, "past": None, "scores": x(1, HEADS, TOKENS, TOKENS)})
    sized = {"x": row, "w": x(HIDDEN, 20), "b": x(20)}
    yield att("Attention_sizes", sized, qkv_hidden_sizes=[HIDDEN, HIDDEN, 4])
    yield att("Attention_mask", {**fused, "mask": np.array([[1, 1, 1, 0, 0]], np.int32)})
    yield att("Attention_ones", {**fused, "mask": np.ones((1, TOKENS), np.int32)})
    embed = {
        "ids": ids.astype(np.int32),
        "types": int32([0, 0, 1, 1, 1]).reshape(1, TOKENS),
        "words": x(7, HIDDEN),
        "places": x(9, HIDDEN),
        "segments": x(2, HIDDEN),
        "gamma": w,
        "beta": b,
    }
    yield case("EmbedLayerNormalization", "EmbedLayerNormalization", embed, ("y", "mask_index"))
    yield case(
        "EmbedLayerNormalization_sum",
        "EmbedLayerNormalization",
        {**embed, "types": None, "segments": None},
        ("y", "mask_index", "sum"),
        epsilon=1e-3,
    )
    cos8, sin8 = angles(8)
    big = {"q": x(1, TOKENS, 32), "k": x(1, TOKENS, 16), "v": x(1, TOKENS, 16)}
    sizes = {"past_key": None, "past_value": None, "lengths": int32(TOKENS - 1), "total": np.array(TOKENS, np.int32)}
    gqa = lambda name, feeds, **kw: case(
        name, "GroupQueryAttention", feeds, ("y", "keys", "values"), num_heads=2, kv_num_heads=1, **kw
    )
    yield gqa("GroupQueryAttention", {**big, **sizes})
    yield gqa("GroupQueryAttention_rotary", {**big, **sizes, "cos": cos8, "sin": sin8}, do_rotary=1)
    packed = {"q": x(1, TOKENS, 64), "k": None, "v": None}
    yield gqa(
        "GroupQueryAttention_packed",
        {**packed, **sizes, "cos": cos8, "sin": sin8},
        do_rotary=1,
        rotary_interleaved=1,
        local_window_size=3,
        softcap=0.75,
        scale=1.25,
    )
    yield gqa("GroupQueryAttention_smooth", {**big, **sizes}, smooth_softmax=1)
    yield case(
        "MatMulNBits",
        "MatMulNBits",
        {
            "a": x(1, 3, 16),
            "b": rng.integers(0, 255, (4, 1, 8)).astype(np.uint8),
            "scales": x(4),
        },
        K=16,
        N=4,
        bits=4,
        block_size=16,
    )
