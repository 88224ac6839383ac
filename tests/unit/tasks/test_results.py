from __future__ import annotations

import numpy as np
import pytest

from vitune.measure import wilson
from vitune.tasks import results
from vitune.tasks.results import machine_text, metrics
from vitune.training.evaluate import Evaluation


def test_metrics_have_an_interval() -> None:
    label = np.array([0, 1, 1, 0])
    losses = np.array([0.5, 1.5, 1.0, 1.0], np.float32)
    found = metrics(Evaluation(np.arange(4), label, np.array([0, 1, 1, 1]), losses, losses))
    low, high = wilson(3, 4)
    assert found == {"accuracy": 0.75, "low": low, "high": high, "n": 4, "loss": 1.0, "interval": "wilson95"}
    assert metrics(None) is None


@pytest.mark.parametrize(
    ("gpus", "memory", "text"),
    [
        (["H200"], 2**35, "8 x Xeon, 4 threads, 32 GiB, H200"),
        ([], None, "8 x Xeon, 4 threads, no GPU"),
    ],
)
def test_the_machine_is_one_line(
    gpus: list[str], memory: int | None, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"cpu": "Xeon", "cores": 8, "threads": 4, "memory_bytes": memory, "gpus": gpus}
    monkeypatch.setattr(results, "machine", lambda: found)
    assert machine_text() == text
