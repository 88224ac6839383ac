"""AS-MLP of `vitune.backbones`: axial shifts in place of attention, 1x1 convolutions in place of linear layers.

Roles of a block: `norm1`, `shift.in`, `shift.norm1`, `shift.width`, `shift.height`, `shift.norm2`, `shift.out`,
`norm2`, `mlp.in`, `mlp.out`. Blocks are numbered through all stages; `downsample.S.*` lies in front of stage S.
Channels come first everywhere.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from vitune.anatomy._build import operator
from vitune.anatomy._roles import Anatomy, Block

FAMILY = "as-mlp"
TIMM_FILES = ("as_mlp",)
LOOKED_FOR = "vitune.backbones.as_mlp.AsMlp"

# role -> path inside a block
BLOCK = {
    "norm1": "norm1",
    "shift.in": "axial_shift.conv1",
    "shift.norm1": "axial_shift.norm1",
    "shift.width": "axial_shift.conv2_1",
    "shift.height": "axial_shift.conv2_2",
    "shift.norm2": "axial_shift.norm2",
    "shift.out": "axial_shift.conv3",
    "norm2": "norm2",
    "mlp.in": "mlp.fc1",
    "mlp.out": "mlp.fc2",
}


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family; the backbones are a layer above, so nothing is imported for it."""
    module = sys.modules.get("vitune.backbones.as_mlp")
    return module is not None and isinstance(model, module.AsMlp)


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model."""
    plain: Any = model
    operators = [
        operator(model, "patch_embed", "patch_embed.proj", layout="NCHW"),
        operator(model, "patch_embed.norm", "patch_embed.norm", layout="NCHW"),
    ]
    blocks: list[Block] = []
    for stage, layer in enumerate(plain.layers):
        for i, block in enumerate(layer.blocks):
            found = Block(len(blocks), f"layers.{stage}.blocks.{i}", block.norm1.num_channels, 0, "", stage)
            operators += [
                operator(model, f"blocks.{found.index}.{role}", f"{found.path}.{path}", layout="NCHW")
                for role, path in BLOCK.items()
            ]
            blocks.append(found)
        if layer.downsample is not None:
            operators += [
                operator(
                    model,
                    f"downsample.{stage + 1}.{name}",
                    f"layers.{stage}.downsample.{name}",
                    layout="NCHW",
                )
                for name in ("norm", "reduction")
            ]
    operators.append(operator(model, "norm", "norm", layout="NCHW"))
    height, width = plain.img_size
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(blocks),
        head=("head",) if isinstance(plain.head, nn.Linear) else (),
        width=plain.num_features,
        num_prefix_tokens=0,
        grid=(height // plain.patch_size, width // plain.patch_size),
        input_size=(plain.in_chans, height, width),
        pooling="avg",
    )
