from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Refused, Run
from tests.cli.small_images import write_splits

SUITE = """
title = "Two colours"
seeds = 1
search = "none"

[train]
epochs = 1
batch_size = 4
augment = "none"
warmup_epochs = 0
device = "cpu"

[[tasks]]
name = "one"
folder = "one"
get = "the shop"

[[tasks]]
name = "two"
folder = "two"
"""
WORDS = ("--methods", "linear,bitfit", "--workers", 0)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        write_splits(tmp_path / "root" / name, train=2, val=1, test=1)
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    return path


def test_bench_prints_its_tables_and_leaves_a_report(run: Run, suite: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    outcome = run("bench", suite, root, *WORDS, "--tasks", "one")
    assert outcome.code == 0, outcome.err
    out = Path("runs/bench-mine")
    files = {"suite.json", "suite.csv", "suite.md", "report.html", "one"}
    assert files <= {path.name for path in out.iterdir()}
    lines = outcome.err.splitlines()
    assert lines[:2] == ["mine: 1 task, 2 methods, protocol mine", "2 trials"]
    assert "1/2  one  linear  seed 0  lr 0.01  test " in outcome.err
    assert "task 1/1: one  linear " in outcome.err
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
    assert "baseline" in rows["linear"]
    assert {"one", "mean"} <= rows.keys()
    assert f"open {out}/report.html" in outcome.out
    assert "vitune bench" in (out / "report.html").read_text()

    again = run("bench", suite, root, *WORDS, "--tasks", "one")
    assert again.out == outcome.out
    assert "lr" not in again.err, "finished trials are read, not run"


def test_check_says_what_is_there_and_what_is_missing(run: Run, suite: Path, tmp_path: Path) -> None:
    there = run("bench", suite, tmp_path / "root", "--check")
    assert there.code == 0
    assert there.err == ""
    assert f"there: {tmp_path / 'root/two'}" in there.out.replace("\n", "")
    (tmp_path / "root/one").rename(tmp_path / "root/else")
    gone = run("bench", suite, tmp_path / "root", "--check")
    assert gone.code == 2
    assert "has no 'one'; get it: the shop." in gone.out
    assert gone.err == (
        "vitune: the data of 1 of 2 are not complete; add what the table names, or choose others with --tasks.\n"
    )
    assert run("bench", suite, tmp_path / "root", "--check", "--tasks", "two").code == 0
    both = run("bench", suite, tmp_path / "root", "--check", "--tasks", "two, one")
    assert (both.code, both.out) == (2, gone.out)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("vtab",), "there is no suite 'vtab'. Did you mean 'vtab1k'? A file of your own ends in .toml."),
        (
            ("fgvc",),
            "the suite 'fgvc' has no methods of its own; name two or more: vitune bench fgvc --methods linear,ssf.",
        ),
        (("pacs", *WORDS), "there is no folder 'data'; give the one that holds the suite's data."),
        (
            ("vtab1k", "--protocol", "noa", *WORDS),
            "the suite 'vtab1k' has no protocol 'noa'. Did you mean 'noah'?",
        ),
        (
            ("pacs", "--tasks", "to-foto", *WORDS),
            "the suite 'pacs' has no task 'to-foto'. Did you mean 'to-photo'?",
        ),
        (("pacs", "--set", "lr=1", *WORDS), "--set lr: a suite sets it for every trial; leave it out."),
        (
            ("pacs", "--set", "shots=1", *WORDS),
            "--set shots: the tasks of a suite set it; write a suite of your own to change it.",
        ),
        (
            ("pacs", "..", *WORDS),
            "the data of 4 of 4 are not complete (to-art_painting, to-cartoon, to-photo, to-sket",
        ),
    ],
)
def test_mistakes(refused: Refused, words: tuple[object, ...], sentence: str) -> None:
    assert refused("bench", *words).startswith(sentence)
