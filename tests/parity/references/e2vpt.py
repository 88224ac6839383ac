"""E2VPT: its settings, the names of its tensors in the reference, and its scores and selections."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

import vitune
from tests.parity.backbones import Place, build, place
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden
from tests.parity.harness import ABSOLUTE, compare, fill, verdict
from tests.parity.references import vpt
from vitune.methods.e2vpt import Importance, importance, lowest, pruning_counts
from vitune.methods.e2vpt.scores import masks_of

MARGIN = 10  # between rounding as we see it, float32 against float64, and as the reference may
PRUNED = "pruned"


def case(golden: Golden) -> Case:
    given = golden.hyperparameters
    masked = _masks_there(golden)
    deep = given.get("visual_prompts_deep", True)
    masks: Literal["trained", "fixed", "none"] = "trained" if given.get("masks_trainable") else "fixed"
    method = vitune.E2VPT(
        prompts=given["num_visual_prompts"],
        kv_prompts=given["num_kv_prompts"],
        mode="deep" if deep else "shallow",
        kv_deep=given.get("kv_prompts_all_layers", True),
        share_kv=given.get("kv_shared", True),
        project=vpt.projected(golden),
        dropout=given.get("prompt_dropout", 0.0),
        masks=masks if masked else "none",
        segments=given["segments"] if "segment" in masked else 1,
        pool_prompts=vpt.pools_prompts(golden),
        mix_windows=golden.backbone.get("family") == "swin",
    )
    kv = "attn.vitune.points.attn_kv.e2vpt"
    if golden.backbone.get("family") != "swin":
        masks_at = f"blocks.0.vitune.points.{vpt.vit_points(golden, deep=deep)[0]}.e2vpt.masks"
    else:
        masks_at = (
            "layers.0.blocks.0.vitune.points." + ("context.e2vpt" if deep else "rows.e2vpt.own") + ".masks"
        )
    rules = [
        (r"enc\.((?:layers\.\d+\.)?blocks\.\d+)\.attn\.(?:deep_)?QKV_embeddings(?:_K)?", rf"\1.{kv}.keys"),
        (r"enc\.((?:layers\.\d+\.)?blocks\.\d+)\.attn\.(?:deep_)?QKV_embeddings_V", rf"\1.{kv}.values"),
        *vpt.rules(golden, "e2vpt", deep=deep),
        (
            r"enc\.transformer\.encoder\.layer\.(\d+)\.attn\.(?:deep_)?QKV_embeddings(?:_K)?",
            rf"blocks.\1.{kv}.keys",
        ),
        (
            r"enc\.transformer\.encoder\.layer\.(\d+)\.attn\.(?:deep_)?QKV_embeddings_V",
            rf"blocks.\1.{kv}.values",
        ),
        (r"enc\.(?:transformer\.)?prompt_soft_tokens_mask_cls_token", f"{masks_at}.token"),
        (r"enc\.(?:transformer\.)?prompt_soft_tokens_pieces_mask_cls_token", f"{masks_at}.segment"),
    ]
    if not masked:
        return Case(method, substitution(*rules))
    # Ours are always two; one that the reference does not have rests at ones.
    idle = [f"{masks_at}.{mask}" for mask in ("token", "segment") if mask not in masked]
    inputs = {PRUNED: f"{masks_at}.pruned"}
    return Case(method, substitution(*rules), inputs, _mask_channels, idle)


MASKS = {"prompt_soft_tokens_mask_cls_token": "token", "prompt_soft_tokens_pieces_mask_cls_token": "segment"}


def _masks_there(golden: Golden) -> set[str]:
    return {ours for name in golden.group("param") for end, ours in MASKS.items() if name.endswith(end)}


def _mask_channels(tuned: vitune.Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"mask_channels": masks_of(tuned.model)(tuned.anatomy.blocks[0].width)}


def _plain(golden: Golden) -> Golden:
    """In the plain names, and with our mark that masks are pruned, of which nothing depends."""
    plain = vpt.plain_names(golden)
    if not _masks_there(golden):
        return plain
    mark = torch.tensor(not golden.hyperparameters.get("masks_trainable"))
    return dataclasses.replace(plain, tensors={**plain.tensors, PRUNED: mark})


def check(golden: Golden) -> dict[str, Any]:
    """As for any method, once the tensors are in the plain names."""
    return compare(_plain(golden), case)


def scores(golden: Golden) -> dict[str, Any]:
    """The first batch as for any method; then gradients of the masks, scores, and what they prune."""
    plain = _plain(golden)
    model_part = {name: t for name, t in plain.tensors.items() if not name.startswith("aux/")}
    result = compare(dataclasses.replace(plain, tensors=model_part), case)
    tuned = _filled(plain)
    # The first of them is the batch of the model part.
    batches = [(golden.tensors["input"], golden.tensors["labels"])]
    while f"aux/imp_input_{len(batches)}" in golden.tensors:
        i = len(batches)
        batches.append((golden.tensors[f"aux/imp_input_{i}"], golden.tensors[f"aux/imp_labels_{i}"]))
    ours: dict[str, Tensor | None] = {}
    for i, batch in enumerate(batches):
        found = importance(tuned, [batch], sign="signed", tokens="gradient")
        ours[f"aux/mask_grad_tokens_batch_{i}"] = found.tokens
        ours[f"aux/mask_grad_segments_batch_{i}"] = found.segments
    signed = importance(tuned, batches, sign="signed", tokens="gradient")
    kinds = {
        "signed": signed,
        "abs_batch": importance(tuned, batches, tokens="gradient"),
        "abs_sample": importance(tuned, batches, per="image", tokens="gradient"),
        "signed_norm": signed.normalised(),
        "signed_fp64": importance(
            _filled(plain, torch.float64),
            [(x.double(), y) for x, y in batches],
            sign="signed",
            tokens="gradient",
        ),
    }
    given = golden.hyperparameters
    shares = given.get("percentages", list(range(10, 100, 10)))
    levels = {
        "tokens": pruning_counts(given["num_visual_prompts"], given.get("min_tokens_kept", 1), shares),
        "segments": pruning_counts(given["segments"], given.get("min_segments_kept", 4), shares),
    }
    for part, counts in levels.items():
        ours[f"aux/level_counts_{part}"] = torch.tensor(counts)
        noise = MARGIN * float((_of(signed, part) - _of(kinds["signed_fp64"], part)).abs().max())
        for kind, found in kinds.items():
            values = ours[f"aux/score_{part}_{kind}"] = _of(found, part)
            # Where scores are as near to each other as rounding moves them, so is their order: then the selection is
            # checked on the reference's scores. Behind a LayerNorm the score of a token is often little but rounding.
            if not _apart(values, noise):
                values = golden.tensors.get(f"aux/score_{part}_{kind}", values)
            ours[f"aux/keep_{part}_{kind}"] = torch.stack([lowest(values, n).float() for n in counts])
        reference = golden.tensors.get(f"aux/score_{part}_signed")
        if reference is not None and noise > ABSOLUTE * float(_of(signed, part).norm(dim=-1).min()):
            both = {p: _of(signed, p) for p in levels} | {part: reference.double()}
            ours[f"aux/score_{part}_signed_norm"] = _of(Importance(**both).normalised(), part)
    used = {f"aux/imp_{name}_{i}" for i in range(len(batches)) for name in ("input", "labels")}
    used |= {name for name in golden.tensors if not name.startswith("aux/")}
    more = verdict(golden, ours, used)
    return {
        **result,
        "compared": result["compared"] + more["compared"],
        "uncompared": result["uncompared"] + more["uncompared"],
        "ok": result["ok"] and more["ok"],
    }


def _filled(golden: Golden, dtype: torch.dtype = torch.float32) -> vitune.Tuned:
    """A model with the golden's weights."""
    found = case(golden)
    tuned = vitune.apply(build(golden.backbone), found.method)
    family = golden.backbone.get("family", "vit")
    names = {name: found.name(name) for name in golden.group("param")}
    places = {
        name: Place(ours) if ours else place(name, tuned.anatomy.width, family)
        for name, ours in names.items()
    }
    fill(tuned.model, golden.group("param"), places)
    tuned.model.to(dtype)
    return tuned


def _apart(scores: Tensor, noise: float) -> bool:
    """Whether no two scores along the last dimension are nearer to each other than `noise`."""
    gaps = scores.sort(dim=-1).values.diff(dim=-1)
    return not gaps.numel() or float(gaps.min()) > noise


def _of(found: Importance, part: str) -> Tensor:
    return found.tokens if part == "tokens" else found.segments


KINDS = {"model": check, "importance": scores}
