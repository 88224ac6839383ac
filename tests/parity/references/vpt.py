"""VPT: its settings and the names of its tensors, and of the backbone's, in the reference."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from torch import Tensor

import vitune
from tests.parity.backbones import averages
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden
from tests.parity.harness import compare

# How an average of MAE over the patches alone may be told from that over prompts and patches.
PATCHES_ONLY = (" img_pool", "patch tokens only", "patches only")


def plain_names(golden: Golden) -> Golden:
    """The golden with prompts by block: `prompts.I` (p, D)."""
    depths = golden.backbone.get("depths", [])
    tensors: dict[str, Tensor] = {}
    for name, tensor in golden.tensors.items():
        group, _, inner = name.partition("/")
        if group not in ("param", "grad"):
            tensors[name] = tensor
            continue
        if depths and inner.startswith("enc.prompt_proj."):  # declared for a Swin, and never called
            continue
        deep = re.fullmatch(r"enc\.(?:transformer\.)?(deep_)?prompt_embeddings(?:_(\d+))?", inner)
        if not deep:
            tensors[name] = tensor
            continue
        # The first block's prompts are a parameter of their own; later stages of a Swin have one each.
        first = 0 if deep[1] is None else 1 if deep[2] in (None, "0") else sum(depths[: int(deep[2])])
        for i, prompts in enumerate(tensor):
            tensors[f"{group}/prompts.{first + i}"] = prompts
    return dataclasses.replace(golden, tensors=tensors)


def case(golden: Golden) -> Case:
    given = golden.hyperparameters
    deep = given["deep"]
    layers = prompted(golden, deep=deep)
    method = vitune.VPT(
        prompts=given["num_prompts"],
        mode="deep" if deep else "shallow",
        layers=layers if layers < golden.backbone.get("depth", 0) and deep else 0,
        project=projected(golden),
        dropout=given.get("prompt_dropout", 0.0),
        pool_prompts=pools_prompts(golden),
        # There the reference mixes a batch's images where prompts meet several windows.
        mix_windows=golden.backbone.get("family") == "swin",
    )
    methods = [method, *biases(golden)]
    return Case(methods, substitution(*rules(golden, "vpt", deep=deep)))


def biases(golden: Golden) -> list[vitune.Method]:
    """Of the variant in which the biases of the backbone train beside the prompts."""
    further = (name for name in golden.group("grad") if name.endswith(".bias"))
    found = any(not name.startswith("head.") and "prompt" not in name for name in further)
    return [vitune.BitFit(rule="names")] if found else []


def projected(golden: Golden) -> int | None:
    """Width of the prompts in front of the projection."""
    width, swin = golden.hyperparameters.get("project", -1), golden.backbone.get("family") == "swin"
    return None if swin or width == -1 else width


def prompted(golden: Golden, *, deep: bool) -> int:
    """How many of the first blocks of a ViT have prompts of their own."""
    return len({name for name in golden.group("param") if name.startswith("prompts.")}) if deep else 1


def pools_prompts(golden: Golden) -> bool:
    """Whether the average at the end of a ViT includes prompts, as MAE's does but where it is said otherwise."""
    given = {**golden.backbone, **golden.hyperparameters}
    said = " ".join(str(value) for key, value in given.items() if "pool" in key).lower()
    of_patches = any(words in f" {said}" for words in PATCHES_ONLY)
    return golden.backbone.get("family", "vit") == "vit" and averages(golden.backbone) and not of_patches


def rules(golden: Golden, key: str, *, deep: bool) -> list[tuple[str, str]]:
    """Where prompts and projection are, in a model tuned by the method of a name."""
    if golden.backbone.get("family") == "swin":
        # Prompts that stay in the map are those of the first block, or of the last.
        staying = 0 if not deep else sum(golden.backbone["depths"]) - 1
        places = swin_blocks(golden)
        return [
            (
                rf"prompts\.{i}",
                f"{path}.vitune.points."
                + (f"rows.{key}.own" if i == staying else f"context.{key}")
                + ".prompts",
            )
            for i, path in enumerate(places)
        ]
    points = vit_points(golden, deep=deep)
    found = [
        (rf"prompts\.{i}", f"blocks.{i}.vitune.points.{point}.{key}.prompts")
        for i, point in enumerate(points)
    ]
    project = rf"blocks.0.vitune.points.{points[0]}.{key}.project.\1"
    return [*found, (r"enc\.(?:transformer\.)?prompt_proj\.(\w+)", project)]


def vit_points(golden: Golden, *, deep: bool) -> list[str]:
    """By prompted block of a ViT: prompts that go on stand around it, the others are gone after its attention."""
    count = max(prompted(golden, deep=deep), 1)
    goes_on = count < golden.backbone["depth"] or not deep or pools_prompts(golden)
    return ["context"] * (count - 1) + ["around" if goes_on else "context"]


def swin_blocks(golden: Golden) -> list[str]:
    """Paths of the blocks of a Swin."""
    depths = golden.backbone["depths"]
    return [f"layers.{stage}.blocks.{i}" for stage, depth in enumerate(depths) for i in range(depth)]


def check(golden: Golden) -> dict[str, Any]:
    """As for any method, once the tensors are in the plain names."""
    return compare(plain_names(golden), case)


KINDS = {"model": check}
