"""Whether the forward that runs now is a repetition: gradient checkpointing computes blocks again in the backward."""

from __future__ import annotations

import torch


def recomputing() -> bool:
    """Whether autograd's backward is running, so that a forward must repeat what it did and decide nothing anew."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1
