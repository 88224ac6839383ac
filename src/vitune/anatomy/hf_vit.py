"""transformers' `ViTModel` and `ViTForImageClassification`: separate query, key and value layers."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._roles import Anatomy, Block
from vitune.errors import UnsupportedBackboneError

FAMILY = "hf-vit"
TIMM_FILES = ()
LOOKED_FOR = "transformers ViTModel or ViTForImageClassification"

# role -> path inside a layer
LAYER = {
    "norm1": "layernorm_before",
    "attn.q": "attention.q_proj",
    "attn.k": "attention.k_proj",
    "attn.v": "attention.v_proj",
    "attn.out": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.in": "mlp.fc1",
    "mlp.out": "mlp.fc2",
}


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; false without importing transformers where nothing else did."""
    module = sys.modules.get("transformers.models.vit.modeling_vit")
    return module is not None and isinstance(model, (module.ViTModel, module.ViTForImageClassification))


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a layer is not where this family has it.
    """
    prefix = "vit." if hasattr(model, "vit") else ""
    config: Any = model.config
    try:
        layers = model.get_submodule(f"{prefix}layers")
        operators = [
            operator(model, "patch_embed", f"{prefix}embeddings.patch_embeddings.projection", layout="NCHW")
        ]
        for i in range(len(layers)):  # type: ignore[arg-type]
            operators += [
                operator(model, f"blocks.{i}.{role}", f"{prefix}layers.{i}.{path}")
                for role, path in LAYER.items()
            ]
        operators.append(operator(model, "norm", f"{prefix}layernorm"))
        if getattr(model, "pooler", None) is not None:
            operators.append(operator(model, "pool.out", "pooler.dense"))
    except AttributeError as error:
        raise UnsupportedBackboneError(
            f"{type(model).__name__} of this transformers release is laid out differently: {error}; "
            f"looked for the layer names of transformers 5.23."
        ) from None
    size = config.image_size if isinstance(config.image_size, (tuple, list)) else (config.image_size,) * 2
    patch = config.patch_size if isinstance(config.patch_size, (tuple, list)) else (config.patch_size,) * 2
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(
            Block(
                i,
                f"{prefix}layers.{i}",
                config.hidden_size,
                config.num_attention_heads,
                attention=f"{prefix}layers.{i}.attention",
            )
            for i in range(len(layers))  # type: ignore[arg-type]
        ),
        head=("classifier",) if isinstance(getattr(model, "classifier", None), nn.Linear) else (),
        width=config.hidden_size,
        num_prefix_tokens=1,
        grid=(size[0] // patch[0], size[1] // patch[1]),
        input_size=(config.num_channels, size[0], size[1]),
        pooling="token",
    )
