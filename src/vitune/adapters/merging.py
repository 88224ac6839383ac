"""Fold edits into the backbone's own weights, and write the result as a plain checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import nn

from vitune.adapters.saving import num_classes
from vitune.anatomy import logits
from vitune.backbones import BackboneSource, describe_source, rebuild
from vitune.durable import replace_file
from vitune.errors import AdapterError, SurgeryError
from vitune.surgery import Attach, AttachAtPoint, detach, layer_of, parts_of
from vitune.tuned import Tuned

TOLERANCE = 1e-5


def merge(tuned: Tuned, *, partial: bool = False) -> nn.Module:
    """Fold every edit into the weights below it, innermost first, in float32.

    One-way: the backbone's own weights are overwritten. The handle is finished afterwards.

    Args:
        tuned: The tuned model.
        partial: Leave edits in place that cannot be folded, rather than refuse.

    Returns:
        The model: a plain one, or with the edits left that could not be folded.

    Raises:
        SurgeryError: If an edit cannot be folded and `partial` is not set; nothing is changed then.
    """
    stuck = unfoldable(tuned)
    if stuck and not partial:
        raise SurgeryError(
            f"{len(stuck)} edits cannot be merged (first: {stuck[0]}): nothing in the plain model can take them up; "
            f"use the tuned model as it is, or merge(partial=True) to fold the rest."
        )
    steps = [step for step in tuned._steps if isinstance(step, Attach)]
    kept: list[Any] = [step for step in tuned._steps if isinstance(step, AttachAtPoint)]
    with torch.no_grad():
        for step in steps:
            module = tuned.model.get_submodule(step.path)
            if all(edit.can_fold(module) for edit in _up_to(module, step)):
                step.edit.fold(module, layer_of(module, step.edit))
                detach(module, step.edit)
            else:
                kept.append(step)
    tuned._steps, tuned.policies = tuple(kept), ()
    tuned.model.requires_grad_(True)
    return tuned.model


def unfoldable(tuned: Tuned) -> list[str]:
    """`role (edit)` of every edit that cannot be folded, with the reason where the edit knows one."""
    stuck = []
    for step in tuned._steps:
        if isinstance(step, AttachAtPoint):
            stuck.append(f"{step.role} ({step.key})")
        elif isinstance(step, Attach):
            module = tuned.model.get_submodule(step.path)
            if not all(edit.can_fold(module) for edit in _up_to(module, step)):
                stuck.append(f"{step.role} ({step.key})")
    return stuck


def _up_to(module: nn.Module, step: Attach) -> list[Any]:
    """The edits of a module that lie below a step's, and its own."""
    _, edits = parts_of(module)
    return list(edits[edits.index(step.edit) :])


def write_merged(tuned: Tuned, path: str | Path) -> BackboneSource:
    """Merge, and write a checkpoint that timm or transformers loads without vitune.

    The checkpoint is loaded into a freshly made plain model and compared before the file appears.

    Args:
        tuned: The tuned model; merged in place.
        path: The `.safetensors` file to write.

    Returns:
        How to make the plain model: library, name and arguments.

    Raises:
        SurgeryError: If an edit cannot be folded.
        AdapterError: If it is unknown how the backbone was made, or the plain model computes something else.
    """
    path = Path(path)
    source = describe_source(tuned.model)
    if source is None:
        raise AdapterError("it is unknown how the backbone was made, so no plain checkpoint can be checked.")
    if not path.parent.is_dir():
        raise AdapterError(f"cannot write '{path}': the directory '{path.parent}' does not exist.")
    model, classes = tuned.model, num_classes(tuned) or 0
    was_without_bias = {o.path for o in tuned.anatomy.operators if _bias(model, o.path) is None}
    model.eval()
    image = torch.randn(2, *tuned.anatomy.input_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = logits(model, image)
    merge(tuned)
    new_biases = {path for path in was_without_bias if _bias(model, path) is not None}
    source = _with_bias_slots(model, source, new_biases)
    plain = rebuild(source, classes, pretrained=False)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    plain.load_state_dict(state, strict=True)
    plain.eval()
    with torch.no_grad():
        worst = (logits(plain, image) - expected).abs().max().item()
    if worst > TOLERANCE * max(1.0, expected.abs().max().item()):
        raise AdapterError(
            f"the merged model differs from the tuned one by {worst:.1e} in its logits; nothing written."
        )
    description = {
        **source.to_dict(),
        "num_classes": classes,
        "class_names": None if tuned.class_names is None else list(tuned.class_names),
        "preprocessing": tuned.preprocessing,
    }
    data = save_tensors(state, metadata={"format": "pt", "vitune": json.dumps(description)})
    try:
        replace_file(path, lambda temporary: temporary.write_bytes(data))
    except OSError as error:
        raise AdapterError(f"cannot write '{path}': {error.strerror or error}.") from error
    return source


def _bias(model: nn.Module, path: str) -> nn.Parameter | None:
    return model.get_submodule(path)._parameters.get("bias")


def _with_bias_slots(model: nn.Module, source: BackboneSource, new_biases: set[str]) -> BackboneSource:
    """Give biases that folding made a place in the plain architecture.

    timm's ViT has a switch for the bias of qkv. Its patch embedding has none with pre-norm (CLIP); there a shift of
    all patch tokens is the same as a shift of the position embedding's patch rows.
    """
    if not new_biases:
        return source
    kwargs = dict(source.kwargs)
    if "patch_embed.proj" in new_biases and getattr(model, "pos_embed", None) is not None:
        conv, first = model.get_submodule("patch_embed.proj"), _first_patch_row(model)
        with torch.no_grad():
            model.pos_embed[:, first:] += conv.bias  # type: ignore[index, operator]
        conv.register_parameter("bias", None)
        new_biases = new_biases - {"patch_embed.proj"}
    if any(path.endswith(".qkv") for path in new_biases):
        kwargs["qkv_bias"] = True
        new_biases = {path for path in new_biases if not path.endswith(".qkv")}
    if new_biases:
        raise SurgeryError(
            f"the plain architecture has no bias at '{sorted(new_biases)[0]}' to take up the shift of the edit there."
        )
    return BackboneSource(source.library, source.name, kwargs, source.weights)


def _first_patch_row(model: Any) -> int:
    return 0 if model.no_embed_class else model.num_prefix_tokens
