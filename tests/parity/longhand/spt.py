"""SPT, allocated: modules on some matrices, single entries of others, and whole vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.longhand import vit

MATRICES = ("attn.q", "attn.k", "attn.v", "attn.proj", "mlp.fc1", "mlp.fc2")


def model(
    path: Path,
    *,
    kind: str,
    rank: int,
    structured: Sequence[Sequence[int]],
    vectors: Sequence[str],
    sparse: dict[str, int],
    adapter_bias: bool = True,
    **changes: Any,
) -> Path:
    """A golden of an allocated model.

    Args:
        path: The file.
        kind: `lora` or `adapter`.
        rank: Of the modules.
        structured: Flags of the six matrices of every block.
        vectors: Names of the vectors that train whole.
        sparse: From `blocks.I.LAYER.weight` or `.bias` to how many of its entries train.
        adapter_bias: Whether adapters have biases.
        changes: Of the backbone.
    """
    spec = vit.backbone(separate_qkv=True, **changes)
    draw = vit.drawing(0)
    p = vit.weights(spec, draw, separate_qkv=True)
    index: dict[str, Tensor] = {}
    tuned = ["cls_token", "head.weight", "head.bias", *vectors]
    for at, row in enumerate(structured):
        for name in (name for name, flag in zip(MATRICES, row, strict=True) if flag):
            outputs, inputs = p[f"blocks.{at}.{name}.weight"].shape
            reads = inputs if kind == "lora" or name == "attn.proj" else outputs
            short = module(f"blocks.{at}.{name}")
            last = 1 if kind == "lora" else 2
            new = {f"{short}.0.weight": draw(rank, reads), f"{short}.{last}.weight": draw(outputs, rank)}
            if kind == "adapter" and adapter_bias:
                new |= {f"{short}.0.bias": draw(rank), f"{short}.{last}.bias": draw(outputs)}
            p |= new
            tuned += new
    for name, count in sparse.items():
        linear, _, tensor = name.rpartition(".")
        places = (
            torch.randperm(p[name].numel(), generator=torch.Generator().manual_seed(1))[:count].sort().values
        )
        columns = p[name].shape[-1]
        key = f"{linear}.sparse_{tensor}"
        index[key] = torch.stack([places // columns, places % columns]) if tensor == "weight" else places
        p[key] = draw(count)
        tuned.append(key)
    images, labels = vit.batch(spec, draw)

    def changed(name: str) -> Tensor:
        linear, _, tensor = name.rpartition(".")
        if (key := f"{linear}.sparse_{tensor}") not in p:
            return p[name]
        places = tuple(index[key]) if tensor == "weight" else (index[key],)
        return p[name].index_put(places, p[key], accumulate=True)

    def apply(name: str, x: Tensor) -> Tensor:
        z = F.linear(x, changed(f"{name}.weight"), changed(f"{name}.bias"))
        short = module(name)
        if f"{short}.0.weight" not in p:
            return z
        if kind == "lora":
            return z + vit.linear(p, f"{short}.1", vit.linear(p, f"{short}.0", x))
        reads = x if name.endswith("attn.proj") else z
        return z + vit.linear(p, f"{short}.2", F.gelu(vit.linear(p, f"{short}.0", reads)))

    def forward() -> tuple[Tensor, Tensor]:
        x = vit.embedded(p, images)
        for at in (f"blocks.{i}" for i in range(spec["depth"])):
            z = vit.norm(p, f"{at}.norm1", x)
            q, k, v = (apply(f"{at}.attn.{one}", z) for one in "qkv")
            x = x + apply(f"{at}.attn.proj", vit.attended(q, k, v, spec["num_heads"]))
            z = vit.norm(p, f"{at}.norm2", x)
            x = x + apply(f"{at}.mlp.fc2", F.gelu(apply(f"{at}.mlp.fc1", z)))
        logits = vit.classified(p, x)
        return logits, F.cross_entropy(logits, labels)

    tensors = vit.trained(p, tuned, forward) | {"input": images, "labels": labels}
    tensors |= {f"aux/index/{key}": places for key, places in index.items()}
    if kind == "lora":
        tensors["aux/merged_logits"] = tensors["logits"]
    given = {
        "structured_type": kind,
        "rank": rank,
        "structured": [list(row) for row in structured],
        "tuned_vectors": list(vectors),
        "adapter_bias": adapter_bias,
        "structured_vector": bool(vectors),
        "lora_scale": 1.0,
    }
    return vit.write(path, tensors, p, method="spt", hyperparameters=given, backbone=spec)


def module(linear: str) -> str:
    """The name of a matrix's module."""
    start, _, name = linear.rpartition(".")
    return f"{start}.structured_{name}.learnable"


