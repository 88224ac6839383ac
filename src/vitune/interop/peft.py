"""LoRA adapters of Hugging Face PEFT, in both directions, on linear layers and convolutions.

`export_peft` writes what `peft.PeftModel.from_pretrained` loads on the plain backbone; `import_peft` puts what PEFT
saved on a backbone as our LoRA. Neither needs the package peft. Written against peft 0.21.

Updates of several rows of a fused layer (q and v of qkv) become one update of the whole layer: the A below each other,
the B in a block diagonal with empty rows between, so that its rank is the sum of theirs. The other way round, an update
of a whole fused qkv is ours with one A shared by q, k and v. The factor s is kept: `lora_alpha` is s times the rank.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from vitune.anatomy import Anatomy, Operator, anatomy, short_name
from vitune.backbones import describe_source
from vitune.durable import replace_file
from vitune.errors import AdapterError, CompositionError
from vitune.interop import _peft_convolutions, _peft_files
from vitune.interop._peft_files import CONFIG, PREFIX, TENSORS
from vitune.methods import LoRA
from vitune.surgery import Attach, layer_of, split_bias
from vitune.tuned import Tuned, apply


def export_peft(tuned: Tuned, path: str | Path) -> Path:
    """Write a LoRA adapter, head included, in PEFT's format.

    Args:
        tuned: A backbone tuned by `LoRA` alone.
        path: A directory; made if it is not there.

    Returns:
        The directory.

    Raises:
        CompositionError: If anything but LoRA was applied.
        AdapterError: If PEFT would not compute the same on this backbone, or the disk refuses.
    """
    if [type(method) for method in tuned.methods] != [LoRA]:
        names = ", ".join(method.name for method in tuned.methods) or "nothing"
        raise CompositionError(f"PEFT's format takes a model tuned by lora alone; here it is {names}.")
    method = list(tuned.methods)[0]  # noqa: RUF015
    assert isinstance(method, LoRA)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for step in tuned._steps:
        assert isinstance(step, Attach)
        _require_called(tuned.model, step.path, step.role)
        module = tuned.model.get_submodule(step.path)
        layer: Any = layer_of(module, step.edit)
        down, up = layer.down(), layer.up()
        ranks[step.path] = down.shape[0]
        if isinstance(module, nn.Conv2d):
            _peft_convolutions.require_plain(module, step.path)
            down, up = _peft_convolutions.as_kernels(module, down, up)
        tensors[f"{PREFIX}{step.path}.lora_A.weight"] = down
        tensors[f"{PREFIX}{step.path}.lora_B.weight"] = up
    for head in tuned.anatomy.head:
        for name, parameter in tuned.model.get_submodule(head).named_parameters():
            tensors[f"{PREFIX}{head}.{name}"] = parameter
    usual = max(ranks.values(), key=list(ranks.values()).count)
    others = {name: rank for name, rank in ranks.items() if rank != usual}
    config = {
        "peft_type": "LORA",
        "inference_mode": True,
        "auto_mapping": {
            "base_model_class": type(tuned.model).__name__,
            "parent_library": type(tuned.model).__module__,
        },
        "base_model_name_or_path": _name_of(tuned.model),
        "r": usual,
        "lora_alpha": method.factor * usual,
        "rank_pattern": others,
        "alpha_pattern": {name: method.factor * rank for name, rank in others.items()},
        # PEFT drops out the input of A; our dropout of the latent has no place there and acts in training alone.
        "lora_dropout": method.dropout if method.dropout_at == "input" else 0.0,
        "target_modules": list(ranks),
        "modules_to_save": list(tuned.anatomy.head) or None,
        "bias": "none",
    }
    directory = Path(path)
    data = save_tensors({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, {"format": "pt"})
    text = json.dumps(config, indent=2) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        replace_file(directory / TENSORS, lambda temporary: temporary.write_bytes(data))
        replace_file(directory / CONFIG, lambda temporary: temporary.write_text(text))
    except OSError as error:
        raise AdapterError(
            f"cannot write the adapter to '{directory}': {error.strerror or error}."
        ) from error
    return directory


def import_peft(model: nn.Module, path: str | Path) -> Tuned:
    """Put a LoRA adapter that PEFT saved on a backbone.

    Ranks and factors that differ between layers become one: smaller updates are filled up with zeros, and where factors
    differ they go into B.

    Args:
        model: The plain backbone that the adapter was trained on, with a head of the right size.
        path: The directory that `PeftModel.save_pretrained` wrote.

    Returns:
        The tuned model, in `eval()` mode.

    Raises:
        AdapterError: If files are missing or damaged, or the adapter does more than LoRA on layers that we know.
    """
    directory = Path(path)
    config, tensors = _peft_files.read(directory)
    _peft_files.require_plain(config, directory)
    found = anatomy(model)
    updates, rest = _peft_files.sort(tensors, directory)
    operators = _operators(found, updates, directory)
    factors = {name: _factor(config, name, down.shape[0]) for name, (down, _) in updates.items()}
    rank = max(down.shape[0] for down, _ in updates.values())
    scale = next(iter(factors.values())) if len(set(factors.values())) == 1 else 1.0
    fused = all(len(operator.parts) == 3 and operator.role.endswith(".attn.qkv") for operator in operators)
    method = LoRA(
        rank=rank,
        scale=scale,
        roles=_roles(found, operators, fused),
        dropout=float(config.get("lora_dropout") or 0.0),
        dropout_at="input",
        share_down=fused,
    )
    tuned = apply(model, method)
    try:
        _fill(tuned, updates, factors, scale)
        _fill_head(tuned, rest, directory)
    except BaseException:
        tuned.detach()
        raise
    tuned.model.eval()
    return tuned


def _require_called(model: nn.Module, path: str, role: str) -> None:
    if split_bias.called_only_when_edited(model, path):
        raise AdapterError(
            f"PEFT's LoRA has no effect on '{path}' ({role}): {type(model).__name__} reads its weight without calling "
            f"the layer; merge the adapter instead."
        )


def _name_of(model: nn.Module) -> str | None:
    source = describe_source(model)
    if source is None or not source.name:
        return None
    return f"timm/{source.name}" if source.library == "timm" else source.name


def _operators(
    found: Anatomy, updates: Mapping[str, tuple[Tensor, Tensor]], directory: Path
) -> list[Operator]:
    by_path = {operator.path: operator for operator in found.operators}
    chosen = []
    for path, (down, up) in updates.items():
        operator = by_path.get(path)
        if operator is None or operator.kind not in ("linear", "conv"):
            raise AdapterError(
                f"the PEFT adapter in '{directory}' adapts '{path}', which is no linear layer or convolution of this "
                f"{found.family} backbone that can be edited."
            )
        _require_called(found.model, path, operator.role)
        if (up.shape[0], down.shape[1]) != (operator.out_features, operator.in_features):
            raise AdapterError(
                f"the PEFT adapter in '{directory}' is for a layer '{path}' of {down.shape[1]} inputs and "
                f"{up.shape[0]} outputs; here it has {operator.in_features} and {operator.out_features}."
            )
        if operator.kind == "conv":
            module: Any = found.model.get_submodule(path)
            _peft_convolutions.require_plain(module, path)
            if down.shape[1:] != module.weight.shape[1:]:
                raise AdapterError(
                    f"the PEFT adapter in '{directory}' is for a convolution '{path}' with kernels of "
                    f"{tuple(down.shape[2:])}; here they are of {tuple(module.kernel_size)}."
                )
        chosen.append(operator)
    return chosen


def _roles(found: Anatomy, operators: list[Operator], fused: bool) -> tuple[str, ...]:
    """Short names where all layers of a name are adapted, whole roles where only some are."""
    roles: list[str] = []
    for operator in operators:
        name = short_name(operator.role)
        alike = {o.role for o in found.operators if short_name(o.role) == name}
        complete = alike <= {o.role for o in operators}
        base = name if complete else operator.role
        names = [base.removesuffix("qkv") + part for part in "qkv"] if fused else [base]
        roles += [role for role in names if role not in roles]
    return tuple(roles)


def _factor(config: Mapping[str, Any], path: str, rank: int) -> float:
    alphas: Mapping[str, float] = config.get("alpha_pattern") or {}
    matching = [
        value for key, value in alphas.items() if re.fullmatch(rf"(.*\.)?({key})", path)
    ]  # as PEFT does
    alpha = matching[0] if matching else config["lora_alpha"]
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _fill(
    tuned: Tuned,
    updates: Mapping[str, tuple[Tensor, Tensor]],
    factors: Mapping[str, float],
    scale: float,
) -> None:
    """Copy A and B into our layers."""
    for step in tuned._steps:
        assert isinstance(step, Attach)
        layer: Any = layer_of(tuned.model.get_submodule(step.path), step.edit)
        down, up = _peft_convolutions.as_matrices(*updates[step.path])
        ratio = factors[step.path] / scale
        with torch.no_grad():
            for i, (name, rows) in enumerate(zip(layer.names, layer.rows, strict=True)):
                pair = getattr(layer, name)
                if i == 0:
                    pair.down.zero_()[: down.shape[0]].copy_(down)
                pair.up.zero_()[:, : up.shape[1]].copy_((up if rows is None else up[rows]) * ratio)


def _fill_head(tuned: Tuned, rest: Mapping[str, Tensor], directory: Path) -> None:
    own = dict(tuned.model.named_parameters())
    heads = tuple(f"{head}." for head in tuned.anatomy.head)
    for name, tensor in rest.items():
        if not name.startswith(heads) or name not in own:
            raise AdapterError(
                f"the PEFT adapter in '{directory}' holds '{name}', which is neither LoRA nor the head of this model."
            )
        if own[name].shape != tensor.shape:
            raise AdapterError(
                f"the PEFT adapter in '{directory}' holds '{name}' of shape {tuple(tensor.shape)}; the model's has "
                f"{tuple(own[name].shape)}, so make it with as many classes."
            )
    with torch.no_grad():
        for name, tensor in rest.items():
            own[name].copy_(tensor)
