from __future__ import annotations

import json
from pathlib import Path

from vitune.training import Event
from vitune.training.journal import Journal
from vitune.training.log import RunLog


def test_notes_are_logged_and_told_and_the_rest_is_told_only(tmp_path: Path) -> None:
    events: list[Event] = []
    with RunLog(tmp_path / "log.jsonl") as log:
        journal = Journal(log, events.append)
        journal.note("step", {"step": 1})
        journal.tell("progress", {"step": 2})
        assert journal.offset() == (tmp_path / "log.jsonl").stat().st_size
    assert events == [Event("step", {"step": 1}), Event("progress", {"step": 2})]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["event"], line["step"]) for line in lines] == [("step", 1)]


def test_a_silent_one_does_neither() -> None:
    events: list[Event] = []
    journal = Journal(None, events.append, silent=True)
    journal.note("step", {"step": 1})
    journal.tell("progress", {"step": 2})
    assert events == []
    assert journal.offset() == 0
