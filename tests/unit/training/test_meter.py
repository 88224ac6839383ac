from __future__ import annotations

import pytest

from vitune.training import meter
from vitune.training.meter import Meter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(meter.time, "perf_counter", lambda: now[0])
    return now


def test_measures_pace_and_waiting(clock: list[float]) -> None:
    found = Meter()
    assert found.seconds_left(10) is None
    with found.waiting():
        clock[0] += 1
    clock[0] += 3
    found.stepped(8)
    assert (found.seconds, found.images_per_second, found.data_wait_share) == (4, 2, 0.25)
    assert found.seconds_left(10) == 40
