"""timm's `ConvNeXt`: ConvNeXt and ConvNeXt V2.

Roles of a block: `dwconv`, `norm`, `mlp.in`, `mlp.out`; a block has one residual branch. Blocks are numbered through
all stages; `downsample.S.norm` and `downsample.S.conv` lie in front of stage S. `norm` is the place in front of the
pooling (an identity, but for models that norm first), `head.norm` the norm behind it, which belongs to the classifier.
"""

from __future__ import annotations

from typing import Any

from timm.models.convnext import ConvNeXt
from torch import nn

from vitune.anatomy._build import input_size, operator
from vitune.anatomy._roles import Anatomy, Block, Layout, Operator

FAMILY = "timm-convnext"
TIMM_FILES = ("convnext",)
LOOKED_FOR = "timm.models.convnext.ConvNeXt"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family."""
    return isinstance(model, ConvNeXt)


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model."""
    plain: Any = model
    operators = _stem(model)
    blocks: list[Block] = []
    for stage, layer in enumerate(plain.stages):
        here = f"stages.{stage}"
        if not isinstance(layer.downsample, nn.Identity):
            operators += [
                operator(model, f"downsample.{stage}.{role}", f"{here}.downsample.{i}", layout="NCHW")
                for i, role in enumerate(("norm", "conv"))
            ]
        for i, block in enumerate(layer.blocks):
            found = Block(len(blocks), f"{here}.blocks.{i}", block.conv_dw.out_channels, 0, "", stage)
            # Inside the branch channels come last, but where the MLP is made of 1x1 convolutions.
            layout: Layout = "NCHW" if block.use_conv_mlp else "NLC"
            role, path = f"blocks.{found.index}", found.path
            operators += [
                operator(model, f"{role}.dwconv", f"{path}.conv_dw", layout="NCHW"),
                operator(model, f"{role}.norm", f"{path}.norm", layout=layout),
                operator(model, f"{role}.mlp.in", f"{path}.mlp.fc1", layout=layout),
                *_response_norm(model, f"{role}.mlp.norm", f"{path}.mlp.grn", layout),
                operator(model, f"{role}.mlp.out", f"{path}.mlp.fc2", layout=layout),
            ]
            blocks.append(found)
    width = int(plain.num_features)
    operators.append(operator(model, "norm", "norm_pre", width=width, layout="NCHW"))
    # The norm of the head acts on (B, D, 1, 1), the pooled map.
    if not isinstance(getattr(plain.head, "norm", nn.Identity()), nn.Identity):
        operators.append(operator(model, "head.norm", "head.norm", layout="NCHW"))
    if not isinstance(getattr(plain.head, "pre_logits", nn.Identity()), nn.Identity):
        operators.append(operator(model, "head.hidden", "head.pre_logits.fc"))
    channels, height, image_width = input_size(model, operators[0].in_features)
    patch = plain.feature_info[0]["reduction"]
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(blocks),
        head=("head.fc",) if isinstance(plain.head.fc, nn.Linear) else (),
        width=width,
        num_prefix_tokens=0,
        grid=(height // patch, image_width // patch),
        input_size=(channels, height, image_width),
        pooling=str(plain.head.global_pool.pool_type),
    )


def _response_norm(model: nn.Module, role: str, path: str, layout: Layout) -> list[Operator]:
    """The global response norm in the MLP of ConvNeXt V2."""
    present = path in dict(model.named_modules())
    return [operator(model, role, path, layout=layout)] if present else []


def _stem(model: nn.Module) -> list[Operator]:
    """One patch convolution and its norm, or two overlapping convolutions and a norm."""
    layers = list(model.get_submodule("stem").named_children())
    convs = [name for name, layer in layers if isinstance(layer, nn.Conv2d)]
    norm = layers[-1][0]
    names = ["patch_embed"] if len(convs) == 1 else [f"patch_embed.conv{i + 1}" for i in range(len(convs))]
    found = [
        operator(model, role, f"stem.{name}", layout="NCHW") for role, name in zip(names, convs, strict=True)
    ]
    return [*found, operator(model, "patch_embed.norm", f"stem.{norm}", layout="NCHW")]
