"""SPT: sensitivity-aware allocation of a parameter budget (SPT-LoRA, SPT-Adapter).

He, Cai, Zhang, Tao, Zhuang, "Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning", ICCV 2023 (arXiv:2303.08566).
Official code: ziplab/SPT @ e385f67 (ViT only).

A pass over a few hundred training images scores every weight (`sensitivity`), the best ones are selected, and each
matrix gets a module or trains the selected entries alone (`allocate`).

Where we differ: the backbone's drop path is off during the pass unless `noise` is on; the sweep scales with the
backbone; one gradient product stands for the official n x n one, no copy of a frozen weight is kept; an unreachable
budget is an error; fused qkv layers stay fused, with q, k and v as matrices of their own.
"""

from vitune.methods.spt.allocation import Allocation, Rules, Sweep, allocate, sweep, sweep_taus, sweep_unit
from vitune.methods.spt.candidates import Candidate, candidates
from vitune.methods.spt.ranking import Ranking, rank_entries
from vitune.methods.spt.sensitivity import SquaredGradients, sensitivity, squared_gradients
from vitune.methods.spt.settings import SPT

__all__ = ["SPT", "Allocation", "Candidate", "Ranking", "Rules", "SquaredGradients", "Sweep", "allocate"]
__all__ += [
    "candidates",
    "rank_entries",
    "sensitivity",
    "squared_gradients",
    "sweep",
    "sweep_taus",
    "sweep_unit",
]
