"""The project's table: what its page says follows from the trials, whole or in part."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmarks import local_trials, table
from benchmarks.local_trials import SUITE, collect, read_finished, task_of
from benchmarks.table_page import page, short

from vitune.backbones import BUILT_IN, read_card
from vitune.bench import Trial
from vitune.errors import RunError

PROTOCOL = f"small-{read_card().sha256[:8]}"
VTAB = {"caltech101": "caltech101-00000000", "cifar10": "cifar10-00000000"}


def trial(task: str, method: str, seed: int, **more: Any) -> Trial:
    fields = {
        "data": VTAB[task],
        "model": BUILT_IN,
        "protocol": PROTOCOL,
        "stage": "final",
        "settings": {"lr": 0.01},
    }
    return Trial(methods=method, seed=seed, **{**fields, **more})


def result(of: Trial, accuracy: float) -> dict[str, Any]:
    return {
        "trial": of.as_dict(),
        "protocol": of.protocol,
        "metrics": {
            "val": None,
            "test": {"accuracy": accuracy, "low": accuracy - 0.02, "high": accuracy + 0.02, "n": 2000},
        },
        "costs": {"trained_parameters": 1234, "adapter_bytes": 5000},
        "memory_forecast_bytes": {"weights": 1_000_000},
        "data": {"path": "/somewhere/else/caltech101", "train": 1000, "classes": 102},
        "model": {"name": of.model, "family": "timm-vit"},
        "lr": 0.01,
        "train_seconds": 2.0,
        "test_correct": None,
        "machine": {"cpu": "a chip"},
        "versions": {"torch": "2.9"},
    }


def write(folder: Path, task: str, method: str, accuracies: Sequence[float], **more: Any) -> None:
    folder.mkdir(exist_ok=True)
    for seed, accuracy in enumerate(accuracies):
        of = trial(task, method, seed, **more)
        (folder / f"{of.id}.json").write_text(json.dumps(result(of, accuracy)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """SSF wins on Caltech-101; on CIFAR-10 LoRA and SSF cannot be told apart; full loses; the rest is missing."""
    place = tmp_path / "trials"
    write(place, "caltech101", "linear", (0.500, 0.502, 0.501))
    write(place, "caltech101", "full", (0.450, 0.452, 0.450))
    write(place, "caltech101", "lora", (0.540, 0.541, 0.543))
    write(place, "caltech101", "ssf", (0.600, 0.602, 0.602))
    write(place, "caltech101", "lora,velora", (0.538, 0.545, 0.540))
    write(place, "cifar10", "linear", (0.600, 0.602, 0.601))
    write(place, "cifar10", "lora", (0.640, 0.670, 0.650))
    write(place, "cifar10", "ssf", (0.660, 0.645, 0.656))
    failed = trial("cifar10", "hst", 0)
    error = {
        "failed": failed.as_dict(),
        "error": {"type": "TrainingError", "message": "the loss is\nnot finite"},
    }
    (place / f"{failed.id}.failed.json").write_text(json.dumps(error))
    return place


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_sentences_say_what_can_be_told_apart_and_what_cannot(folder: Path, tmp_path: Path):
    text = page(read_finished(folder), tmp_path / "page.md")
    wins = section(text, "What wins where")
    assert "On 1 of 2 tasks a single method wins, its lead over the runner-up being above 0" in wins
    assert "interval: `ssf` on caltech101." in wins
    assert "On 1 of 2 tasks no single method wins" in wins
    assert (
        "Above the linear probe on every task they were run on: `lora`, `ssf`, `lora,velora` (1 of 2)."
        in wins
    )
    assert "Below the linear probe on every task they were run on: `full` (1 of 2)." in wins
    assert (
        "**caltech101**: `ssf` has the highest mean, 60.1 %, and can be told from every other method." in wins
    )
    assert "**cifar10**: `ssf` has the highest mean, 65.4 %, and cannot be told from `lora`." in wins
    assert "open" not in wins.split("**caltech101**")[1].split("\n")[0]


def test_what_does_not_work_is_named(folder: Path, tmp_path: Path):
    trouble = section(page(read_finished(folder), tmp_path / "page.md"), "What does not work")
    assert "`full` is below the linear probe on caltech101." in trouble
    assert (
        "`lora,velora` is above `lora`, which it is built on, on none of 1 tasks: below on 0, open on 1."
        in trouble
    )
    assert "1 trial of `hst` on cifar10 failed, the first with: the loss is not finite" in trouble
    assert "lora" not in trouble.split("`full`")[0]


def test_tables_mark_only_what_is_separable_and_list_what_is_missing(folder: Path, tmp_path: Path):
    text = page(read_finished(folder), tmp_path / "page.md")
    lines = section(text, "Test accuracy").splitlines()
    assert "| method | caltech101 | cifar10 | mean |" in lines
    assert "| `full` | 45.1 +- 0.3 | - | - |" in lines
    (ssf,) = (line for line in lines if line.startswith("| `ssf`"))
    assert ssf.startswith("| `ssf` | **60.1 +- 0.3** | 65.4 +- ")
    beside = section(text, "Beside the linear probe")
    assert "| `full` | **-5.0 (-5.2 to -4.9)** | - | - |" in beside
    missing = section(text, "Not run")
    assert "- cifar10: `full`, `suffix`, `bitfit`, `adapter`" in missing
    assert "- digits-4shot: no method" in missing
    assert "a chip" in text


def test_every_seed_is_linked_once(folder: Path, tmp_path: Path):
    place = tmp_path / "docs" / "page.md"
    place.parent.mkdir()
    text = page(read_finished(folder), place)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "final" in link]
    assert len(links) == len(set(links)) == 8 * 3
    assert all((place.parent / link).is_file() for link in links)


def test_claims_of_papers_stand_apart_with_their_evidence(folder: Path, tmp_path: Path):
    claims = section(page(read_finished(folder), tmp_path / "page.md"), "What the papers claim")
    assert "| `ssf` | SSF | 75.7 | 73.1 | +18.0 | +7.7 (2 tasks) |" in claims
    assert "- `lora,velora`: +0.6 points over `lora`, mean over 16 tasks" in claims
    assert "- `full,alast`: accuracy within 0.5 % of full fine-tuning" in claims
    assert "unverified" in claims


def test_one_seed_says_so(tmp_path: Path):
    for method, accuracy in (("linear", 0.5), ("ssf", 0.6)):
        write(tmp_path / "trials", "caltech101", method, (accuracy,))
    text = page(read_finished(tmp_path / "trials"), tmp_path / "page.md")
    assert "| `ssf` | 60.0 +- 2.0 (1 seed) |" in text


def test_trials_of_another_protocol_or_task_are_left_out_and_counted(folder: Path, tmp_path: Path):
    write(folder, "caltech101", "bitfit", (0.9,), protocol="other-12345678")
    write(folder, "caltech101", "lora(rank=2)", (0.9,))
    found = read_finished(folder)
    assert found.others == 2
    assert "bitfit" not in found.methods
    assert "2 trials of other protocols or tasks are left out." in page(found, tmp_path / "page.md")


def test_two_results_of_one_seed_are_refused(folder: Path):
    write(folder, "caltech101", "ssf", (0.7,), settings={"lr": 0.02})
    with pytest.raises(
        RunError, match="are both seed 0 of ssf on caltech101; remove the one that is not to count"
    ):
        read_finished(folder)


def test_nothing_finished_is_one_sentence(tmp_path: Path):
    with pytest.raises(RunError, match="holds no finished trial; take some over with --collect RUN"):
        read_finished(tmp_path)


@pytest.mark.parametrize(
    ("data", "settings", "task"),
    [
        ("caltech101-ef1a0f69", {}, "caltech101"),
        ("PACS-ef1a0f69", {"test_domain": "sketch"}, "pacs-to-sketch"),
        ("pacs-ef1a0f69", {"test_domain": "photo"}, "pacs-to-photo"),
        ("digits-ef1a0f69", {"shots": 16}, "digits-16shot"),
        ("digits-ef1a0f69", {}, None),
        ("flowers-ef1a0f69", {}, None),
    ],
)
def test_tasks_are_known_by_their_data(data: str, settings: dict[str, Any], task: str | None):
    assert task_of(SUITE, {"data": data, "settings": settings}) == task


def test_a_run_is_taken_over_while_it_goes_on(tmp_path: Path):
    root = tmp_path / "run" / "caltech101" / "trials"
    good, bad, going = (trial("caltech101", method, 0) for method in ("ssf", "lora", "hst"))
    for of in (good, bad, going):
        (root / of.id).mkdir(parents=True)
        (root / of.id / "trial.json").write_text(json.dumps(of.as_dict()))
    (root / good.id / "result.json").write_text(json.dumps(result(good, 0.5)))
    os.utime(root / good.id / "result.json", (1.7e9, 1.7e9))
    attempt = root / bad.id / "attempts" / "0"
    attempt.mkdir(parents=True)
    (attempt / "error.json").write_text(json.dumps({"type": "E", "message": "no", "traceback": "long"}))
    kept = tmp_path / "kept"
    assert collect(tmp_path / "run", kept) == (1, 1)
    assert {path.name for path in kept.iterdir()} == {f"{good.id}.json", f"{bad.id}.failed.json"}
    values = json.loads((kept / f"{good.id}.json").read_text())
    assert values["ended"] == "2023-11-14"
    assert values["data"]["path"] == "caltech101", "no path of that machine"
    assert "traceback" not in (kept / f"{bad.id}.failed.json").read_text()
    (root / bad.id / "result.json").write_text(json.dumps(result(bad, 0.5)))
    assert collect(tmp_path / "run", kept) == (2, 0)
    assert not (kept / f"{bad.id}.failed.json").exists(), "it was tried again"
    with pytest.raises(RunError, match="is no folder of 'vitune bench local'; give its --out"):
        collect(tmp_path, kept)


def test_the_short_table_is_put_between_the_marks(folder: Path):
    text = table.with_section(
        "a\n<!-- evidence:start -->\nstale words\n<!-- evidence:end -->\nz\n", short(read_finished(folder))
    )
    assert text.startswith("a\n<!-- evidence:start -->\n## Evidence on real data\n")
    assert text.endswith("<!-- evidence:end -->\nz\n")
    assert "stale words" not in text
    assert "`ssf` on caltech101" in text


def test_every_method_of_the_table_has_rates_in_the_suite():
    assert set(local_trials.METHODS) == {local_trials.canonical(method) for method in SUITE.rates}
    assert set(local_trials.TASKS) <= {task.name for task in SUITE.tasks}


def test_the_files_are_what_the_stored_trials_make():
    for path, text in table.written().items():
        assert path.read_text() == text, f"{path.name} is stale: run python -m benchmarks.table"
