from __future__ import annotations

import pytest
import torch

from vitune.errors import TrainingError
from vitune.training.watch import LossWatch


def test_names_the_step_the_learning_rate_and_the_files() -> None:
    watch = LossWatch(lambda index: f"cat/{index}.jpg")
    watch.add(0, 1e-3, [1, 2], torch.tensor(0.7))
    message = (
        r"The loss is nan at step 8 with lr 0.002; the batch was: cat/4.jpg, cat/5.jpg. Use a smaller lr"
    )
    with pytest.raises(TrainingError, match=message):
        watch.add(7, 2e-3, [4, 5], torch.tensor(float("nan")))


def test_a_long_batch_is_cut_short() -> None:
    watch = LossWatch(str)
    with pytest.raises(TrainingError, match=r"the batch was: 0, 1, 2, 3, 4, 5, 6, 7 and 12 more\."):
        watch.add(0, 1e-3, list(range(20)), torch.tensor(float("inf")))


def test_a_gpu_is_asked_only_when_checked() -> None:
    watch = LossWatch(str)
    # A meta tensor stands for one on a GPU: reading it would fail.
    watch.add(0, 1e-3, [0], torch.zeros((), device="meta"))
    with pytest.raises(RuntimeError):
        watch.check()
    watch.check()  # nothing is looked at twice
