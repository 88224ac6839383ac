"""Dense features of a plain ViT: relative positions in every block, four maps of four sizes.

DyT, section 4.4 (arXiv:2403.11808); Dynamic-Tuning @ d1744f0, `segmentation/backbone`; the relative positions and the
pyramid are those of BEiT's segmentation code. The patch tokens after four blocks, without the final norm, become maps
of 4, 2, 1 and 1/2 times the grid. Trained besides the method: the tables of relative positions (zero at the start) and
the deconvolutions. The loss that belongs to the features is `w (mean(M) - r)^2`, without a complete pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.errors import UnsupportedBackboneError

if TYPE_CHECKING:
    from vitune.tuned import Tuned


class RelativePositionBias(nn.Module):
    """A bias of attention scores by the offset between two patches, and three values for the class token.

    The table has `(2 h - 1)(2 w - 1) + 3` rows: offsets, class token to patch, patch to class token, class to class.
    """

    index: Tensor

    def __init__(self, grid: tuple[int, int], num_heads: int) -> None:
        super().__init__()
        height, width = grid
        offsets = (2 * height - 1) * (2 * width - 1)
        self.table = nn.Parameter(torch.zeros(offsets + 3, num_heads))
        places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
        apart = places[:, None] - places[None]  # (N, N, 2)
        index = torch.empty((height * width + 1,) * 2, dtype=torch.int64)
        index[1:, 1:] = (apart[..., 0] + height - 1) * (2 * width - 1) + apart[..., 1] + width - 1
        index[0, :], index[:, 0], index[0, 0] = offsets, offsets + 1, offsets + 2
        self.register_buffer("index", index, persistent=False)

    def forward(self) -> Tensor:
        """The bias (1, H, 1 + N, 1 + N)."""
        return self.table[self.index].permute(2, 0, 1).unsqueeze(0)


class FeaturePyramid(nn.Module):
    """Maps (B, D, h, w) of four blocks to 4, 2, 1 and 1/2 times their size."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def doubled() -> nn.Module:
            return nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)

        self.times4 = nn.Sequential(doubled(), nn.GELU(), doubled())
        self.times2 = nn.Sequential(doubled())
        self.halved = nn.MaxPool2d(kernel_size=2, stride=2)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Four maps, finest first."""
        first, second, third, fourth = maps
        return [self.times4(first), self.times2(second), third, self.halved(fourth)]


class DenseFeatures(nn.Module):
    """A tuned ViT with a class token as the backbone of a dense task.

    Args:
        tuned: The model, made for the image size at hand.
        blocks: Numbers of the four blocks whose output is taken, from 0.

    Raises:
        UnsupportedBackboneError: If the model is no plain timm ViT with one class token.
    """

    def __init__(self, tuned: Tuned, blocks: Sequence[int] = (3, 5, 7, 11)) -> None:
        super().__init__()
        found = tuned.anatomy
        if found.family != "timm-vit" or found.num_prefix_tokens != 1:
            raise UnsupportedBackboneError(
                f"dense features need a timm ViT with a class token and no other prefix token, not a {found.family} "
                f"with {found.num_prefix_tokens}."
            )
        if len(blocks) != 4 or max(blocks) >= len(found.blocks):
            raise UnsupportedBackboneError(
                f"dense features need four blocks of the {len(found.blocks)}, not {list(blocks)}."
            )
        self.backbone: Any = tuned.model
        self.grid, self.taps = found.grid, tuple(blocks)
        self.biases = nn.ModuleList(RelativePositionBias(found.grid, b.num_heads) for b in found.blocks)
        self.pyramid = FeaturePyramid(found.width)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, height, width) to four maps (B, D, ., .), finest first."""
        model = self.backbone
        x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
        outputs = []
        for block, bias in zip(model.blocks, self.biases, strict=True):
            x = block(x, attn_mask=bias())
            outputs.append(x)
        maps = [outputs[tap][:, 1:].mT.unflatten(-1, self.grid) for tap in self.taps]
        return self.pyramid(maps)


def resized_positions(positions: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Position embeddings (1, 1 + N, D) for another grid: bicubic, the class token's kept."""
    patches = positions[:, 1:].mT.unflatten(-1, grid)
    resized = F.interpolate(patches, size=new_grid, mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], resized.flatten(2).mT], dim=1)
