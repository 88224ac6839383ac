"""AS-MLP, which timm does not have: an MLP backbone that mixes positions by shifting groups of channels.

Lian, Yu, Sun, Gao, "AS-MLP: An Axial Shifted MLP Architecture for Vision", ICLR 2022 (arXiv:2107.08391). Names and
shapes of the weights are those of svip-lab/AS-MLP, so that its checkpoints load as weight files; the shift is plain
slicing and needs no kernel of its own. Importing this module registers the models with timm, without weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F


class AxialShift(nn.Module):
    """Mixes positions along both axes: groups of channels move by -p .. p pixels, p = shift_size // 2.

    Args:
        width: Channels.
        shift_size: Number of groups, odd; also the reach of the mixing.
        bias: Whether the 1x1 convolutions have biases.
    """

    def __init__(self, width: int, shift_size: int, bias: bool = True) -> None:
        super().__init__()
        self.shift_size = shift_size
        self.conv1 = nn.Conv2d(width, width, 1, bias=bias)
        self.norm1 = nn.GroupNorm(1, width)
        self.conv2_1 = nn.Conv2d(width, width, 1, bias=bias)
        self.conv2_2 = nn.Conv2d(width, width, 1, bias=bias)
        self.norm2 = nn.GroupNorm(1, width)
        self.conv3 = nn.Conv2d(width, width, 1, bias=bias)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, height, width) to the same shape."""
        x = self.act(self.norm1(self.conv1(x)))
        along_width = self.act(self.conv2_1(shift(x, self.shift_size, 3)))
        along_height = self.act(self.conv2_2(shift(x, self.shift_size, 2)))
        return self.conv3(self.norm2(along_width + along_height))


def shift(x: Tensor, shift_size: int, axis: int) -> Tensor:
    """Move group j of the channels by j - shift_size // 2 along an axis; zeros come in.

    Args:
        x: (B, D, height, width).
        shift_size: Number of groups, each of ceil(D / shift_size) channels, the last one smaller.
        axis: 2 moves along the height, 3 along the width.
    """
    reach, length = shift_size // 2, x.shape[axis]
    padded = F.pad(x, (reach, reach) if axis == 3 else (0, 0, reach, reach))
    groups = padded.chunk(shift_size, 1)
    moved = [group.narrow(axis, 2 * reach - j, length) for j, group in enumerate(groups)]
    return torch.cat(moved, 1)


