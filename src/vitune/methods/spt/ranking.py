"""The most sensitive entries of all candidates together, best first.

One list as long as the largest number that is ever selected serves every budget, rank, alpha and beta.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ranking:
    """Entries by falling sensitivity; of equal ones the first in the order of the forward pass leads.

    Attributes:
        names: The candidates.
        sizes: Entries of each candidate.
        tensor: Which candidate each ranked entry belongs to, (n,) int16.
        index: Its place in the flattened candidate, (n,) int32.
        score: Its sensitivity, (n,) float32.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    tensor: Tensor
    index: Tensor
    score: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def counts(self, selected: Tensor) -> Tensor:
        """How many entries of each candidate are among the first ones.

        Args:
            selected: Numbers of first entries, rising, (S,).

        Returns:
            (S, candidates) int64.
        """
        # One pass: each entry counts for its candidate from the first selection on that holds it.
        joins = torch.bucketize(torch.arange(len(self)), selected, right=True)
        inside = joins < len(selected)
        cells = joins[inside] * len(self.names) + self.tensor[inside].long()
        counted = torch.bincount(cells, minlength=len(selected) * len(self.names))
        return counted.view(len(selected), len(self.names)).cumsum(0)

    def positions(self, name: str, selected: int) -> Tensor:
        """Flat places of a candidate's entries among the first ones, rising, (n,) int32."""
        mine = self.tensor[:selected] == self.names.index(name)
        return self.index[:selected][mine].sort().values


def rank_entries(scores: Mapping[str, Tensor], most: int) -> Ranking:
    """Rank the entries of all candidates together, with no norm per layer.

    Candidates are taken one after another and only the best so far are kept, so that no copy of all scores is made.

    Args:
        scores: Sensitivity by candidate, in order.
        most: Length of the list; shorter if there are fewer entries.
    """
    names = tuple(scores)
    score, tensor = torch.empty(0), torch.empty(0, dtype=torch.int16)
    index = torch.empty(0, dtype=torch.int32)
    for number, values in enumerate(scores.values()):
        flat = values.detach().flatten().float().cpu()
        place = torch.arange(flat.numel(), dtype=torch.int32)
        if len(score) >= most:  # what is not above the last one kept cannot enter
            above = flat > score[-1]
            flat, place = flat[above], place[above]
        score = torch.cat([score, flat])
        tensor = torch.cat([tensor, torch.full_like(place, number, dtype=torch.int16)])
        index = torch.cat([index, place])
        order = score.argsort(descending=True, stable=True)[:most]
        score, tensor, index = score[order], tensor[order], index[order]
    return Ranking(names, tuple(values.numel() for values in scores.values()), tensor, index, score)
