"""What the head reads: behind the last block the prefix tokens alone, so that the MLP there may leave out the others.

At inference. In training a memory level does it, and only in the complete pass: the gates' own loss is about all
tokens.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from vitune.anatomy import Anatomy
from vitune.methods.dyt.dispatch import Dispatch
from vitune.surgery import Attach, Edit


class LastBlock(nn.Module):
    """Where the last block is.

    Args:
        path: Of the block.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path


class HeadReads(Edit):
    """Tells the gates of the last block, while the whole model runs, that nobody reads the patch tokens behind it.

    Features, pyramids and intermediate outputs are asked for by other functions, and get every token.
    """

    key = "dyt"
    passes_on = True

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As the model."""
        trains = self.training or torch.is_grad_enabled()
        if trains or torch.compiler.is_compiling() or _hands_out_tokens(self, kwargs):
            return super().forward(*args, **kwargs)
        block = self.get_submodule(self.vitune.dyt.path)
        gates = [module for module in block.modules() if isinstance(module, Dispatch)]
        for gate in gates:
            gate.unread = True
        try:
            return super().forward(*args, **kwargs)
        finally:
            for gate in gates:
                gate.unread = False


def _hands_out_tokens(model: Any, settings: dict[str, Any]) -> bool:
    """Whether a model of transformers was asked to give its tokens beside the scores."""
    asked = settings.get("output_hidden_states")
    return bool(
        getattr(getattr(model, "config", None), "output_hidden_states", False) if asked is None else asked
    )


def head_reads(anatomy: Anatomy) -> list[Attach]:
    """The edit of the model, where its head reads single tokens."""
    if anatomy.pooling != "token" or not anatomy.head:
        return []
    path = anatomy.blocks[-1].path
    return [Attach("reading", "", HeadReads, partial(LastBlock, path))]
