"""ALaST: a few steps of training with given blocks, and the arithmetic alone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.longhand import vit


def steps(
    path: Path,
    *,
    trained: list[list[int]],
    alpha: float,
    initial_budget: float,
    lr: float,
    clip: tuple[float, float] = (0.5, 1.0),
    batch: int = 2,
    options: dict[str, Any] | None = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A golden of training steps.

    Args:
        path: The file.
        trained: The blocks that train in each step.
        alpha: Rate of the budgets.
        initial_budget: Of every block.
        lr: Of Adam.
        clip: Range of the budgets.
        batch: Images of a step.
        options: Other readings of the method.
        seed: Of weights and images.
        changes: Of the backbone.
    """
    spec = vit.backbone(**{"patch_size": 8, "pool": "token", "depth": 3} | changes)
    draw, options = vit.drawing(seed), options or {}
    p = vit.weights(spec, draw)
    start = {name: tensor.clone() for name, tensor in p.items()}
    parameters = {name: tensor.requires_grad_() for name, tensor in p.items()}
    optimizer = torch.optim.Adam(parameters.values(), lr=lr)
    depth, heads = spec["depth"], spec["num_heads"]
    budgets, before = [initial_budget] * depth, [0.0] * depth
    found: dict[str, list[Tensor]] = {}
    tensors: dict[str, Tensor] = {}
    batches = [vit.batch(spec, draw, batch) for _ in trained]

    def plain(images: Tensor) -> Tensor:
        x = vit.embedded(p, images)
        for i in range(depth):
            x = vit.block(p, f"blocks.{i}", x, heads)
        return vit.classified(p, x)

    with torch.no_grad():
        tensors["logits"] = plain(batches[0][0])
    for step, ((images, labels), blocks) in enumerate(zip(batches, trained, strict=True)):
        for name, parameter in parameters.items():
            block = int(name.split(".")[1]) if name.startswith("blocks.") else None
            frozen = name.startswith(("patch_embed", "cls", "pos")) and not options.get(
                "train_embeddings", True
            )
            parameter.requires_grad_((block is None or block in blocks) and not frozen)
        note: dict[str, list[float]] = {
            "budget_before": list(budgets),
            "delta": [],
            "budget_after": [],
            "n_tokens": [],
        }
        x = vit.embedded(p, images)
        original = torch.arange(x.shape[1]).expand(len(x), -1)
        for i in range(depth):
            note["n_tokens"].append(x.shape[1])
            at, entered = f"blocks.{i}", x
            q, k, _ = vit.linear(p, f"{at}.attn.qkv", vit.norm(p, f"{at}.norm1", x)).chunk(3, -1)
            score = vit.scores(q, k, heads)[:, :, 0].mean(1).detach()
            x = vit.block(p, at, x, heads)
            delta = (x[:, 0] - entered[:, 0]).detach().square().sum().item()
            if options.get("delta_reduction") == "mean":
                delta /= len(images)
            if step == 0 and options.get("first_delta") == "reference":
                before[i] = delta
            old, budgets[i] = budgets[i], min(max(budgets[i] + alpha * (delta - before[i]), clip[0]), clip[1])
            before[i] = delta
            used = old if options.get("budget_timing") == "previous" else budgets[i]
            count = x.shape[1]
            if options.get("token_count") == "patches":
                kept = max(1, math.floor(used * (count - 1)))
            else:
                kept = min(math.floor(used * count), count - 1)
            tensors[f"aux/step{step}/layer{i}/cls_score"] = score
            tensors[f"aux/step{step}/layer{i}/order_in"] = original
            order = 1 + score[:, 1:].argsort(dim=1, descending=True)[:, :kept]
            keep = torch.cat([torch.zeros(len(x), 1, dtype=torch.long), order], 1)
            x = x.gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))
            original = original.gather(1, keep)
            tensors[f"aux/step{step}/layer{i}/original_index"] = original.sort(1).values
            note["delta"].append(delta)
        note["n_tokens"].append(x.shape[1])
        note["budget_after"] = list(budgets)
        logits = vit.classified(p, x)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            tensors["loss"] = loss.detach()
            tensors |= {f"grad/{n}": t.grad.clone() for n, t in parameters.items() if t.grad is not None}
        optimizer.step()
        for name, values in note.items():
            found.setdefault(name, []).append(torch.tensor(values))
        found.setdefault("train_logits", []).append(logits.detach())
        found.setdefault("train_loss", []).append(loss.detach())
    with torch.no_grad():
        tensors["aux/final_eval_logits"] = plain(batches[0][0])
    tensors |= {f"aux/{name}": torch.stack(values) for name, values in found.items()}
    tensors |= {f"aux/final_param/{name}": tensor for name, tensor in p.items()}
    tensors |= {
        "input": torch.stack([one for one, _ in batches]),
        "labels": torch.stack([one for _, one in batches]),
    }
    tensors["aux/trained"] = torch.tensor(trained)
    given = {
        "K": len(trained[0]),
        "alpha": alpha,
        "initial_budget": initial_budget,
        "clip": list(clip),
        "lr": lr,
    }
    return vit.write(
        path,
        tensors,
        start,
        method="alast",
        hyperparameters=given | options,
        backbone=spec,
        kind="train_steps",
    )


