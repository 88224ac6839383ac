"""VPT: its settings and the names of its tensors, and of the backbone's, in the reference."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from torch import Tensor

import vitune
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden
from tests.parity.harness import compare

# The reference's own ViT, in the names that `tests.parity.backbones` knows.
VIT = (
    (r"enc\.transformer\.embeddings\.cls_token", "cls_token"),
    (r"enc\.transformer\.embeddings\.position_embeddings", "pos_embed"),
    (r"enc\.transformer\.embeddings\.patch_embeddings\.(\w+)", r"patch_embed.proj.\1"),
    (r"enc\.transformer\.encoder\.encoder_norm\.(\w+)", r"norm.\1"),
    (r"enc\.transformer\.encoder\.layer\.(\d+)\.attention_norm\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"enc\.transformer\.encoder\.layer\.(\d+)\.ffn_norm\.(\w+)", r"blocks.\1.norm2.\2"),
    (
        r"enc\.transformer\.encoder\.layer\.(\d+)\.attn\.([qkv])(?:uery|ey|alue)\.(\w+)",
        r"blocks.\1.attn.\2_proj.\3",
    ),
    (r"enc\.transformer\.encoder\.layer\.(\d+)\.attn\.out\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"enc\.transformer\.encoder\.layer\.(\d+)\.ffn\.(fc[12])\.(\w+)", r"blocks.\1.mlp.\2.\3"),
    (r"head\.last_layer\.(\w+)", r"head.\1"),
)


def plain_names(golden: Golden) -> Golden:
    """The golden with the names of the plain backbone, and prompts by block: `prompts.I` (p, D)."""
    rename = substitution(*VIT)
    depths = golden.backbone.get("depths", [])
    tensors: dict[str, Tensor] = {}
    for name, tensor in golden.tensors.items():
        group, _, inner = name.partition("/")
        if group not in ("param", "grad"):
            tensors[name] = tensor
            continue
        deep = re.fullmatch(r"enc\.(?:transformer\.)?(deep_)?prompt_embeddings(?:_(\d+))?", inner)
        if not deep:
            tensors[f"{group}/{rename(inner) or inner}"] = tensor
            continue
        # The first block's prompts are a parameter of their own; later stages of a Swin have one each.
        first = 0 if deep[1] is None else 1 if deep[2] in (None, "0") else sum(depths[: int(deep[2])])
        for i, prompts in enumerate(tensor):
            tensors[f"{group}/prompts.{first + i}"] = prompts
    return dataclasses.replace(golden, tensors=tensors)


def case(golden: Golden) -> Case:
    hyperparameters = golden.hyperparameters
    method = vitune.VPT(
        prompts=hyperparameters["num_prompts"],
        mode="deep" if hyperparameters["deep"] else "shallow",
        project=hyperparameters["project"] if hyperparameters.get("project", -1) > -1 else None,
        dropout=hyperparameters.get("prompt_dropout", 0.0),
        # There the reference mixes a batch's images where prompts meet several windows.
        mix_windows=golden.backbone.get("family") == "swin",
    )
    return Case(method, substitution(*rules(golden, "vpt", deep=hyperparameters["deep"])))


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
    point = "context" if deep else "around"
    return [
        (r"prompts\.(\d+)", rf"blocks.\1.vitune.points.{point}.{key}.prompts"),
        (r"enc\.transformer\.prompt_proj\.(\w+)", rf"blocks.0.vitune.points.{point}.{key}.project.\1"),
    ]


def swin_blocks(golden: Golden) -> list[str]:
    """Paths of the blocks of a Swin."""
    depths = golden.backbone["depths"]
    return [f"layers.{stage}.blocks.{i}" for stage, depth in enumerate(depths) for i in range(depth)]


def check(golden: Golden) -> dict[str, Any]:
    """As for any method, once the tensors are in the plain names."""
    return compare(plain_names(golden), case)


KINDS = {"model": check}
