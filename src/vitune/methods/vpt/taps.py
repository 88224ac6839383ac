"""Feature maps between the blocks while prompts go through them: the maps are those of the patches alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitune.methods.vpt.layers import Leave
from vitune.surgery import Edit


class Taps(nn.Module):
    """What the edit must know.

    Args:
        prompts: Number of prompts in the sequence.
        prefix: Tokens in front of them.
        pooled: Whether they stay in the last tokens, for the pooling.
    """

    def __init__(self, prompts: int, prefix: int, pooled: bool = False) -> None:
        super().__init__()
        self.prompts, self.prefix, self.pooled = prompts, prefix, pooled


class CleanTaps(Edit):
    """timm's `forward_intermediates` (and with it `get_intermediate_layers`) without prompts."""

    key = "vpt_taps"

    def forward_intermediates(
        self: Any,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As timm's, of the same arguments."""
        taps: Taps = self.vitune.vpt_taps
        grid = self.patch_embed.dynamic_feat_size(tuple(x.shape[-2:]))
        found = super().forward_intermediates(  # type: ignore[misc]
            x,
            indices,
            return_prefix_tokens=return_prefix_tokens,
            norm=norm,
            stop_early=stop_early,
            output_fmt="NLC",
            intermediates_only=intermediates_only,
            output_dict=output_dict,
            **kwargs,
        )
        patches = grid[0] * grid[1]

        def tap(value: Any) -> Any:
            if isinstance(value, tuple):  # patch tokens and prefix tokens
                return (tap(value[0]), *value[1:])
            value = value[:, -patches:]  # prompts stand behind the prefix and in front of the patches
            if output_fmt == "NLC":
                return value
            return value.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()

        def final(value: Tensor) -> Tensor:
            # With `stop_early` the last block may not have run.
            if taps.pooled or value.shape[1] == taps.prefix + patches:
                return value
            return Leave(taps.prompts, taps.prefix)(value)

        if output_dict:
            found["image_intermediates"] = [tap(value) for value in found["image_intermediates"]]
            if "image_features" in found:
                found["image_features"] = final(found["image_features"])
            return found
        if intermediates_only:
            return [tap(value) for value in found]
        return final(found[0]), [tap(value) for value in found[1]]
