from __future__ import annotations

from pathlib import Path

import pytest

from vitune.errors import RunError
from vitune.tasks.run_directory import make_directory, new_directory, write_json


def test_a_new_directory_is_named_after_data_and_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = new_directory(Path("data/flowers"), "lora(rank=4),bitfit")
    assert first == Path("runs/flowers-lora-rank=4-bitfit")
    first.mkdir(parents=True)
    assert new_directory(Path("data/flowers"), "lora(rank=4),bitfit") == Path(
        "runs/flowers-lora-rank=4-bitfit-2"
    )


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"The output folder .* cannot be made: Not a directory"):
        make_directory(tmp_path / "file" / "run")


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.json cannot be written: No such file"):
        write_json(tmp_path / "absent" / "config.json", {})
