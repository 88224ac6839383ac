"""timm's `SwinTransformer` and `SwinTransformerV2`.

Blocks are numbered through all stages. `downsample.S.norm` and `downsample.S.reduction` lie in front of stage S. All
tensors between the layers are (B, height, width, channels).
"""

from __future__ import annotations

from typing import Any

from timm.layers.mlp import Mlp
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._roles import Anatomy, Block, Operator
from vitune.errors import UnsupportedBackboneError

FAMILY = "timm-swin"
TIMM_FILES = ("swin_transformer", "swin_transformer_v2")
LOOKED_FOR = "timm.models.swin_transformer.SwinTransformer or SwinTransformerV2"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family."""
    return isinstance(model, (SwinTransformer, SwinTransformerV2))


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If the MLP of a block is of a kind without known roles.
    """
    # Swin v2 norms what attention, MLP and downsampling give; Swin v1 what they take.
    post_norm = isinstance(model, SwinTransformerV2)
    embed: Any = model.patch_embed
    operators = [operator(model, "patch_embed", "patch_embed.proj", layout="NCHW")]
    if not isinstance(embed.norm, nn.Identity):
        operators.append(operator(model, "patch_embed.norm", "patch_embed.norm"))
    blocks: list[Block] = []
    for stage, layer in enumerate(model.layers):  # type: ignore[arg-type]
        here = f"layers.{stage}"
        if not isinstance(layer.downsample, nn.Identity):
            order = ("reduction", "norm") if post_norm else ("norm", "reduction")
            operators += [
                operator(model, f"downsample.{stage}.{name}", f"{here}.downsample.{name}") for name in order
            ]
        for i, block in enumerate(layer.blocks):
            found = Block(
                len(blocks),
                f"{here}.blocks.{i}",
                int(block.dim),
                int(block.attn.num_heads),
                f"{here}.blocks.{i}.attn",
                stage,
            )
            operators += _block_operators(model, found, block, post_norm)
            blocks.append(found)
    width = int(model.num_features)  # type: ignore[arg-type]
    operators.append(operator(model, "norm", "norm", width=width))
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(blocks),
        head=("head.fc",) if isinstance(model.get_submodule("head.fc"), nn.Linear) else (),
        width=width,
        num_prefix_tokens=0,
        grid=(int(embed.grid_size[0]), int(embed.grid_size[1])),
        input_size=(operators[0].in_features, int(embed.img_size[0]), int(embed.img_size[1])),
        pooling=str(model.global_pool),
    )


def _block_operators(model: nn.Module, found: Block, block: Any, post_norm: bool) -> list[Operator]:
    here, path = f"blocks.{found.index}", found.path
    if not isinstance(block.mlp, Mlp):
        raise UnsupportedBackboneError(
            f"the MLP of block {found.index} is a {type(block.mlp).__name__}; looked for timm's Mlp."
        )
    norm1, norm2 = (operator(model, f"{here}.{name}", f"{path}.{name}") for name in ("norm1", "norm2"))
    attention = [
        operator(
            model,
            f"{here}.attn.qkv",
            f"{path}.attn.qkv",
            parts=tuple(f"{here}.attn.{name}" for name in "qkv"),
            biases=_split_biases(block.attn, f"{path}.attn"),
        ),
        operator(model, f"{here}.attn.out", f"{path}.attn.proj"),
    ]
    mlp = [
        operator(model, f"{here}.mlp.in", f"{path}.mlp.fc1"),
        operator(model, f"{here}.mlp.out", f"{path}.mlp.fc2"),
    ]
    if post_norm:
        return [*attention, norm1, *mlp, norm2]
    return [norm1, *attention, norm2, *mlp]


def _split_biases(attention: nn.Module, path: str) -> tuple[str, ...]:
    """Swin v2 keeps the biases of query and value apart from the fused layer; keys have none."""
    names = ("q_bias", "v_bias")
    return tuple(f"{path}.{name}" for name in names if attention._parameters.get(name) is not None)
