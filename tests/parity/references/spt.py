"""SPT: an allocated model, and the sensitivities with the allocations that follow from them."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import vitune
from tests.parity.backbones import Place, build, place
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden
from tests.parity.harness import compare, fill, verdict
from vitune.anatomy import anatomy
from vitune.errors import ConfigError
from vitune.methods import spt

MATRICES = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.in", "mlp.out")
ROLES = {"attn.proj": "attn.out", "mlp.fc1": "mlp.in", "mlp.fc2": "mlp.out"}
PATHS = {"attn.out": "attn.proj", "mlp.in": "mlp.fc1", "mlp.out": "mlp.fc2"}
QKV = r"(blocks\.\d+\.attn)\.([qkv])\.(weight|bias)"


def role(name: str) -> str:
    """A reference's name of a layer or tensor as a role."""
    for theirs, ours in ROLES.items():
        name = name.replace(f".{theirs}", f".{ours}")
    return name


def layer(name: str) -> tuple[str, str]:
    """Path of the layer that plays a role here, and the name of the part: (`blocks.0.attn.qkv`, `q`)."""
    block, short = re.fullmatch(r"(blocks\.\d+)\.(.*)", role(name)).groups()  # type: ignore[union-attr]
    if short in MATRICES[:3]:
        return f"{block}.attn.qkv", short[-1]
    return f"{block}.{PATHS[short]}", {"mlp.in": "in_"}.get(short, short.rpartition(".")[2])


def backbone_place(name: str, width: int) -> Place:
    return place(re.sub(QKV, r"\1.\2_proj.\3", name), width)


def model(golden: Golden) -> dict[str, Any]:
    """The fused qkv needs differences where the reference trains a whole tensor; see `translated`."""
    return compare(translated(golden), case)


def translated(golden: Golden) -> Golden:
    """The golden with rows of qkv under timm's names, places flattened, and trained rows of biases as differences."""
    width = golden.backbone["embed_dim"]
    tensors: dict[str, Tensor] = {}
    for key, tensor in golden.tensors.items():
        group, _, name = key.partition("/")
        if ".sparse_" in name and not tensor.numel():
            continue  # a tensor that was ranked and of which nothing was selected: nothing to train
        sliced = re.fullmatch(QKV, name)
        if group == "param" and sliced:
            tensors["param/" + re.sub(QKV, r"\1.\2_proj.\3", name)] = tensor
        elif group == "grad" and sliced:
            tensors[f"grad/{name}.shift"] = tensor
            tensors[f"param/{name}.shift"] = torch.zeros_like(tensor)
        elif key.startswith("aux/index/"):
            linear, _, kind = name.removeprefix("index/").rpartition(".")
            first = "qkv".index(linear[-1]) * width if linear[-2:] in (".q", ".k", ".v") else 0
            in_features = golden.tensors[f"param/{linear}.weight"].shape[1]
            flat = (
                (tensor[0] + first) * in_features + tensor[1] if kind == "sparse_weight" else tensor + first
            )
            tensors[key] = flat.to(torch.int32)
        else:
            tensors[key] = tensor
    return replace(golden, tensors=tensors)


def case(golden: Golden) -> Case:
    given = golden.hyperparameters
    flags = given["structured"]
    sparse, inputs, rules = [], {}, []
    for key, tensor in golden.tensors.items():
        if key.startswith("aux/index/"):
            linear, _, kind = key.removeprefix("aux/index/").rpartition(".")
            path, part = layer(linear)
            which = kind.removeprefix("sparse_")
            sparse.append(f"{role(linear)}.{which}:{tensor.shape[-1]}")
            inputs[key] = f"{path}.vitune.spt_sparse.{part}.{which}.index"
            rules.append((re.escape(f"{linear}.{kind}"), f"{path}.vitune.spt_sparse.{part}.{which}.values"))
    kind = given["structured_type"]
    if kind not in ("lora", "adapter"):
        raise ValueError(f"modules of kind '{kind}' are not known here")
    numbers = {"0": "down", {"lora": "1", "adapter": "2"}[kind]: "up"}
    for key in golden.group("param"):
        found = re.fullmatch(r"(blocks\.\d+\.\w+)\.structured_(\w+)\.learnable\.(\d)\.(weight|bias)", key)
        if found:
            path, part = layer(f"{found[1]}.{found[2]}")
            end = "" if kind == "lora" else f".{found[4]}"
            rules.append((re.escape(key), f"{path}.vitune.spt_{kind}.{part}.{numbers[found[3]]}{end}"))
    rules.append((r"(blocks\.\d+\.attn)\.([qkv])\.bias\.shift", r"\1.qkv.vitune.spt_sparse.\2.shift"))
    method = vitune.SPT(
        structure=kind,
        rank=given["rank"],
        adapter_bias=given["adapter_bias"],
        structured=tuple(
            f"blocks.{block}.{name}"
            for block, row in enumerate(flags)
            for name, flag in zip(MATRICES, row, strict=True)
            if flag
        ),
        vectors=tuple(role(name) for name in given["tuned_vectors"]),
        sparse=tuple(sparse),
    )
    return Case(method, substitution(*rules), inputs, merged)


