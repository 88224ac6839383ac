"""One of two processes of `test_data_parallel`: `python -m tests.contract.data_parallel OUT CASES`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from tests.contract.cases import gradients, labels, randomise, tune
from tests.contract.families import images
from vitune.anatomy import logits


def main(out: Path, cases: list[tuple[str, str]]) -> None:
    distributed.init_process_group("gloo")
    found = {f"{text} {family}": difference(text, family) for text, family in cases}
    if distributed.get_rank() == 0:
        out.write_text(json.dumps(found))
    distributed.destroy_process_group()


def difference(text: str, family: str) -> float:
    """Largest difference of a gradient between two processes with half a batch and one with all of it."""
    tuned = randomise(tune(text, family))
    tuned.model.eval()
    batch, rank = images(family, batch=4), distributed.get_rank()
    wanted = gradients(tuned, batch)
    tuned.model.zero_grad(set_to_none=True)
    parallel = DistributedDataParallel(tuned.model)
    half = slice(2 * rank, 2 * rank + 2)
    scores = logits(parallel, batch[half])
    torch.nn.functional.cross_entropy(scores, labels(4)[half]).backward()
    found = {name: p.grad for name, p in tuned.trainable().items() if p.grad is not None}
    if found.keys() != wanted.keys():
        return float("inf")
    scale = max(gradient.abs().max().item() for gradient in wanted.values())
    return max((found[name] - wanted[name]).abs().max().item() for name in wanted) / scale


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
