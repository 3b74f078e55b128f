"""
Exports tiny models and writes what PyTorch computes on them. Reads one case a line from standard input, as JSON:
{"folder", "family", "exporter", "opset", "attention", "inputs", "frozen"}; writes one line for each: {"folder", "error"?}.
Each case runs in a process of its own.
"""

import io
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
import warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
import logging

logging.disable(logging.WARNING)
import numpy as np
import onnx
import torch
import transformers
from safetensors.torch import save_file

from mapping import mapping, strip
from oracle import oracle
from tiny import model_of

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
LIMIT_S = 900


class Logits(torch.nn.Module):
    """Takes inputs by position, gives logits (and, with a cache, keys and values)."""

    def __init__(self, model, names, kind, cache):
        super().__init__()
        self.model, self.names, self.kind, self.cache = model, names, kind, cache

    def forward(self, *inputs):
        given = dict(zip(self.names, inputs))
        if self.cache:
            from transformers import DynamicCache

            past = [given.pop(name) for name in self.names if name.startswith("past")]
            cache = DynamicCache(config=self.model.config)
            for layer in range(len(past) // 2):
                cache.update(past[2 * layer], past[2 * layer + 1], layer)
            out = self.model(**given, past_key_values=cache, use_cache=True)
            present = [t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]
            return (out.logits, *present)
        extra = {"use_cache": False} if self.kind == "next-token" else {}
        return self.model(**given, **extra).logits


def names_of(inputs, config):
    names = {"ids": "input_ids", "mask": "attention_mask", "positions": "position_ids", "types": "token_type_ids"}
    return [names[part] for part in inputs.split("+") if part in names]


def example_of(name, batch, tokens):
    if name == "input_ids":
        return torch.randint(3, 96, (batch, tokens))
    if name == "attention_mask":
        return torch.ones(batch, tokens, dtype=torch.int64)
    if name == "position_ids":
        return torch.arange(tokens)[None].expand(batch, tokens).contiguous()
    return torch.zeros(batch, tokens, dtype=torch.int64)


def open_dims(frozen, name, automatic):
    auto = torch.export.Dim.AUTO
    both = {0: auto if automatic else "batch", 1: auto if automatic else "sequence"}
    both.pop({"batch": 0, "sequence": 1}.get(frozen), None)
    return both


def export(case, model, kind, path):
    exporter, opset = case["exporter"], case["opset"]
    batch = 1 if case.get("frozen") == "batch" else 2
    names = names_of(case["inputs"], model.config)
    cache = case["inputs"].endswith("cache")
    tokens = 21
    inputs = [example_of(name, batch, tokens) for name in names]
    dims = {name: open_dims(case.get("frozen"), name, exporter != "torchscript") for name in names}
    outputs = ["logits"]
    if cache:
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        past = 5
        if "attention_mask" in names:
            at = names.index("attention_mask")
            inputs[at] = torch.ones(batch, tokens + past, dtype=torch.int64)
            if exporter == "torchscript":
                dims["attention_mask"] = {0: "batch", 1: "past+sequence"}
        for layer in range(config.num_hidden_layers):
            for part in ("key", "value"):
                names.append(f"past_key_values.{layer}.{part}")
                outputs.append(f"present.{layer}.{part}")
                inputs.append(torch.randn(batch, heads, past, size))
                dims[names[-1]] = (
                    {0: "batch", 2: "past"} if exporter == "torchscript" else {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}
                )
    if exporter == "optimum":
        export_by_optimum(model, kind, cache, opset, path)
        return
    if exporter.startswith("transformers"):
        from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

        fusions = {"ort_fusions": "cpu"} if exporter.endswith("fused") else {}
        config = OnnxConfig(dynamic=True, opset_version=opset, **fusions)
        sample = dict(zip(names, inputs))
        if kind == "next-token":
            sample["use_cache"] = False
        made = OnnxExporter().export(model, sample, config=config)
        import onnx_ir

        onnx_ir.save(made.program if hasattr(made, "program") else made, path)
        return
    wrapped = Logits(model, names, kind, cache)
    if exporter == "dynamo":
        program = torch.onnx.export(
            wrapped,
            tuple(inputs),
            dynamo=True,
            opset_version=opset,
            input_names=names,
            output_names=outputs,
            dynamic_shapes={"inputs": tuple(dims[name] for name in names)},
            verbose=False,
        )
        program.save(path)
        return
    torch.onnx.export(
        wrapped,
        tuple(inputs),
        path,
        dynamo=False,
        opset_version=opset,
        input_names=names,
        output_names=outputs,
        dynamic_axes=dims,
    )


def export_by_optimum(model, kind, cache, opset, path):
    from optimum.exporters.onnx import onnx_export_from_model

    task = {"next-token": "text-generation", "masked-lm": "fill-mask"}[kind]
    with tempfile.TemporaryDirectory() as made:
        onnx_export_from_model(model, output=made, task=task + ("-with-past" if cache else ""), opset=opset, do_validation=False)
        shutil.copy(os.path.join(made, "model.onnx"), path)


def run(case):
    folder = case["folder"]
    os.makedirs(folder, exist_ok=True)
    model, kind, attention = model_of(case["family"], case["attention"])
    loss, count, tensors = oracle(model, kind)
    if not np.isfinite(loss):
        raise RuntimeError(f"PyTorch's own loss is {loss}")
    model.zero_grad()
    path = os.path.join(folder, "model.onnx")
    with torch.no_grad():
        export(case, model, kind, path)
    graph = strip(onnx.load(path))
    onnx.save(graph, path)
    if os.path.exists(path + ".data"):
        os.remove(path + ".data")
    parameters = dict(model.named_parameters())
    entries, maps = mapping(graph, parameters)
    # What is spread over several parameters names none: all that are larger than one element, end to end.
    several = any(entry["layout"] == "spread" for entry in entries.values())
    order = [[name, p.numel()] for name, p in parameters.items() if p.numel() > 1] if several else []
    mapped = {entry["param"] for entry in entries.values()} | spread_names(entries, maps, order)
    missing = [
        name
        for name in parameters
        if f"grad/{name}" in tensors and name not in mapped and tensors[f"grad/{name}"].count_nonzero() > 0
    ]
    tensors |= {name: torch.from_numpy(places) for name, places in maps.items()}
    save_file(tensors, os.path.join(folder, "oracle.safetensors"))
    opset = next(o.version for o in graph.opset_import if o.domain in ("", "ai.onnx"))
    with open(os.path.join(folder, "oracle.json"), "w") as file:
        made = {key: case[key] for key in ("family", "exporter", "inputs", "frozen") if key in case}
        out = {**made, "kind": kind, "loss": loss, "count": count, "documents": 2, "opset": opset, "attention": attention, "unmapped": missing, "initializers": entries, "spread": order}
        json.dump(out, file, indent=2)


def spread_names(entries, maps, order):
    """Parameters that spread initializers hold elements of."""
    ends = np.cumsum([size for _, size in order])
    names = set()
    for name, entry in entries.items():
        if entry["layout"] == "spread":
            names |= {order[i][0] for i in np.unique(np.searchsorted(ends, maps[f"map/{name}"], side="right"))}
    return names


def alone(case):
    """Runs a case in a child, within the limit; its error, or None."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(LIMIT_S)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        if not os.environ.get("SHOW"):
            os.dup2(quiet, 2)
        error = None
        try:
            run(case)
        except BaseException as problem:  # noqa: BLE001: whatever an exporter throws is its result
            if os.environ.get("SHOW"):
                traceback.print_exc()
            error = f"{type(problem).__name__}: {str(problem).strip() or problem.__class__.__name__}"
        os.write(writing, json.dumps(error).encode()[:60000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if text:
        return json.loads(text)
    return f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended without a word"


def main():
    for line in sys.stdin:
        case = json.loads(line)
        error = alone(case)
        answer = {"folder": case["folder"], **({"error": error[:2000]} if error else {})}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
