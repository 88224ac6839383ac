"""timm's `MlpMixer`: MLP-Mixer and ResMLP.

Roles of a block: `norm1`, `tokens.in` and `tokens.out` (the MLP over positions; `tokens.mix` where it is one layer),
`norm2`, `mlp.in`, `mlp.out` (the MLP over channels). The layers of `tokens.*` give (B, D, positions): what they count
as channels are positions. The affine maps that stand for norms in ResMLP have no role.
"""

from __future__ import annotations

from typing import Any

from timm.layers.mlp import GluMlp, Mlp
from timm.models.mlp_mixer import MixerBlock, MlpMixer, ResBlock
from torch import nn

from vitune.anatomy._build import kind_of, operator
from vitune.anatomy._roles import Anatomy, Block, Operator
from vitune.errors import UnsupportedBackboneError

FAMILY = "timm-mixer"
TIMM_FILES = ("mlp_mixer",)
LOOKED_FOR = "timm.models.mlp_mixer.MlpMixer"


def matches(model: nn.Module) -> bool:
    """Whether the model is of this family."""
    return isinstance(model, MlpMixer)


def describe(model: nn.Module) -> Anatomy:
    """Name the parts of the model.

    Raises:
        UnsupportedBackboneError: If a block or its MLP is of a kind without known roles (gMLP gates positions inside).
    """
    plain: Any = model
    stem = plain.stem
    operators = [operator(model, "patch_embed", "stem.proj", layout="NCHW")]
    operators += _norm(model, "patch_embed.norm", "stem.norm")
    blocks: list[Block] = []
    for i, block in enumerate(plain.blocks):
        here = f"blocks.{i}"
        if not isinstance(block, (MixerBlock, ResBlock)):
            raise UnsupportedBackboneError(
                f"block {i} is a {type(block).__name__}; looked for timm's MixerBlock or ResBlock."
            )
        operators += _norm(model, f"{here}.norm1", f"{here}.norm1")
        if isinstance(block, MixerBlock):
            operators += _mlp(model, f"{here}.tokens", f"{here}.mlp_tokens")
        else:
            operators.append(operator(model, f"{here}.tokens.mix", f"{here}.linear_tokens"))
        operators += _norm(model, f"{here}.norm2", f"{here}.norm2")
        operators += _mlp(model, f"{here}.mlp", f"{here}.mlp_channels")
        blocks.append(Block(i, here, plain.embed_dim, 0))
    operators += _norm(model, "norm", "norm")
    return Anatomy(
        family=FAMILY,
        model=model,
        operators=tuple(operators),
        blocks=tuple(blocks),
        head=("head",) if isinstance(plain.head, nn.Linear) else (),
        width=plain.embed_dim,
        num_prefix_tokens=0,
        grid=(int(stem.grid_size[0]), int(stem.grid_size[1])),
        input_size=(operators[0].in_features, int(stem.img_size[0]), int(stem.img_size[1])),
        pooling=plain.global_pool,
    )


def _norm(model: nn.Module, role: str, path: str) -> list[Operator]:
    """A norm where there is one; ResMLP has affine maps in their place."""
    return [operator(model, role, path)] if kind_of(model.get_submodule(path)) == "norm" else []


def _mlp(model: nn.Module, role: str, path: str) -> list[Operator]:
    mlp = model.get_submodule(path)
    if isinstance(mlp, GluMlp):
        parts = (f"{role}.in", f"{role}.gate")
        parts = parts if mlp.gate_last else parts[::-1]
        return [
            operator(model, f"{role}.in_gate", f"{path}.fc1", parts=parts),
            operator(model, f"{role}.out", f"{path}.fc2"),
        ]
    if not isinstance(mlp, Mlp):
        raise UnsupportedBackboneError(
            f"the MLP at '{path}' is a {type(mlp).__name__}; looked for timm's Mlp or GluMlp."
        )
    return [operator(model, f"{role}.in", f"{path}.fc1"), operator(model, f"{role}.out", f"{path}.fc2")]
