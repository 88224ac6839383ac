"""Fold edits into the backbone's own weights, and write the result as a plain checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import nn

from vitune.adapters.bias_slots import with_bias_slots
from vitune.adapters.saving import num_classes
from vitune.anatomy import example, logits
from vitune.backbones import BackboneSource, describe_source, rebuild
from vitune.durable import replace_file
from vitune.errors import AdapterError, SurgeryError
from vitune.surgery import (
    CHILD,
    Attach,
    AttachAtPoint,
    Step,
    attach,
    detach,
    layer_of,
    parts_of,
    release,
    split_bias,
    undo,
)
from vitune.tuned import Tuned

TOLERANCE = 1e-5


def merge(tuned: Tuned, *, partial: bool = False) -> nn.Module:
    """Fold every edit into the weights below it, innermost first, in float32.

    One-way: the backbone's own weights are overwritten. The handle is finished afterwards.

    Args:
        tuned: The tuned model.
        partial: Leave edits that cannot be folded, rather than refuse; SSF's pair in front of an average pooling
            moves behind it.

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
    tuned.memory = "stock"
    undo(tuned.model, [step for step in tuned._steps if _is_inert(step)])
    steps = [step for step in tuned._steps if isinstance(step, Attach)]
    steps.sort(
        key=lambda step: -step.path.count(f".{CHILD}.")
    )  # an edit on another edit's layer goes with it
    kept: list[Any] = [step for step in tuned._steps if isinstance(step, AttachAtPoint) and not step.inert]
    with torch.no_grad():
        for step in steps:
            module = tuned.model.get_submodule(step.path)
            if all(edit.can_fold(module) for edit in _up_to(module, step)):
                split_bias.gather(tuned.model, step.path)
                step.edit.fold(module, layer_of(module, step.edit))
                detach(module, step.edit)
                split_bias.leave(tuned.model, step.path)
            else:
                kept.append(_moved(tuned, step))
                split_bias.put_back(tuned.model, step.path)
    release(tuned.model, tuned._held)
    tuned._held = tuned._statistics = ()
    tuned._steps, tuned.policies = tuple(kept), ()
    tuned.model.requires_grad_(True)
    return tuned.model


def _moved(tuned: Tuned, step: Attach) -> Attach:
    """Move an edit that cannot be folded to where it costs less, if it knows such a place and that is free."""
    destination = step.edit.destination(tuned.anatomy, step.role)
    if destination is None:
        return step
    path, edit = destination
    source, target = tuned.model.get_submodule(step.path), tuned.model.get_submodule(path)
    alone = parts_of(source)[1] == (step.edit,)
    if not alone or any(other.key == edit.key for other in parts_of(target)[1]):
        return step
    layer = layer_of(source, step.edit)
    detach(source, step.edit)
    attach(target, edit, layer)
    return replace(step, path=path, edit=edit)


def unfoldable(tuned: Tuned) -> list[str]:
    """`role (edit)` of every edit that cannot be folded, with the reason where the edit knows one."""
    stuck = []
    for step in tuned._steps:
        if _is_inert(step):
            continue
        if isinstance(step, AttachAtPoint):
            stuck.append(f"{step.role} ({step.key})")
        elif isinstance(step, Attach):
            module = tuned.model.get_submodule(step.path)
            if not all(edit.can_fold(module) for edit in _up_to(module, step)):
                roles = [role for role, _ in step.parts] or [step.role]  # as `Tuned.costs` names them
                stuck += [f"{role} ({step.key})" for role in roles]
    return stuck


def _is_inert(step: Step) -> bool:
    return isinstance(step, AttachAtPoint) and step.inert


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
    image = example(tuned.anatomy)
    with torch.no_grad():
        expected = logits(model, image)
    merge(tuned)
    new_biases = {path for path in was_without_bias if _bias(model, path) is not None}
    source = with_bias_slots(tuned.anatomy, source, new_biases)
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
