import json
from pathlib import Path

import pytest

from vitune.errors import RunError
from vitune.report.log_reading import read_log


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_events(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl",
        {"event": "start"},
        {"event": "step", "step": 1, "loss": 2.0, "lr": 0.1},
        {"event": "epoch", "epoch": 1, "step": 4, "train_loss": 1.5, "val_accuracy": None, "seconds": 2.0},
        {"event": "epoch", "epoch": 2, "step": 8, "train_loss": 1.0, "val_accuracy": 0.5, "seconds": 3.0},
        {"event": "warning", "message": "look here"},
        "",
        {"event": "something new"},
    )
    log, note = read_log(path)
    assert note is None
    assert [(e.epoch, e.train_loss, e.val_accuracy) for e in log.epochs] == [(1, 1.5, None), (2, 1.0, 0.5)]
    assert [(s.step, s.loss, s.lr) for s in log.steps] == [(1, 2.0, 0.1)]
    assert log.warnings == ("look here",)
    assert log.seconds == 5.0


def test_the_final_line_knows_the_seconds(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl",
        {"event": "epoch", "epoch": 1, "seconds": 2.0},
        {"event": "final", "seconds": 9.0},
    )
    assert read_log(path)[0].seconds == 9.0


def test_seconds_are_unknown_when_an_epoch_lacks_them(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl", {"event": "epoch", "epoch": 1, "seconds": 2.0}, {"event": "epoch", "epoch": 2}
    )
    assert read_log(path)[0].seconds is None


def test_a_repeated_epoch_counts_once(tmp_path: Path) -> None:
    lines = [{"event": "epoch", "epoch": 1, "train_loss": loss} for loss in (3.0, 2.0)]
    assert [e.train_loss for e in read_log(write(tmp_path / "log.jsonl", *lines))[0].epochs] == [2.0]


def test_a_cut_last_line_is_noted(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", {"event": "epoch", "epoch": 1}, '{"event": "epo')
    log, note = read_log(path)
    assert len(log.epochs) == 1
    assert note == "The last line of log.jsonl is incomplete and was left out."


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", {"event": "start"}, "nonsense", {"event": "final"})
    with pytest.raises(RunError, match=r"log\.jsonl: line 2 is not a JSON object"):
        read_log(path)


def test_a_wrong_type_names_the_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.jsonl", {"event": "start"}, {"event": "epoch", "epoch": 1, "val_loss": "low"}
    )
    with pytest.raises(
        RunError, match=r"log\.jsonl: line 2: 'val_loss' should be a number or null, found \"low\""
    ):
        read_log(path)


def test_an_unreadable_log(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be read: Is a directory"):
        read_log(tmp_path)
