from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitune.errors import RunError
from vitune.training.log import RunLog


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_writes_one_object_a_line_with_a_time_and_null_for_what_is_not_finite(tmp_path: Path) -> None:
    with RunLog(tmp_path / "log.jsonl") as log:
        log.write("step", {"step": 1, "loss": float("inf")})
        assert log.offset == (tmp_path / "log.jsonl").stat().st_size
    (line,) = lines(tmp_path / "log.jsonl")
    assert isinstance(line.pop("time"), float)
    assert line == {"event": "step", "step": 1, "loss": None}


def test_is_cut_back_to_the_offset_of_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path) as log:
        log.write("step", {"step": 1})
        offset = log.offset
        log.write("step", {"step": 2})
    with path.open("ab") as file:
        file.write(b'{"event": "st')  # what a killed process may leave
    with RunLog(path, offset) as log:
        log.write("step", {"step": 3})
    assert [line["step"] for line in lines(path)] == [1, 3]


def test_refuses_a_log_that_is_shorter_than_the_checkpoint_says(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="has 3 bytes but the checkpoint was made when it had 100"):
        RunLog(tmp_path / "log.jsonl", 100)
    assert (tmp_path / "log.jsonl").read_text() == "{}\n"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"The log .*absent.* cannot be written: No such file"):
        RunLog(tmp_path / "absent" / "log.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to write to")
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunLog(tmp_path / "log.jsonl") as log, open("/dev/full", "ab", buffering=0) as full:
        monkeypatch.setattr(log, "_file", full)
        with pytest.raises(RunError, match=r"cannot be written: No space left on device\. Free space there"):
            log.write("step", {"step": 1})
