"""E2VPT: prompts among keys and values, and visual prompts of which training keeps what matters.

Han et al., "E^2VPT: An Effective and Efficient Approach for Visual Prompt Tuning", ICCV 2023 (arXiv:2307.13770);
ChengHan111/E2VPT @ 7a66e75. Every block has n key-value prompts in its attention and p visual prompts as VPT-deep has.
Training has two stages: in the first a mask of tokens and a mask of token segments train as well; then tokens and
segments are scored and the weak ones pruned, everything is rewound, and the second stage trains what is left.

Differences, each with the reference's way as an option: scores are magnitudes (paper; the code's signed ones prune what
helps most), tokens are scored by the loss without them (the gradient of a token's mask vanishes behind a LayerNorm),
rewinding goes back to the very start values (the code draws new ones), and one pair of pruned shares is trained where
the reference trains up to 72. Key-value prompts stand in front of the keys; behind them they would do the same.
"""

from vitune.methods.e2vpt.scores import Importance, importance, lowest, pruning_counts
from vitune.methods.e2vpt.settings import E2VPT

__all__ = ["E2VPT", "Importance", "importance", "lowest", "pruning_counts"]