class AxialShiftBlock(nn.Module):
    """`x + AxialShift(norm x)`, then `x + MLP(norm x)`.

    Args:
        width: Channels.
        shift_size: As in `AxialShift`.
        mlp_ratio: Hidden width of the MLP by its width.
        bias: Whether the convolutions of the axial shift have biases.
        drop: Dropout in the MLP.
        drop_path: Probability of leaving out a branch.
    """

    def __init__(
        self,
        width: int,
        shift_size: int = 5,
        mlp_ratio: float = 4.0,
        bias: bool = True,
        drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(1, width)
        self.axial_shift = AxialShift(width, shift_size, bias)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()
        self.norm2 = nn.GroupNorm(1, width)
        self.mlp = Mlp(width, int(width * mlp_ratio), drop=drop, use_conv=True)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, height, width) to the same shape."""
        x = x + self.drop_path1(self.axial_shift(self.norm1(x)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Halves height and width: 2 x 2 neighbours become channels, normed, then reduced.

    Args:
        width: Channels; twice as many come out.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 4 * width)
        self.reduction = nn.Conv2d(4 * width, 2 * width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, height, width) to (B, 2 D, height / 2, width / 2); odd sides are padded with zeros."""
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        batch, width, rows, columns = x.shape
        # In the order (column offset, row offset, channel), as Swin has it.
        x = x.view(batch, width, rows // 2, 2, columns // 2, 2).permute(0, 5, 3, 1, 2, 4)
        return self.reduction(self.norm(x.reshape(batch, 4 * width, rows // 2, columns // 2)))


class PatchEmbed(nn.Module):
    """Patches to channels, normed.

    Args:
        img_size: Height and width of the images that the model is made for; others work as well.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of an image.
        width: Channels that come out.
    """

    def __init__(self, img_size: tuple[int, int], patch_size: int, in_chans: int, width: int) -> None:
        super().__init__()
        self.img_size = img_size
        self.proj = nn.Conv2d(in_chans, width, patch_size, patch_size)
        self.norm = nn.GroupNorm(1, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, height, width) to (B, D, height / patch, width / patch)."""
        return self.norm(self.proj(x))


class Stage(nn.Module):
    """Blocks of one width, and the downsampling behind them.

    Args:
        blocks: The blocks.
        downsample: What lies between this stage and the next one; None after the last.
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.downsample = downsample
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, height, width) to the next stage's input."""
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        return x if self.downsample is None else self.downsample(x)


class AsMlp(nn.Module):
    """AS-MLP with a linear classifier on the mean of the last map.

    Args:
        img_size: Side of the images in pixels; any other works as well.
        patch_size: Side of a patch.
        in_chans: Channels of an image.
        num_classes: Classes; 0 leaves the classifier out.
        embed_dim: Channels of the first stage; each further stage has twice as many.
        depths: Blocks of each stage.
        shift_size: Groups of channels that move.
        mlp_ratio: Hidden width of the MLPs by their width.
        as_bias: Whether the convolutions of the axial shifts have biases.
        drop_rate: Dropout in the MLPs and in front of the classifier.
        drop_path_rate: Probability of leaving out a branch, growing with depth.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        shift_size: int = 5,
        mlp_ratio: float = 4.0,
        as_bias: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        self.patch_size, self.in_chans, self.num_classes = patch_size, in_chans, num_classes
        self.num_features = self.head_hidden_size = embed_dim * 2 ** (len(depths) - 1)
        self.patch_embed = PatchEmbed(self.img_size, patch_size, in_chans, embed_dim)
        stages = []
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        for i, stage_rates in enumerate(one.tolist() for one in rates):
            width = embed_dim * 2**i
            blocks = [
                AxialShiftBlock(width, shift_size, mlp_ratio, as_bias, drop_rate, rate)
                for rate in stage_rates
            ]
            stages.append(Stage(blocks, PatchMerging(width) if i + 1 < len(depths) else None))
        self.layers = nn.Sequential(*stages)
        self.norm = nn.GroupNorm(1, self.num_features)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether blocks are computed again in the backward pass rather than kept."""
        for stage in self.layers:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def get_classifier(self) -> nn.Module:
        """The classifier."""
        return self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier in place; 0 classes leave it out."""
        like = self.norm.weight
        self.num_classes = num_classes
        self.head = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        self.head.to(device=like.device, dtype=like.dtype)

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, channels, height, width) to the normed last map (B, D, height, width)."""
        return self.norm(self.layers(self.patch_embed(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map to logits (B, C), or to pooled features (B, D)."""
        x = self.head_drop(self.global_pool(x).flatten(1))
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, channels, height, width) to logits (B, C)."""
        return self.forward_head(self.forward_features(x))


_INPUT = {
    "url": "",
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
}
# timm's register_model looks for this name in the module of the function it registers.
default_cfgs = generate_default_cfgs({f"as_mlp_{size}": _INPUT for size in ("tiny", "small", "base")})


def _as_mlp(name: str, pretrained: bool, **arguments: Any) -> AsMlp:
    return build_model_with_cfg(AsMlp, name, pretrained, **arguments)


@register_model
def as_mlp_tiny(pretrained: bool = False, **kwargs: Any) -> AsMlp:
    """AS-MLP-T: width 96, depths 2, 2, 6, 2."""
    return _as_mlp("as_mlp_tiny", pretrained, **{"embed_dim": 96, "depths": (2, 2, 6, 2), **kwargs})


@register_model
def as_mlp_small(pretrained: bool = False, **kwargs: Any) -> AsMlp:
    """AS-MLP-S: width 96, depths 2, 2, 18, 2."""
    return _as_mlp("as_mlp_small", pretrained, **{"embed_dim": 96, "depths": (2, 2, 18, 2), **kwargs})


@register_model
def as_mlp_base(pretrained: bool = False, **kwargs: Any) -> AsMlp:
    """AS-MLP-B: width 128, depths 2, 2, 18, 2."""
    return _as_mlp("as_mlp_base", pretrained, **{"embed_dim": 128, "depths": (2, 2, 18, 2), **kwargs})
