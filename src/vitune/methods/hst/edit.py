"""The forward passes of a backbone that carries the side network, and of its head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitune.methods.hst.network import SideNetwork
from vitune.surgery import Edit, as_output, classify, embed

KEY = "hst"


class HierarchicalSide(Edit):
    """Runs a plain ViT block by block beside the side network. Its own final norm and pooling are never used."""

    key = KEY

    def forward_pyramid(self: Any, images: Tensor) -> list[Tensor]:
        """Feature maps at strides 4, 8, 16 and 32, for a dense head.

        Args:
            images: (B, 3, height, width).

        Returns:
            One map (B, c_s, H_s, W_s) per stage.
        """
        side: SideNetwork = self.vitune.hst
        tokens, patch_grid, blocks = embed(self, images)
        count = side.meta[0].shape[1]
        front = count + tokens.shape[1] - patch_grid[0] * patch_grid[1]
        remaining = iter(blocks)
        maps: list[Tensor] = []
        entering, k = side.enter(0, tokens), 0
        for s, side_blocks in enumerate(side.stages):
            y, grid = side.first(images) if s == 0 else side.next(s, maps[-1])
            for j in range(len(side_blocks)):  # type: ignore[arg-type]
                leaving = _run(self, next(remaining), entering)
                # The next block keeps its input for the backward pass anyway: read the patches there, and keep no
                # second copy of them.
                last = k + 1 == len(side.meta)
                entering = leaving if last else side.enter(k + 1, leaving[:, count:])
                y = side.side_step((s, j, k), y, grid, leaving[:, :count], (entering, front, patch_grid))
                k += 1
            maps.append(side.leave(s, y, grid))
        return maps

    def forward(
        self: Any,
        x: Tensor | None = None,
        *args: Any,
        pixel_values: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Class scores (B, C) of images (B, 3, height, width), as the model's library gives them."""
        images = pixel_values if x is None else x  # transformers' word for them, or timm's
        assert images is not None
        features = self.vitune.hst.pooled(self.forward_pyramid(images)[-1])
        return as_output(self, classify(self, features), labels)

    def forward_features(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The last map (B, c_4, H, W)."""
        return self.forward_pyramid(x)[-1]

    def forward_head(self: Any, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Scores (B, C), or what the classifier reads (B, c_4), of the last map."""
        features = self.vitune.hst.pooled(x)
        return features if pre_logits else classify(self, features)


def _run(model: Any, block: nn.Module, tokens: Tensor) -> Tensor:
    if getattr(model, "grad_checkpointing", False) and torch.is_grad_enabled():
        return checkpoint(block, tokens, use_reentrant=False)  # type: ignore[return-value]
    return block(tokens)


class SideHead(Edit):
    """The classifier of the side network in place of the backbone's, which has another width."""

    key = KEY

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_4) to (B, C)."""
        return self.vitune.hst(x)
