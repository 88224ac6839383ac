"""Named points inside a transformer block, where methods put layers; one file per kind of block.

`x -> norm1 -> [attn.input] -> attention -> [attn.output] -> (+ x + [attn.beside](x)) -> [middle]`
`h -> norm2 -> [mlp.input]  -> MLP       -> [mlp.output]  -> (+ h + [mlp.beside](h))  -> [output]`

A layer at a `beside` point reads the residual stream and its result is added to the block's sum (no drop path, no
LayerScale); a layer at any other point replaces the tensor that passes: (B, N, D) to (B, N, D). `*.output` lies before
LayerScale and drop path.

Some blocks have points around their branches too: a layer at `attn.around` or `mlp.around` is called with the residual
stream and the branch, norm and LayerScale included, as a function of it, and gives what stands for the branch's value;
one at `around` does so with the whole block, what one at `beside` gives is added to the output. An attention
branch and a whole block also take `keys`, the tokens (B, n) that may be attended to. Each family supplies the forward
pass of its block with points once.
At `context` (not in every block) a layer gives further tokens that the attention may look at; the block's own norm and
`attn.input` act on them as on the others. The points inside an attention: see `vitune.surgery.points.attention`.
"""

from __future__ import annotations

from torch import nn

from vitune.errors import UnsupportedBackboneError
from vitune.surgery.edits import parts_of
from vitune.surgery.points import (
    as_mlp,
    attention,
    hf_attention,
    hf_beit,
    hf_convnext,
    hf_swin,
    hf_vit,
    positions,
    timm_convnext,
    timm_eva,
    timm_mixer,
    timm_parallel,
    timm_post_norm,
    timm_swin,
    timm_vit,
    windows,
)
from vitune.surgery.points._base import (
    AROUND,
    CONTEXT,
    POINTS,
    ROWS,
    BlockWithPoints,
    Branch,
    Points,
    WithPoints,
)
from vitune.surgery.points.hf_vit import HFViTLayerWithPoints
from vitune.surgery.points.timm_vit import TimmBlockWithPoints

__all__ = [
    "AROUND",
    "POINTS",
    "BlockWithPoints",
    "Branch",
    "HFViTLayerWithPoints",
    "Points",
    "TimmBlockWithPoints",
]
__all__ += ["CONTEXT", "ROWS", "WithPoints", "has_point", "points_for"]

# Class of a block or an attention of timm -> forward pass.
_TIMM: dict[type[nn.Module], type[WithPoints]] = {}
for _file in (timm_vit, timm_swin, timm_convnext, timm_mixer, timm_eva, timm_parallel, timm_post_norm):
    _TIMM |= _file.FORWARDS
for _file in (attention, positions, windows):
    _TIMM |= _file.FORWARDS

# (model's folder in transformers, class name) -> forward pass.
_HF: dict[tuple[str, str], type[WithPoints]] = {}
for _file in (hf_vit, hf_attention, hf_beit, hf_swin, hf_convnext):
    _HF |= _file.FORWARDS


def points_for(block: nn.Module) -> type[WithPoints]:
    """The forward pass with points that fits a block, or an attention.

    Raises:
        UnsupportedBackboneError: If none does.
    """
    base, _ = parts_of(block)
    # The class that wrote the forward: a subclass with one of its own may compute something else.
    origin = next(cls for cls in base.__mro__ if "forward" in vars(cls))
    if origin in _TIMM:
        return _TIMM[origin]
    if (origin.__module__, origin.__name__) in as_mlp.FORWARDS:
        return as_mlp.FORWARDS[origin.__module__, origin.__name__]
    where = origin.__module__.split(".")
    if where[0] == "transformers" and (where[-2], origin.__name__) in _HF:
        found = _HF[where[-2], origin.__name__]
        if missing := [name for name in found.calls if not hasattr(block, name)]:
            raise UnsupportedBackboneError(
                f"the {base.__name__} of this transformers release is laid out differently: it has no "
                f"'{missing[0]}', so no layer can be put inside it; methods that edit layers alone (lora, ssf, "
                f"bitfit ...) work."
            )
        return found
    known = ", ".join([*(cls.__name__ for cls in _TIMM), *(name for _, name in _HF)])
    raise UnsupportedBackboneError(
        f"no forward pass with points is known for the block class {base.__name__}; looked for: {known}."
    )


def has_point(module: nn.Module, point: str) -> bool:
    """Whether a block or an attention has a forward pass with a point."""
    try:
        return point in points_for(module).points
    except UnsupportedBackboneError:
        return False
