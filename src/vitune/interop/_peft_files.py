"""The files of PEFT's LoRA adapters, and which of them hold LoRA as we have it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vitune.errors import AdapterError

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
# Settings of PEFT's LoRA that change the mathematics, with the values that we understand.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "init_lora_weights": (
        True,
        False,
        None,
        "gaussian",
        "orthogonal",
        "eva",
    ),  # others change the base weights
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "layer_replication": (None,),
}


def read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the tensors.

    Raises:
        AdapterError: If a file is missing or damaged.
    """
    for name in (CONFIG, TENSORS):
        if not (directory / name).is_file():
            raise AdapterError(f"no PEFT adapter in '{directory}': it has no {name}.")
    try:
        return json.loads((directory / CONFIG).read_text()), load_file(directory / TENSORS)
    except (ValueError, SafetensorError) as error:
        raise AdapterError(f"the PEFT adapter in '{directory}' cannot be read: {error}.") from None


def require_plain(config: Mapping[str, Any], directory: Path) -> None:
    """Complain about settings that are more than LoRA as we have it.

    Raises:
        AdapterError: Names the setting.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"the PEFT adapter in '{directory}' is of type {kind}; only LORA can be imported.")
    for name, allowed in _PLAIN.items():
        if name in config and config[name] not in allowed:
            raise AdapterError(
                f"the PEFT adapter in '{directory}' has {name}={config[name]!r}, which is more than LoRA as we have it."
            )


def sort(
    tensors: Mapping[str, Tensor], directory: Path
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """(A, B) by the path of the layer, and what else was saved by its name in the model.

    Raises:
        AdapterError: If a layer lacks one of the two, or has more.
    """
    plain = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    downs = {n.removesuffix(".lora_A.weight"): t for n, t in plain.items() if n.endswith(".lora_A.weight")}
    ups = {n.removesuffix(".lora_B.weight"): t for n, t in plain.items() if n.endswith(".lora_B.weight")}
    odd = [n for n in plain if ".lora_" in n and not n.endswith((".lora_A.weight", ".lora_B.weight"))]
    if odd or downs.keys() != ups.keys() or not downs:
        what = f"holds '{odd[0]}'" if odd else "does not hold an A and a B for every layer"
        raise AdapterError(f"the PEFT adapter in '{directory}' {what}, so it is not LoRA as we have it.")
    return {n: (downs[n], ups[n]) for n in downs}, {n: t for n, t in plain.items() if ".lora_" not in n}
