import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.small_images import write_classes, write_splits

from vitune.bench.suite_data import check_complete, locate, unpack, val_as_test
from vitune.data import digits as digits_module
from vitune.data import open_source
from vitune.errors import ConfigError, DataError
from vitune.suites import EvaluationSet, Task

TASK = Task(name="birds", folder=("birds", "Birds"), check={"classes": 3}, get="the birds' page")


def test_the_first_folder_that_exists_is_taken(tmp_path: Path):
    write_splits(tmp_path / "Birds", train=1, test=1)
    found = locate(TASK, tmp_path, tmp_path / "kept", prepare=False)
    assert (found.path, found.problems) == (tmp_path / "Birds", ())


def test_what_is_missing_is_said_with_where_to_get_it(tmp_path: Path):
    (tmp_path / "Birds").mkdir()
    write_classes(tmp_path / "Birds/train", 1, ("ant", "bee"))
    empty = locate(TASK, tmp_path / "nowhere", tmp_path / "kept", prepare=True)
    assert empty.problems == (
        f"'{tmp_path / 'nowhere'}' has no 'birds' or 'Birds'; get it: the birds' page.",
    )
    few = locate(TASK, tmp_path, tmp_path / "kept", prepare=True)
    assert few.problems, "two classes of three"
    with pytest.raises(DataError) as caught:
        check_complete([few, empty], "mine")
    assert "the data of 2 of 2 are not complete (birds, birds); the first: " in str(caught.value)
    check_complete([replace(few, problems=())], "mine")


def test_a_further_set_has_no_splits(tmp_path: Path):
    of = EvaluationSet(name="rain", folder=("rain",))
    (tmp_path / "rain").mkdir()
    (problem,) = locate(of, tmp_path, tmp_path, prepare=False).problems
    assert problem == f"'{tmp_path / 'rain'}' holds no class folders."
    write_classes(tmp_path / "rain", 1)
    assert locate(of, tmp_path, tmp_path, prepare=False).problems == ()


def test_an_archive_is_noted_then_unpacked_once(tmp_path: Path):
    folder = write_splits(tmp_path / "made/birds", train=1, test=1)
    with tarfile.open(tmp_path / "birds.tar", "w") as tar:
        tar.add(folder, "birds")
    task, kept = replace(TASK, archive="birds.tar"), tmp_path / "kept"
    noted = locate(task, tmp_path, kept, prepare=False)
    assert noted.note == f"'{tmp_path / 'birds.tar'}' will be unpacked"
    assert not kept.exists()
    assert locate(task, tmp_path, kept, prepare=True).path == kept / "birds"
    assert [path.name for path in kept.iterdir()] == ["birds"]
    assert (kept / "birds/train/ant/0.png").is_file()
    (tmp_path / "birds.tar").unlink()
    assert locate(task, tmp_path, kept, prepare=True).path == kept / "birds", "not unpacked again"


def test_a_broken_archive_leaves_nothing(tmp_path: Path):
    (tmp_path / "birds.tar").write_bytes(b"no tar file")
    with pytest.raises(DataError, match=r"birds\.tar' is no tar file, or a broken one; get it again\."):
        unpack(tmp_path / "birds.tar", tmp_path / "kept/birds")
    assert list((tmp_path / "kept").iterdir()) == []


def test_two_processes_may_make_the_digits_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("sklearn")
    splits = digits_module._splits  # pyright: ignore[reportPrivateUsage]

    def another_is_quicker(*arguments: Any) -> Any:
        monkeypatch.setattr(digits_module, "_splits", splits)
        digits_module.write_digits(tmp_path / "digits")
        return splits(*arguments)

    monkeypatch.setattr(digits_module, "_splits", another_is_quicker)
    digits_module.write_digits(tmp_path / "digits")
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_an_archive_may_hold_the_folder_or_what_is_in_it(tmp_path: Path):
    write_splits(tmp_path / "a/birds/birds", train=1, val=1, test=1)
    (tmp_path / "a/README").write_text("stray")
    for name, root in (("nested", tmp_path / "a"), ("flat", tmp_path / "a/birds")):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            for path in root.iterdir():
                tar.add(path, path.name)
        unpacked = unpack(tmp_path / f"{name}.tar", tmp_path / name / "birds")
        inside = sorted(path.name for path in unpacked.iterdir())
        assert inside == (["birds"] if name == "nested" else ["test", "train", "val"])


def test_digits_are_made_where_they_are_missing(tmp_path: Path):
    pytest.importorskip("sklearn")
    task = Task(name="digits", folder=("digits",), make="digits", check={"classes": 10})
    assert locate(task, tmp_path, tmp_path / "kept", prepare=False).note == "will be made"
    found = locate(task, tmp_path, tmp_path / "kept", prepare=True)
    assert (found.path, found.problems) == (tmp_path / "kept/digits", ())


def test_imagenet_is_tested_on_its_validation_images(tmp_path: Path):
    folder = write_splits(tmp_path / "imagenet", train=5, val=2)
    for _ in range(2):
        place = val_as_test(folder, tmp_path / "kept/imagenet-val-as-test")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["imagenet-val-as-test"]
    source = open_source(place, val_fraction=0.2)
    assert source.describe()["sizes"] == {"train": 12, "val": 3, "test": 6}
    moved = folder.rename(tmp_path / "moved")
    assert (val_as_test(moved, place) / "test/ant/0.png").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot link to '.*moved': .*; choose another --out\."):
        val_as_test(moved, tmp_path / "file/place")


def test_a_suite_that_names_what_does_not_exist(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"there is no layout 'vtab2'\. Did you mean 'vtab'\?"):
        locate(EvaluationSet(name="x", folder=("x",), layout="vtab2"), tmp_path, tmp_path, prepare=False)
    with pytest.raises(ConfigError, match=r"nothing makes 'digit'\. Did you mean 'digits'\?"):
        locate(Task(name="x", folder=("x",), make="digit"), tmp_path, tmp_path, prepare=True)
