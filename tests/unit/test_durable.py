from __future__ import annotations

from pathlib import Path

import pytest

from vitune.durable import flush_file, flush_folder, new_folder, replace_file


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


def test_a_folder_appears_when_it_is_full(tmp_path: Path):
    with new_folder(tmp_path / "above/new") as partial:
        (partial / "file").write_text("ours")
        assert not (tmp_path / "above/new").exists()
    assert [path.name for path in (tmp_path / "above").iterdir()] == ["new"]
    assert (tmp_path / "above/new").stat().st_mode & 0o777 == 0o755


def test_of_two_that_make_a_folder_the_quicker_one_serves_both(tmp_path: Path):
    with new_folder(tmp_path / "new") as slow:
        (slow / "file").write_text("slow")
        with new_folder(tmp_path / "new") as quick:
            (quick / "file").write_text("quick")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert (tmp_path / "new/file").read_text() == "quick"


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path):
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "new") as partial:
        ((partial / "file").write_text("half"), (partial / "nowhere/file").write_text("other half"))
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OSError, match="taken"), new_folder(tmp_path / "taken"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