def arithmetic(
    path: Path,
    *,
    layers: int,
    steps: int,
    batch: int,
    tokens: int,
    heads: int,
    k: int,
    alpha: float,
    **further: Any,
) -> Path:
    """A golden of deltas, budgets, drawn blocks and kept tokens, without a model."""
    draw = vit.drawing(1)
    start, clip = further.get("initial_budget", 0.9), further.get("clip", [0.5, 1.0])
    first = further.get("initial_delta", 0.0)
    cls = draw(steps, layers + 1, batch, 6, std=1.0).cumsum(1)
    delta = (cls[:, 1:] - cls[:, :-1]).double().square().sum((2, 3))
    noise = -(-torch.rand(steps, layers, generator=torch.Generator().manual_seed(2)).log()).log()

    def moved(change: Tensor, initial: float, rate: float, ends: list[float], before: Tensor) -> Tensor:
        rows = [torch.full((layers,), initial, dtype=torch.double)]
        for now in change:
            rows.append((rows[-1] + rate * (now - before)).clamp(*ends))
            before = now
        return torch.stack(rows)

    zero = torch.full((layers,), first, dtype=torch.double)
    budgets = moved(delta, start, alpha, clip, zero)
    tensors = {
        "cls": cls,
        "gumbel": noise,
        "delta_sum": delta,
        "delta_mean": delta / batch,
        "budget_sum": budgets,
        "budget_mean_alpha_times_B": moved(delta / batch, start, alpha * batch, clip, zero),
        "budget_open": moved(delta / batch, 1.0, alpha, [0.0, 1.0], zero),
        "budget_first_delta_as_reference": moved(delta, start, alpha, clip, delta[0]),
    }
    for name, share in (
        ("softmax", budgets[:-1].softmax(1)),
        ("linear", budgets[:-1] / budgets[:-1].sum(1, True)),
    ):
        tensors[f"prob_{name}"] = share
        tensors[f"trained_{name}"] = (share.log() + noise).topk(k).indices.sort(1).values
        tensors[f"inclusion_{name}"] = torch.stack([_inclusion(row, k) for row in share])
    order = budgets[:-1].argsort(dim=1, descending=True, stable=True)
    tensors["trained_topk"] = order[:, :k].sort(1).values
    count, original, counts = tokens, None, [tokens]
    for i, budget in enumerate(budgets[-1].tolist()):
        attention = draw(batch, heads, count, std=2.0).softmax(-1)
        score = attention.mean(1)
        ranked = 1 + score[:, 1:].argsort(dim=1, descending=True)
        front = torch.zeros(batch, 1, dtype=torch.long)
        kept = min(math.floor(budget * count), count - 1)
        keep = torch.cat([front, ranked[:, :kept]], 1)
        original = keep if original is None else original.gather(1, keep)
        patches = max(1, math.floor(budget * (count - 1)))
        tensors |= {f"attn_cls_layer{i}": attention, f"score_layer{i}": score, f"keep_layer{i}": keep}
        tensors[f"keep_patchcount_layer{i}"] = torch.cat([front, ranked[:, :patches]], 1)
        tensors[f"keep_sorted_layer{i}"] = keep.sort(1).values
        tensors[f"original_index_layer{i}"] = original.sort(1).values
        count = 1 + kept
        counts.append(count)
    tensors["n_tokens"] = torch.tensor(counts)
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    given = {"alpha": alpha, "initial_budget": start, "clip": clip, "K": k, "layers": layers, "steps": steps}
    given |= {"batch": batch, "tokens": tokens, "heads": heads, "initial_delta": first}
    return vit.write(path, tensors, {}, method="alast", hyperparameters=given, kind="worked_example")


def _inclusion(share: Tensor, k: int) -> Tensor:
    """By going through all sequences of K blocks."""
    total = torch.zeros_like(share)
    for drawn in itertools.permutations(range(len(share)), k):
        chance, left = 1.0, 1.0
        for block in drawn:
            chance *= share[block].item() / left
            left -= share[block].item()
        total[list(drawn)] += chance
    return total
