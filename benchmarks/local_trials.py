"""The finished trials of `vitune bench local` that this repository keeps: taken over from a run, and read again.

A file per trial, so that what several machines ran lies beside each other; what failed is kept too. Nothing but the
trials decides what the tables say, and a trial that is not there yet is a gap in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.evidence import trials
from vitune.backbones import BUILT_IN, read_card
from vitune.bench import Trial, TrialRunner
from vitune.bench.compare_request import canonical
from vitune.bench.summary import Score, score_of
from vitune.durable import replace_file
from vitune.errors import RunError
from vitune.suites import Suite, Task, load_suite

SUITE = load_suite("local")
METHODS = tuple(
    canonical(method)
    for method in (
        *("full", "suffix", "linear", "bitfit", "lora", "ssf", "adapter", "adaptformer", "vpt", "e2vpt"),
        *("sct", "spt"),
        *("bi_adaptformer", "bi_lora", "dyt", "hst", "full,alast", "lora,velora"),
    )
)
TASKS = ("caltech101", "cifar10", "pacs-to-sketch", "digits-4shot", "digits-16shot")
BASELINE = "linear"
FAILED = ".failed.json"

Cell = tuple[str, str]
"""Task and method."""


@dataclass(frozen=True)
class Finished:
    """All final trials of one backbone and protocol.

    Attributes:
        backbone: Its name.
        protocol: Name of the protocol, with the beginning of the weights' hash.
        tasks: Those with a trial, in the order of the table.
        methods: Those with a trial, in the order of the table.
        results: By task and method, by seed: the file and its content.
        failures: Contents of the files of trials that failed.
        others: How many finished trials belong to other protocols, tasks or methods.
    """

    backbone: str
    protocol: str
    tasks: tuple[str, ...]
    methods: tuple[str, ...]
    results: Mapping[Cell, Mapping[int, tuple[Path, Mapping[str, Any]]]]
    failures: tuple[Mapping[str, Any], ...] = ()
    others: int = 0
    wanted: tuple[tuple[str, ...], tuple[str, ...]] = field(default=(TASKS, METHODS))

    def scores(self, task: str) -> dict[str, dict[int, Score]]:
        """Test accuracies of a task by method and seed.

        Args:
            task: Its name.
        """
        return {
            method: {
                seed: score_of(result) for seed, (_, result) in sorted(self.results[task, method].items())
            }
            for method in self.methods
            if (task, method) in self.results
        }

    def contents(self, task: str, method: str) -> list[Mapping[str, Any]]:
        """The results of all seeds.

        Args:
            task: Its name.
            method: Which method.
        """
        return [result for _, (_, result) in sorted(self.results.get((task, method), {}).items())]

    def missing(self) -> dict[str, list[str]]:
        """The methods that are wanted and not there, by task; tasks without a gap are left out."""
        tasks, methods = self.wanted
        gaps = {task: [m for m in methods if (task, m) not in self.results] for task in tasks}
        return {task: lacking for task, lacking in gaps.items() if lacking}


def read_finished(folder: Path) -> Finished:
    """Read the trials of the built-in backbone's present weights, or else of the protocol with the most trials.

    Args:
        folder: Of the files.

    Raises:
        RunError: If there is none, or two of one seed.
    """
    found = trials(folder)
    if not found:
        raise RunError(f"'{folder}' holds no finished trial; take some over with --collect RUN.")
    counts: dict[tuple[str, str], int] = {}
    for _, values in found:
        key = (values["trial"]["model"], values["trial"]["protocol"])
        counts[key] = counts.get(key, 0) + 1
    present = (BUILT_IN, f"{SUITE.protocol().name}-{read_card().sha256[:8]}")
    backbone, protocol = present if present in counts else max(counts, key=lambda key: (counts[key], key))
    results: dict[Cell, dict[int, tuple[Path, Mapping[str, Any]]]] = {}
    others = 0
    for path, values in found:
        trial = values["trial"]
        task = task_of(SUITE, trial)
        method = canonical(trial["methods"])
        fits = (trial["model"], trial["protocol"]) == (backbone, protocol)
        if not fits or task not in TASKS or method not in METHODS:
            others += 1
            continue
        of_seed = results.setdefault((task, method), {})
        if trial["seed"] in of_seed:
            raise RunError(
                f"'{of_seed[trial['seed']][0]}' and '{path}' are both seed {trial['seed']} of {method} on {task}; "
                "remove the one that is not to count."
            )
        of_seed[trial["seed"]] = (path, values)
    return Finished(
        backbone=backbone,
        protocol=protocol,
        tasks=tuple(task for task in TASKS if any(key[0] == task for key in results)),
        methods=tuple(method for method in METHODS if any(key[1] == method for key in results)),
        results=results,
        failures=tuple(_failures(folder, backbone, protocol)),
        others=others,
    )


def task_of(suite: Suite, trial: Mapping[str, Any]) -> str | None:
    """The task of a suite that a trial belongs to, by the name of its data and what is set of them.

    Args:
        suite: Which suite.
        trial: As its file has it.
    """
    stem = trial["data"].rpartition("-")[0].casefold()  # less the digest of the lists

    def fits(task: Task) -> bool:
        names = {folder.rpartition("/")[2].casefold() for folder in task.folder}
        return stem in names and all(trial["settings"].get(k) == v for k, v in task.data.items())

    return next((task.name for task in suite.tasks if fits(task)), None)


def collect(run: Path, folder: Path) -> tuple[int, int]:
    """Copy what ended in a run of the suite to where the tables are made from, with the day on which it ended.

    Args:
        run: Folder of `vitune bench local --out`; may still be running.
        folder: Where the files go.

    Returns:
        How many finished final trials and how many failed trials it holds.

    Raises:
        RunError: If it is no such folder.
    """
    roots = sorted(path for path in run.glob("*/trials") if path.parent.name in {t.name for t in SUITE.tasks})
    if not roots:
        raise RunError(f"'{run}' is no folder of 'vitune bench local'; give its --out.")
    folder.mkdir(parents=True, exist_ok=True)
    finished = failed = 0
    for root, trial in _trials_below(roots):
        outcome = TrialRunner(root, _never, _never).outcome(trial)
        if outcome is None:
            continue
        day = datetime.fromtimestamp(outcome.path.stat().st_mtime, UTC).date().isoformat()
        if outcome.result is None:
            failed += 1
            error = {key: (outcome.error or {}).get(key) for key in ("type", "message")}
            _write(folder / f"{trial.id}{FAILED}", {"failed": trial.as_dict(), "error": error, "ended": day})
            continue
        (folder / f"{trial.id}{FAILED}").unlink(missing_ok=True)  # it has been tried again
        if trial.stage == "final":
            finished += 1
            # Where the images lay is of no use elsewhere.
            data = {**outcome.result["data"], "path": Path(outcome.result["data"]["path"]).name}
            _write(folder / f"{trial.id}.json", {**outcome.result, "data": data, "ended": day})
    return finished, failed


def _trials_below(roots: Sequence[Path]) -> Iterable[tuple[Path, Trial]]:
    for root in roots:
        for path in sorted(root.glob("*/trial.json")):
            yield root, Trial.from_dict(json.loads(path.read_text()))


def _never(*arguments: Any) -> Any:
    raise AssertionError("trials are read here, not run")


def _failures(folder: Path, backbone: str, protocol: str) -> Iterable[Mapping[str, Any]]:
    for path in sorted(folder.glob(f"*{FAILED}")):
        values = json.loads(path.read_text())
        trial = values["failed"]
        if (trial["model"], trial["protocol"]) == (backbone, protocol):
            yield {**values, "task": task_of(SUITE, trial), "file": path}


def _write(path: Path, values: Mapping[str, Any]) -> None:
    text = json.dumps(values, indent=1) + "\n"
    if not path.is_file() or path.read_text() != text:
        replace_file(path, lambda temporary: temporary.write_text(text))