def merged(tuned: vitune.Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if "aux/merged_logits" not in tensors:
        return {}
    twin = copy.deepcopy(tuned)
    twin.merge()
    with torch.no_grad():
        return {"merged_logits": twin(tensors["input"])}


def sensitivities(golden: Golden) -> dict[str, Any]:
    """The pass over the batches, and from the stored sensitivities every allocation, exactly."""
    given, tensors, params = golden.hyperparameters, golden.tensors, golden.group("param")
    net = build(golden.backbone).eval()
    width = anatomy(net).width
    places = {name: backbone_place(name, width) for name in params}
    unfilled = fill(net, params, places)
    logits = net(tensors["input"])
    ours: dict[str, Tensor | None] = {
        "logits": logits,
        "loss": nn.functional.cross_entropy(logits, tensors["labels"]),
    }
    batches = zip(tensors["sens/input"], tensors["sens/labels"], strict=True)
    paths = list(dict.fromkeys(where.name for where in places.values()))
    found = spt.squared_gradients(net, paths, batches, most=given["sensitivity_batch_num"])
    ours["sens/loss"] = torch.tensor(found.losses)
    for name in (key.removeprefix("sensitivity/") for key in golden.group("aux") if key != "sweep"):
        where = places[name]
        ours[f"aux/sensitivity/{name}"] = where.of(found.sums[where.name])
    ours |= allocations(golden, spt.candidates(anatomy(net)))
    used = {"input", "labels", "sens/input", "sens/labels", *(f"param/{name}" for name in params)}
    return verdict(golden, ours, used, unfilled)


def allocations(golden: Golden, candidates: tuple[spt.Candidate, ...]) -> dict[str, Tensor | None]:
    given, stored = golden.hyperparameters, golden.group("aux")
    scores = {role(key.removeprefix("sensitivity/")): t for key, t in stored.items() if key != "sweep"}
    taus = spt.sweep_taus(given["unit"])
    ranking = spt.rank_entries({c.name: scores[c.name] for c in candidates}, taus[-1])
    rules = spt.Rules(
        structure=given["structured_type"],
        rank=given["rank"],
        alpha=given["alpha"],
        beta=given["beta"],
        structured_only=given.get("structured_only", False),
        structured_vectors=given.get("structured_vector", True),
        fixed=given["fixed_params"],
    )
    tried = spt.sweep(ranking, candidates, rules, taus)
    table = torch.stack([tried.tau, tried.unstructured, tried.structured, tried.total], 1)
    ours: dict[str, Tensor | None] = {"aux/sweep": table}
    depth = golden.backbone["depth"]
    for budget in given["budgets"]:
        key = f"alloc/{budget}"
        try:
            found = spt.allocate(ranking, candidates, budget * given["unit"], rules, unit=given["unit"])
        except ConfigError:
            continue  # the reference wrote nothing either: what it wrote would remain uncompared
        if f"{key}/structured" not in golden.tensors:
            raise ValueError(f"the reference reached no budget of {budget}, and we did")
        chosen = [[f"blocks.{i}.{name}" in found.structured for name in MATRICES] for i in range(depth)]
        sizes = {candidate.name: candidate.numel for candidate in candidates}
        flat, start = [torch.empty(0, dtype=torch.long)], 0
        for name, positions in found.positions.items():
            flat.append(positions.long() + start)
            start += sizes[name]
        ours[f"{key}/structured"] = torch.tensor(chosen)
        ours[f"{key}/sensitive_count"] = torch.tensor(list(found.counts.values()))
        ours[f"{key}/unstructured_flat_index"] = torch.cat(flat)
    return ours


KINDS = {"model": model, "sensitivity": sensitivities}
