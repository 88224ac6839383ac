from __future__ import annotations

from pathlib import Path

import pytest

from vitune.durable import flush_file, flush_folder, replace_file


def test_a_file_is_made_and_replaced(tmp_path: Path):
    for text in ("first", "second"):
        replace_file(tmp_path / "file", lambda path, text=text: path.write_text(text))
        assert (tmp_path / "file").read_text() == text
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_old_file_stays_when_writing_fails(tmp_path: Path):
    (tmp_path / "file").write_text("old")

    def half(path: Path) -> None:
        path.write_text("ne")
        assert (tmp_path / "file").read_text() == "old"
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        replace_file(tmp_path / "file", half)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_what_is_not_there_cannot_be_flushed(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        flush_file(tmp_path / "absent")
    with pytest.raises(FileNotFoundError):
        flush_folder(tmp_path / "absent")
