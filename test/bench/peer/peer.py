"""The peer of the step benchmark: PyTorch eager on the same model, tokens and threads.

  peer.py export CONFIG.json OUT.onnx     exports a Hugging Face Llama of that config with random weights
  peer.py step CONFIG.json TOKENS STEPS   times AdamW training steps; prints one JSON line
"""

import json
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def model_of(path):
    torch.manual_seed(1234)
    with open(path) as file:
        config = json.load(file)
    config.pop("model_type", None)
    config["attn_implementation"] = "sdpa"
    return LlamaForCausalLM(LlamaConfig(**config))


def export(path, out):
    model = model_of(path).eval()
    model.config.use_cache = False
    ids = torch.randint(0, model.config.vocab_size, (2, 48))
    mask = torch.ones_like(ids)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits

    torch.onnx.export(
        Logits(), (ids, mask), out, dynamo=True, opset_version=20, external_data=False,
        input_names=["input_ids", "attention_mask"], output_names=["logits"], dynamic_shapes=(dynamic, dynamic),
    )


def step(path, tokens, steps):
    torch.set_num_threads(2)
    model = model_of(path).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.randint(0, model.config.vocab_size, (1, tokens))

    def once():
        optimizer.zero_grad(set_to_none=True)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    for _ in range(3):
        once()
    times = []
    for _ in range(steps):
        start, cpu = time.perf_counter(), time.process_time()
        once()
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    wall, cpu = (sorted(t[i] for t in times)[len(times) // 2] for i in range(2))
    print(json.dumps({"ms": 1e3 * wall, "cpu_ms": 1e3 * cpu, "torch": torch.__version__}))


if __name__ == "__main__":
    if sys.argv[1] == "export":
        export(sys.argv[2], sys.argv[3])
    else:
        step(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
