"""timm's convolutional networks: ResNet (ResNeXt, SE-ResNet, Res2Net, ResNeSt, SKNet ...), RegNet, EfficientNet,
MobileNetV3 and V4, HardCoRe-NAS.

Operators are named by what they are and their order: `stem.conv1`, `stem.norm1`, `blocks.I.conv1`, `blocks.I.norm1`,
`blocks.I.shortcut.conv1`, `blocks.I.se.conv1` (squeeze and excitation), `final.conv1`. A block has no points: its
activations lie inside its norms, and no two architectures agree on the rest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.regnet import RegNet
from timm.models.resnet import ResNet
from torch import nn

from vitune.anatomy._build import input_size, kind_of, operator
from vitune.anatomy._roles import Anatomy, Block, Operator
from vitune.errors import UnsupportedBackboneError

FAMILY = "timm-cnn"
TIMM_FILES = ("resnet", "res2net", "resnest", "sknet", "regnet", "efficientnet", "mobilenetv3", "hardcorenas")
LOOKED_FOR = "timm's ResNet, RegNet, EfficientNet or MobileNetV3"


@dataclass(frozen=True)
class _Layout:
    """Where a class keeps its stages, each a sequence of blocks, and its classifier."""

    stages: str  # pattern of the paths of blocks; its group is the stage
    head: str


_LAYOUTS: dict[type[nn.Module], _Layout] = {
    ResNet: _Layout(r"layer(\d+)\.\d+", "fc"),
    RegNet: _Layout(r"s(\d+)\.b\d+", "head.fc"),
    EfficientNet: _Layout(r"blocks\.(\d+)\.\d+", "classifier"),
    MobileNetV3: _Layout(r"blocks\.(\d+)\.\d+", "classifier"),
}
_SHORTCUT = ("downsample", "shortcut")
_EXCITATION = ("se", "SqueezeExcite", "EffectiveSEModule")


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family."""
    return isinstance(model, tuple(_LAYOUTS))


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If no block is found, or the classifier is not linear.
    """
    layout = next(layout for cls, layout in _LAYOUTS.items() if isinstance(model, cls))
    blocks: list[Block] = []
    operators: list[Operator] = []
    counts: dict[str, int] = {}
    here = "stem"
    for path, module in model.named_modules():
        kind = kind_of(module)
        if re.fullmatch(layout.stages, path):
            here = f"blocks.{len(blocks)}"
            stage = re.fullmatch(layout.stages, path)
            assert stage is not None
            blocks.append(Block(len(blocks), path, 0, 0, "", int(stage[1])))
        elif kind in ("conv", "norm", "linear") and path != layout.head:
            inside = bool(blocks) and path.startswith(f"{blocks[-1].path}.")
            place = here if inside or not blocks else "final"
            role = _role(place, path.split("."), str(kind), counts)
            operators.append(operator(model, role, path, layout="NLC" if kind == "linear" else "NCHW"))
    if not blocks:
        raise UnsupportedBackboneError(f"no blocks found in {type(model).__name__}.")
    classifier = model.get_submodule(layout.head)
    if not isinstance(classifier, (nn.Linear, nn.Identity)):
        raise UnsupportedBackboneError(
            f"the classifier at '{layout.head}' is a {type(classifier).__name__}; looked for a linear layer."
        )
    channels, height, width = input_size(model, operators[0].in_features)
    plain: Any = model
    reduction = int(plain.feature_info[-1]["reduction"])
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(_sized(block, operators, blocks[0].stage) for block in blocks),
        head=(layout.head,) if isinstance(classifier, nn.Linear) else (),
        width=int(plain.head_hidden_size),
        num_prefix_tokens=0,
        grid=(height // reduction, width // reduction),
        input_size=(channels, height, width),
        pooling="avg",
    )


def _role(place: str, path: list[str], kind: str, counts: dict[str, int]) -> str:
    """The next number of its kind at its place."""
    if any(word in path for word in _SHORTCUT):
        place = f"{place}.shortcut"
    elif any(word in path for word in _EXCITATION):
        place = f"{place}.se"
    name = f"{place}.{kind}"
    counts[name] = counts.get(name, 0) + 1
    return f"{name}{counts[name]}"


def _sized(block: Block, operators: list[Operator], first_stage: int) -> Block:
    """A block's width is that of the last operator of its branch."""
    start = f"blocks.{block.index}."
    inside = [
        o
        for o in operators
        if o.role.startswith(start) and ".shortcut." not in o.role and ".se." not in o.role
    ]
    return Block(block.index, block.path, inside[-1].out_features, 0, "", block.stage - first_stage)
