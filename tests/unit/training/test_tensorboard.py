from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vitune.errors import ConfigError
from vitune.training import Event
from vitune.training.tensorboard import TensorBoard


def test_writes_curves(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = TensorBoard(tmp_path)
    board(Event("start", {}))
    board(Event("step", {"step": 1, "epoch": 1, "loss": 0.5, "lr": 0.1}))
    board(Event("epoch", {"step": 2, "train_loss": 0.4, "val_loss": None, "val_accuracy": None}))
    board(Event("progress", {"step": 2}))
    board.close()
    found = accumulator.EventAccumulator(str(tmp_path))
    found.Reload()
    assert sorted(found.Tags()["scalars"]) == ["epoch/train_loss", "train/loss", "train/lr"]
    assert [(one.step, one.value) for one in found.Scalars("train/loss")] == [(1, 0.5)]


def test_its_absence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"TensorBoard files needs .* pip install 'vitune\[tensorboard\]'"):
        TensorBoard(tmp_path)
