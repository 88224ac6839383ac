"""HST: its settings, the names of its tensors in the reference, and a check of both modes of its BatchNorms."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

import vitune
from tests.parity.backbones import Place, build, place
from tests.parity.case import Case, substitution
from tests.parity.golden import Golden
from tests.parity.harness import fill, verdict

# What the reference leaves no choice about.
FIXED = {"num_stages": 4, "bn1d_eps": 1e-6, "bn_momentum": 0.1}


def case(golden: Golden) -> Case:
    h = golden.hyperparameters
    for name, value in FIXED.items():
        if h.get(name, value) != value:
            raise ValueError(f"'{name}' is always {value} here, not {h[name]}")
    ends = [end - 1 for end in accumulate(h["m_depths"])]
    if h.get("block_indices", ends) != ends:
        raise ValueError(
            f"stages that end at blocks {h['block_indices']} do not own {h['m_depths']} blocks each"
        )
    method = vitune.HST(
        widths=tuple(h["m_embed_dims"]),
        num_heads=tuple(h["m_c_num_heads"]),
        depths=tuple(h["m_depths"]),
        meta_tokens=h["metaG_num"],
        mlp_ratio=h["side_mlp_ratio"],
        qkv_bias=h["side_qkv_bias"],
        head_affine=h["bn1d_affine"],
    )
    rename = substitution(
        (r"head\.(weight|bias)", r"head.vitune.hst.\1"),
        (r"fc_norm\.(\w+)", r"vitune.hst.head_norm.\1"),
        (r"m_embeddings\.(\d+)", r"vitune.hst.meta.\1"),
        (r"m_patch_embed1\.conv\.0\.(\w+)", r"vitune.hst.stem.conv1.\1"),
        (r"m_patch_embed1\.conv\.1\.(\w+)", r"vitune.hst.stem.bn.\1"),
        (r"m_patch_embed1\.conv\.3\.(\w+)", r"vitune.hst.stem.conv2.\1"),
        (r"m_patch_embed1\.norm\.(\w+)", r"vitune.hst.stem.norm.\1"),
    )

    def name(reference: str) -> str | None:
        kind, _, rest = reference.partition(".")
        ordinal = int(kind[-1]) if kind[-1:].isdecimal() else 0
        if kind.startswith("T_Bridge_"):
            return f"vitune.hst.bridge.{ordinal - 1}.{rest}"
        if kind.startswith("m_proj_norm"):  # numbered through all blocks, from 1
            return f"vitune.hst.meta_norms.{int(kind.removeprefix('m_proj_norm')) - 1}.{rest}"
        if kind.startswith("m_patch_embed") and ordinal > 1:
            return f"vitune.hst.transitions.{ordinal - 2}.{rest}"
        if kind.startswith("m_block"):
            return f"vitune.hst.stages.{ordinal - 1}.{rest}"
        if kind.startswith("m_norm"):
            return f"vitune.hst.norms.{ordinal - 1}.{rest}"
        return rename(reference)

    return Case(method, name)


def check(golden: Golden) -> dict[str, Any]:
    """Logits with running statistics; loss and gradients with those of the batch, and with running ones."""
    ours = case(golden)
    tuned = vitune.apply(build(golden.backbone), ours.method)
    width = tuned.anatomy.width
    places = {}
    for name in golden.group("param"):
        new = ours.name(name)
        places[name] = Place(new) if new else place(name, width)
    unfilled = fill(tuned.model, golden.group("param"), places) - {"head.weight", "head.bias"}

    tuned.model.eval()
    seen, logits, loss, gradients = _run(tuned, golden)
    compared = {"logits": logits, "aux/loss_eval": loss}
    compared |= {f"aux/{name}": tensor for name, tensor in seen.items()}
    compared |= {f"aux/grad_eval/{name}": gradients.get(name) for name in _names(golden, "aux/grad_eval/")}

    tuned.model.train()
    seen, logits, loss, gradients = _run(tuned, golden)
    compared |= {"aux/train_logits": logits, "loss": loss}
    compared |= {
        f"aux/train_{name}": tensor for name, tensor in seen.items() if not name.startswith(("vit", "meta"))
    }
    compared |= {f"grad/{name}": gradients.get(name) for name in _names(golden, "grad/")}
    state = tuned.model.state_dict()
    for name in _names(golden, "aux/after_train_buffer/"):
        compared[f"aux/after_train_buffer/{name}"] = state[places[name].name]
    missing = {"logits", "loss"} - golden.tensors.keys()
    missing |= tuned.trainable().keys() - {places[name].name for name in _names(golden, "grad/")}
    used = {"input", "labels", *(f"param/{n}" for n in places)}
    # What the last norm adds, and what it multiplies a single cell with, the BatchNorm behind it takes out again.
    vanishing = ("grad/m_norm4.weight", "grad/m_norm4.bias")
    return verdict(golden, compared, used, unfilled | missing, vanishing=vanishing)


def _names(golden: Golden, prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in golden.tensors if name.startswith(prefix)]


def _run(tuned: Any, golden: Golden) -> tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Tensor]]:
    model, side = tuned.model, tuned.model.vitune.hst
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    def keep_input(name: str) -> Any:
        return lambda module, inputs: seen.__setitem__(name, inputs[0])

    grids: list[tuple[int, int]] = []

    def keep_grid(module: nn.Module, inputs: Any, output: Tensor) -> None:
        grids.append((output.shape[-2], output.shape[-1]))

    hooks = [b.register_forward_hook(keep(f"vit_block{k}")) for k, b in enumerate(model.blocks)]
    hooks += [norm.register_forward_hook(keep(f"meta{k}")) for k, norm in enumerate(side.meta_norms)]
    hooks += [side.head_norm.register_forward_hook(keep("pooled_bn"))]
    hooks += [side.head_norm.register_forward_pre_hook(keep_input("pooled"))]
    hooks += [norm.register_forward_hook(keep(f"tokens{s + 1}")) for s, norm in enumerate(side.norms)]
    convolutions = [side.stem.conv2, *(transition.proj for transition in side.transitions)]
    hooks += [convolution.register_forward_hook(keep_grid) for convolution in convolutions]
    try:
        logits = tuned(golden.tensors["input"])
    finally:
        for hook in hooks:
            hook.remove()
    for s, grid in enumerate(grids):
        seen[f"stage{s + 1}"] = seen.pop(f"tokens{s + 1}").transpose(1, 2).unflatten(2, grid)
    loss = nn.functional.cross_entropy(logits, golden.tensors["labels"])
    model.zero_grad(set_to_none=True)
    loss.backward()
    ours = case(golden)
    width = tuned.anatomy.width
    gradients = {}
    for name in _names(golden, "grad/"):
        where = Place(new) if (new := ours.name(name)) else place(name, width)
        gradients[name] = where.of(tuned.trainable()[where.name].grad)
    return seen, logits, loss, {name: torch.clone(g) for name, g in gradients.items()}


KINDS = {"model": check}
