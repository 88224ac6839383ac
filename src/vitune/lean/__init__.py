"""How much memory a training step takes: what is kept for the backward pass, and what is computed again.

Levels, each exact (gradients equal those of stock autograd):

- `stock`: what autograd keeps by itself.
- `fast`: outputs of norms, activation functions, scale-and-shift layers, casts and attention are computed again from
  what is kept anyway; costs next to no time.
- `lean`: the first layer of every MLP too (one matrix product more per block).
- `leaner`: queries, keys and values too.
- `leanest`: whole blocks but their last product, an eighth of the batch at a time, or several hundred tokens.
"""

from vitune.lean.levels import LEVELS, Level
from vitune.lean.model import memory_level, set_memory

__all__ = ["LEVELS", "Level", "memory_level", "set_memory"]