def sensitivity(
    path: Path,
    *,
    kind: str,
    rank: int,
    alpha: float,
    beta: float,
    unit: float,
    budgets: Sequence[float],
    batches: int,
    most: int,
    structured_only: bool = False,
    structured_vector: bool = True,
    **changes: Any,
) -> Path:
    """A golden of the pass over the data and of the allocations that follow from it."""
    spec = vit.backbone(separate_qkv=True, **changes)
    draw = vit.drawing(0)
    p = vit.weights(spec, draw, separate_qkv=True)
    inputs = [vit.batch(spec, draw, 4) for _ in range(batches)]
    sums = {name: torch.zeros_like(tensor) for name, tensor in p.items()}
    tensors: dict[str, Tensor] = {}
    losses = []

    def run(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        x = vit.embedded(p, images)
        for at in (f"blocks.{i}" for i in range(spec["depth"])):
            z = vit.norm(p, f"{at}.norm1", x)
            q, k, v = (vit.linear(p, f"{at}.attn.{one}", z) for one in "qkv")
            x = x + vit.linear(p, f"{at}.attn.proj", vit.attended(q, k, v, spec["num_heads"]))
            x = x + vit.mlp(p, at, vit.norm(p, f"{at}.norm2", x))
        logits = vit.classified(p, x)
        return logits, F.cross_entropy(logits, labels)

    for number, (images, labels) in enumerate(inputs[:most]):
        found = vit.trained(p, list(p), lambda images=images, labels=labels: run(images, labels))
        losses.append(found["loss"])
        for name in sums:
            sums[name] += found[f"grad/{name}"].square()
        if number == 0:
            tensors |= {"input": images, "labels": labels, "logits": found["logits"], "loss": found["loss"]}
    tensors |= {f"aux/sensitivity/{name}": total for name, total in sums.items()}
    tensors |= {
        "sens/input": torch.stack([images for images, _ in inputs]),
        "sens/labels": torch.stack([labels for _, labels in inputs]),
        "sens/loss": torch.stack(losses),
    }
    left_out = ("head", "cls_token", "patch_embed", "pos_embed")
    names = [name for name in p if not name.startswith(left_out)]
    flat = torch.cat([sums[name].flatten() for name in names])
    sizes = [sums[name].numel() for name in names]
    order = flat.argsort(descending=True, stable=True)
    rows, configurations = [], []
    for step in range(1, 80):
        tau = int(-(-(step * 0.02 * unit) // 1))
        mask = torch.zeros(len(flat), dtype=torch.bool)
        mask[order[:tau]] = True
        parts = dict(zip(names, mask.split(sizes), strict=True))
        whole, flags, left = 0, {}, []
        for name, part in parts.items():
            chosen = int(part.sum())
            vector = "norm" in name or "bias" in name
            if vector:
                cost, needed = len(part), len(part) / beta
            else:
                outputs, fan_in = p[name].shape
                cost = rank * (outputs + fan_in) if kind == "lora" else 2 * rank * outputs + rank + outputs
                needed = cost / alpha
            if chosen >= needed and (structured_vector or not vector):
                whole += cost
                flags[name] = True
            elif not structured_only:
                left.append(name)
        single = sum(int(parts[name].sum()) for name in left)
        total = whole + single + spec["embed_dim"]
        rows.append([tau, single, whole, total])
        configurations.append((total, flags, parts, left))
    tensors["aux/sweep"] = torch.tensor(rows)
    for budget in budgets:
        best, distance = None, budget * unit
        for one in configurations:
            if abs(one[0] - budget * unit) <= distance:
                best, distance = one, abs(one[0] - budget * unit)
        if best is None:
            continue
        _, flags, parts, left = best
        table = [[f"blocks.{i}.{name}.weight" in flags for name in MATRICES] for i in range(spec["depth"])]
        tensors[f"alloc/{budget}/structured"] = torch.tensor(table, dtype=torch.uint8)
        tensors[f"alloc/{budget}/sensitive_count"] = torch.tensor(
            [int(part.sum()) for part in parts.values()]
        )
        unstructured = torch.cat([parts[name] for name in left]) if left else torch.zeros(0)
        tensors[f"alloc/{budget}/unstructured_flat_index"] = unstructured.nonzero()[:, 0]
    given = {"structured_type": kind, "rank": rank, "alpha": alpha, "beta": beta, "unit": unit}
    given |= {"budgets": list(budgets), "batches_supplied": batches, "sensitivity_batch_num": most}
    given |= {"structured_vector": structured_vector, "fixed_params": spec["embed_dim"], "drop_path": 0.0}
    given |= {"structured_only": structured_only}
    return vit.write(path, tensors, p, method="spt", hyperparameters=given, backbone=spec, kind="sensitivity")
