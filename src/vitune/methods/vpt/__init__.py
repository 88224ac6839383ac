"""VPT: learned tokens that the blocks of a frozen vision transformer attend to.

Jia et al., "Visual Prompt Tuning", ECCV 2022 (arXiv:2203.12119); KMnP/vpt @ 4410440. `deep`: every block gets tokens of
its own and forgets them after its attention. `shallow`: tokens enter in front of the first block, behind the class
token, and pass through all blocks.

Differences: deep prompts are keys and values only. What the reference computes for them beyond that it throws away, so
class-token and patch read-outs are the same to rounding, and no sequence changes its length. The head starts as the
backbone library makes it (reference: Kaiming-normal weight, bias -log 99, which softmax does not see).
"""

from vitune.methods.vpt.settings import VPT

__all__ = ["VPT"]
