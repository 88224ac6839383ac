"""VeLoRA on linear layers by name, of any model: those of another library's adapters, or of no known family."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from vitune.anatomy import short_name
from vitune.anatomy.language import language_roles
from vitune.errors import NothingMatchedError, SurgeryError, did_you_mean
from vitune.methods.velora.direction import Direction
from vitune.methods.velora.edits import VeloraEdit, VeloraLinearEdit
from vitune.surgery import attach, detach, parts_of

if TYPE_CHECKING:
    from vitune.methods.velora import VeLoRA


def compress_linears(model: nn.Module, names: Sequence[str], velora: VeLoRA) -> list[str]:
    """Keep projections in place of the inputs of linear layers, in any model.

    For instance LoRA of the peft library: `compress_linears(model, ["*.lora_A.default"], VeLoRA(scale=0.1))`, or the
    published choice for a LLaMA: `compress_linears(model, ["attn.v", "mlp.out"], VeLoRA(num_groups=32))`.

    Args:
        model: Edited in place; `restore_linears` undoes it. Make the optimizer before or after.
        names: Paths of modules, shell wildcards allowed, or roles (`mlp.out`, `blocks.3.attn.v`) of transformers'
            causal language models; A of the peft library's LoRA stands for a layer that has one.
        velora: The settings; its `roles` play no part.

    Returns:
        The paths of the layers.

    Raises:
        NothingMatchedError: If a name matches no module.
        SurgeryError: If a matched module is no plain `nn.Linear`, or compressed already.
    """
    modules = {path: module for path, module in model.named_modules() if path}
    roles = language_roles(model)
    chosen: dict[str, nn.Module] = {}
    for name in names:
        places = [_inside(path, modules) for role, path in roles.items() if name in (role, short_name(role))]
        matched = {path: modules[path] for path in places or fnmatch.filter(modules, name)}
        if not matched:
            last = {path.rpartition(".")[2] for path in modules} | {short_name(role) for role in roles}
            raise NothingMatchedError(
                f"velora: no module '{name}'. {did_you_mean(name.rpartition('.')[2], last)}"
            )
        chosen |= matched
    for path, module in chosen.items():
        base, edits = parts_of(module)
        if base is not nn.Linear or edits:
            raise SurgeryError(
                f"velora: '{path}' is a {type(module).__name__} {'with edits ' if edits else ''}and no plain "
                f"nn.Linear; choose names that match linear layers alone."
            )
    for module in chosen.values():
        assert isinstance(module, nn.Linear)
        layer = Direction(velora.compression(module.in_features))
        layer.to(device=module.weight.device, dtype=module.weight.dtype).train(module.training)
        attach(module, VeloraLinearEdit, layer)
    return list(chosen)


def _inside(path: str, modules: Mapping[str, nn.Module]) -> str:
    """The layer itself, or A of the one adapter that another library wrapped it with."""
    inner = [other for other in modules if other.startswith(f"{path}.lora_A.")]
    return inner[0] if len(inner) == 1 else path


def restore_linears(model: nn.Module) -> None:
    """Undo `compress_linears`; the layers are of their own class again."""
    for module in list(model.modules()):
        for edit in parts_of(module)[1]:
            if issubclass(edit, VeloraEdit):
                detach(module, edit)
