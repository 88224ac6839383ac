from __future__ import annotations

from pathlib import Path

import pytest

from vitune.errors import RunError
from vitune.tasks import demo


def test_epochs_that_fit() -> None:
    assert demo.fitting_epochs(1 / 1000) == 6
    slower = [demo.fitting_epochs(1 / rate) for rate in (100, 60, 50, 40, 30, 20, 10, 1)]
    assert slower == sorted(slower, reverse=True)
    assert slower[0] == 6
    assert slower[-1] == 1
    assert len(set(slower)) > 2


def test_the_budget_holds_where_more_than_one_epoch_fits() -> None:
    for rate in range(20, 200):
        epochs = demo.fitting_epochs(1 / rate)
        images = 3 * (epochs * demo.TRAIN * 1.2 + 500)
        assert epochs == 1 or images / rate <= demo.BUDGET_SECONDS


def test_speed_is_measured() -> None:
    assert 0 < demo.seconds_per_training_image() < 60


def test_taken_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="is not empty; choose another with --out"):
        demo.run_demo(tmp_path, seed=0, epochs=1, on_event=lambda method, event: None)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_whole_demo(tmp_path: Path) -> None:
    seen: list[str] = []
    result = demo.run_demo(
        tmp_path / "demo", seed=0, epochs=6, on_event=lambda method, _: seen.append(method)
    )
    assert list(dict.fromkeys(seen)) == list(demo.METHODS)
    accuracy = {run.result["method"]: run.result["metrics"]["test"]["accuracy"] for run in result.runs}
    assert min(accuracy.values()) > 0.5
    assert all(run.result["metrics"]["test"]["n"] == 1197 for run in result.runs)
    assert result.report.is_file()
