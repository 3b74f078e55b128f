"""What PyTorch computes on a model: the mean loss over all predicted tokens of documents run alone, and its gradients."""

import torch

LENGTHS = (21, 13)


def documents(kind):
    """(ids, targets): a target belongs to the token at its place, −100 is not predicted."""
    made = []
    for n, length in enumerate(LENGTHS):
        generator = torch.Generator().manual_seed(n + 1)
        # 0, 1 and 2 mean something to some families.
        ids = torch.randint(3, 96, (1, length), generator=generator)
        if kind == "next-token":
            targets = torch.cat([ids[:, 1:], torch.tensor([[-100]])], 1).clone()
            targets[:, 3:5] = -100
        else:
            targets = torch.randint(3, 96, (1, length), generator=generator)
            targets[torch.rand((1, length), generator=generator) > 0.5] = -100
        made.append((ids, targets))
    return made


def oracle(model, kind):
    """(loss, number of predicted tokens, tensors)"""
    parts, count, tensors = [], 0, {}
    for n, (ids, targets) in enumerate(documents(kind)):
        extra = {"use_cache": False} if kind == "next-token" else {}
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits
        parts.append(torch.nn.functional.cross_entropy(logits[0].float(), targets[0], ignore_index=-100, reduction="sum"))
        count += int((targets >= 0).sum())
        tensors[f"doc{n}.ids"], tensors[f"doc{n}.targets"] = ids[0], targets[0]
        tensors[f"doc{n}.logits"] = logits[0].detach()
    loss = sum(parts) / count
    loss.backward()
    for name, p in model.named_parameters():
        if p.grad is not None and p.requires_grad:
            tensors[f"grad/{name}"] = p.grad.detach().clone()
    return loss.item(), count, {k: v.contiguous() for k, v in tensors.items()}
