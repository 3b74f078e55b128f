"""
Tiny models as ONNX Runtime's own tools write them, with what PyTorch computes on the same weights.

    python make.py FOLDER [NAME …]

Needs torch, transformers, onnx, safetensors, onnxruntime and onnxruntime-genai; uses test/families/tool.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "families" / "tool"))

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from safetensors.torch import save_file

from export import export
from mapping import mapping, stored_tensors, strip
from oracle import oracle
from tiny import model_of


def plain(model, kind, family, path, inputs, exporter="torchscript", opset=17):
    with torch.no_grad():
        export({"exporter": exporter, "opset": opset, "inputs": inputs, "frozen": None}, model, kind, path)


def fused(family, inputs, exporter="torchscript", **options):
    """onnxruntime.transformers.optimizer, over an export."""

    def make(model, kind, folder):
        from onnxruntime.transformers import optimizer

        path = os.path.join(folder, "plain.onnx")
        plain(model, kind, family, path, inputs, exporter)
        config = model.config
        made = optimizer.optimize_model(
            path,
            model_type="bert" if family == "bert" else "gpt2",
            num_heads=config.num_attention_heads,
            hidden_size=config.hidden_size,
            opt_level=0,
            **options,
        )
        return made.model

    return make


def session(family, inputs):
    """What ONNX Runtime itself saves of an export that it optimised (level: extended)."""

    def make(model, kind, folder):
        path = os.path.join(folder, "plain.onnx")
        plain(model, kind, family, path, inputs, "dynamo", 20)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = os.path.join(folder, "saved.onnx")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)

    return make


def genai(model, kind, folder):
    """The model builder of onnxruntime-genai."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    hf, out = os.path.join(folder, "hf"), os.path.join(folder, "genai")
    model.save_pretrained(hf)
    words = {f"w{i}": i for i in range(model.config.vocab_size)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w1", eos_token="w2").save_pretrained(hf)
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder"]
    subprocess.run(
        [*command, "-i", hf, "-o", out, "-p", "fp32", "-e", "cpu", "-c", os.path.join(folder, "cache")],
        check=True,
        capture_output=True,
    )
    return onnx.load(os.path.join(out, "model.onnx"))


MODELS = {
    "gpt2-optimizer": ("gpt2", "eager", fused("gpt2", "ids+mask")),
    "llama-optimizer": ("llama", "eager", fused("llama", "ids+mask")),
    "bert-optimizer": ("bert", "eager", fused("bert", "ids+mask+types")),
    "gpt2-session": ("gpt2", "eager", session("gpt2", "ids+mask")),
    "llama-genai": ("llama", "eager", genai),
}


def parts_of(array, parameters):
    """The parameters that lie side by side in the last dim of an array, transposed if it has two."""
    parts, at = [], 0
    while at < array.shape[-1]:
        for name, value in parameters.items():
            turned = value.detach().numpy()
            turned = turned.T if turned.ndim == 2 else turned
            width = turned.shape[-1]
            if turned.ndim == array.ndim and at + width <= array.shape[-1]:
                piece = array[..., at : at + width]
                if piece.shape == turned.shape and np.array_equal(piece, turned):
                    parts.append({"param": name, "from": at, "to": at + width})
                    at += width
                    break
        else:
            return None
    return parts


def write(name, folder):
    family, attention, make = MODELS[name]
    model, kind, _ = model_of(family, attention)
    loss, count, tensors = oracle(model, kind)
    model.zero_grad()
    with tempfile.TemporaryDirectory() as scratch:
        made = strip(make(model, kind, scratch))
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(made, str(folder / "model.onnx"), save_as_external_data=False)
    parameters = dict(model.named_parameters())
    entries, maps = mapping(made, parameters)
    for key, array in stored_tensors(made).items():
        if key not in entries and array.ndim in (1, 2) and (parts := parts_of(array, parameters)):
            entries[key] = {"parts": parts, "shape": list(array.shape)}
    tensors |= {key: torch.from_numpy(places) for key, places in maps.items()}
    save_file(tensors, str(folder / "oracle.safetensors"))
    known = {e.get("param") for e in entries.values()} | {p["param"] for e in entries.values() for p in e.get("parts", [])}
    print(name, "not found:", [p for p in parameters if f"grad/{p}" in tensors and p not in known])
    text = json.dumps({"kind": kind, "loss": loss, "count": count, "documents": 2, "initializers": entries}, indent=2)
    (folder / "oracle.json").write_text(text + "\n")  # prettier formats it
    own = {}
    for node in made.graph.node:
        if node.domain == "com.microsoft":
            own[node.op_type] = own.get(node.op_type, 0) + 1
    print(name, len(made.graph.node), "nodes", own)


if __name__ == "__main__":
    for name in sys.argv[2:] or MODELS:
        try:
            write(name, pathlib.Path(sys.argv[1]) / name)
        except Exception as error:
            print(name, "FAILED", type(error).__name__, str(error)[:300], getattr(error, "stderr", b"")[-600:])
