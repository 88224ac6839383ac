"""timm's `Beit`: BEiT and BEiT v2.

The bias of the fused qkv is kept apart (`q_bias`, `v_bias`; keys have none); `vitune.surgery.split_bias` makes edits of
qkv act.
"""

from __future__ import annotations

from typing import Any

from timm.models.beit import Beit
from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._roles import Anatomy, Block
from vitune.anatomy._timm import attention_operators, heads, image_of, mlp_operators, patch_operators, present

FAMILY = "timm-beit"
TIMM_FILES = ("beit",)
LOOKED_FOR = "timm.models.beit.Beit"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family."""
    return isinstance(model, Beit)


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If an MLP is of a kind without known roles, or the image size is not fixed.
    """
    assert isinstance(model, Beit)
    grid, size = image_of(model)
    operators = patch_operators(model)
    blocks = []
    for i, block in enumerate(model.blocks):
        here = f"blocks.{i}"
        part: Any = block
        operators.append(operator(model, f"{here}.norm1", f"{here}.norm1"))
        operators += attention_operators(model, f"{here}.attn", f"{here}.attn", part.attn)
        operators.append(operator(model, f"{here}.norm2", f"{here}.norm2"))
        operators += mlp_operators(model, f"{here}.mlp", f"{here}.mlp", part.mlp)
        blocks.append(Block(i, here, model.embed_dim, part.attn.num_heads, f"{here}.attn"))
    operators.append(operator(model, "norm", "norm", width=model.embed_dim))
    operators += [operator(model, name, name) for name in present(model, "fc_norm")]
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(blocks),
        head=heads(model, "head"),
        width=model.embed_dim,
        num_prefix_tokens=model.num_prefix_tokens,
        grid=grid,
        input_size=size,
        pooling=model.global_pool,
    )
