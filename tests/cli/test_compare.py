from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import QUICK, Refused, Run

WORDS = ("--methods", "linear,bitfit", "--seeds", 1, "--search", "none", *QUICK)
TRAINING = ("--set", "augment=none", "--set", "warmup_epochs=0")


def test_compare_prints_a_table_and_leaves_a_report(run: Run, images: Path) -> None:
    outcome = run("compare", images, *WORDS, *TRAINING)
    assert outcome.code == 0, outcome.err
    out = Path("runs/compare-small")
    assert {path.name for path in out.iterdir()} == {
        *("comparison.json", "comparison.csv", "comparison.md", "results.parquet"),
        *("report.html", "trials"),
    }
    assert outcome.err.splitlines()[0] == "2 trials"
    assert "1/2  linear  seed 0  lr 0.01  test " in outcome.err
    assert "ETA " in outcome.err
    rows = {line.split()[0]: line for line in outcome.out.splitlines() if line.strip()}
    assert "baseline" in rows["linear"]
    assert f"open {out}/report.html" in outcome.out
    assert "comparison.csv, results.parquet and comparison.md are beside it" in outcome.out
    assert "vitune compare" in (out / "report.html").read_text()

    again = run("compare", images, *WORDS, *TRAINING)
    assert again.code == 0
    assert again.err.splitlines() == ["2 trials"], "finished trials are read, not run"
    assert again.out == outcome.out


def test_a_failed_method_is_shown_beside_the_others(run: Run, images: Path) -> None:
    words = ("--methods", "linear,hst(unknown=1)")
    assert run("compare", images, *words).code == 2
    words = ("--methods", "linear,vpt(prompts=100000000000)")
    outcome = run("compare", images, *words, "--search", "none", "--seeds", 1, *QUICK, *TRAINING)
    assert outcome.code == 0, outcome.err
    assert "failed: vpt(prompts=100000000000)  seed 0" in outcome.err
    assert "1 trial failed; the report tells why, --retry-failed runs them again." in outcome.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "no methods given; name two or more: vitune compare DATA --methods linear,ssf."),
        (
            ("--methods", "ssf"),
            "a comparison needs two methods or more, got 1; list them, as in --methods linear,ssf.",
        ),
        (
            ("--methods", "ssf,,linear"),
            "cannot read the methods 'ssf,,linear': there is nothing beside a comma; write for instance 'linear,ssf'.",
        ),
        (
            ("--methods", "ssf,linear", "--baseline", "lora"),
            "the baseline 'lora' is not among the methods. Known: linear, ssf.",
        ),
        (
            ("--methods", "ssf,linear", "--search", "smal"),
            "there is no search 'smal'. Did you mean 'small'?",
        ),
        (
            ("--methods", "ssf,linear", "--search", "optuna:1"),
            "the search 'optuna:1' does not say how many candidates; write optuna:N with N of 2 or more.",
        ),
        (
            ("--methods", "ssf,linear", "--engine", "rya"),
            "there is no engine 'rya'. Did you mean 'ray'?",
        ),
        (
            ("--methods", "ssf,linear", "--set", "lr=0.1"),
            "--set lr: a comparison sets it for every trial; leave it out.",
        ),
        (
            ("--methods", "ssf,linear", "--batch-size", "500"),
            "batch_size 500 is larger than the 18 training images; use 18 or less.",
        ),
        (
            ("--methods", "ssf,linear", "--set", "epoch=1"),
            "--set epoch: there is no such setting. Did you mean 'epochs'?",
        ),
    ],
)
def test_mistakes(refused: Refused, images: Path, words: tuple[str, ...], sentence: str) -> None:
    assert refused("compare", images, *words) == sentence


def test_a_list_and_single_methods_come_together(run: Run, images: Path) -> None:
    words = ("--methods", "linear,bitfit+alast", "--method", "lora(rank=1),bitfit", "--seeds", 1, *QUICK)
    outcome = run("compare", images, *words, "--search", "none", *TRAINING)
    assert outcome.code == 0, outcome.err
    found = json.loads(Path("runs/compare-small/comparison.json").read_text())
    assert [method["method"] for method in found["methods"]] == [
        *("linear", "bitfit,alast", "lora(rank=1),bitfit")
    ]


def test_data_that_are_not_there(refused: Refused) -> None:
    assert "'nowhere' do not exist" in refused("compare", "nowhere", "--methods", "ssf,linear")


def test_an_interrupted_comparison_says_how_to_go_on(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vitune.bench.train_trial.train", interrupted)
        outcome = run("compare", images, *WORDS, *TRAINING)
    assert outcome.code == 130
    expected = "stopped; finished trials are in runs/compare-small; go on with: vitune compare "
    assert expected in outcome.err
    assert run("compare", images, *WORDS, *TRAINING).code == 0, "the trial was left open to the next"
