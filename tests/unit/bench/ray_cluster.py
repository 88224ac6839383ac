"""A comparison or a suite on a small Ray cluster of this machine, as JSON on standard output.

    python ray_cluster.py DATA OUT [suite]

For a suite, DATA holds its file `mine.toml` beside its data.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray

from vitune.bench.compare import compare, make_plan
from vitune.bench.compare_files import write_comparison
from vitune.bench.compare_request import CompareRequest
from vitune.bench.suite import plan_suite, run_suite
from vitune.bench.suite_files import write_suite
from vitune.bench.suite_request import SuiteRequest
from vitune.suites import load_suite
from vitune.tasks.request import DataSettings


def main(data: Path, out: Path, what: str = "comparison") -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    told: list[tuple[str, str]] = []
    if what == "suite":
        suite(data, out, told)
    else:
        comparison(data, out, told)
    print(json.dumps(told))


def comparison(data: Path, out: Path, told: list[tuple[str, str]]) -> None:
    training = {
        "epochs": 1,
        "batch_size": 4,
        "augment": "none",
        "device": "cpu",
        "precision": "fp32",
        "warmup_epochs": 0,
    }
    request = CompareRequest(
        data=DataSettings(path=data),
        out=out,
        methods=("linear", "bitfit", "vpt(prompts=100000000000)"),
        search="none",
        seeds=2,
        training=training,
        workers=0,
        engine="ray",
    )
    result = compare(
        make_plan(request),
        on_event=lambda trial, event: told.append((event.kind, trial.id)),
        on_outcome=lambda outcome: told.append(("ended", outcome.trial.id)),
        poll_seconds=0.1,
    )
    write_comparison(result)


def suite(root: Path, out: Path, told: list[tuple[str, str]]) -> None:
    request = SuiteRequest(
        suite=load_suite(str(root / "mine.toml")),
        root=root,
        out=out,
        methods=("linear", "bitfit"),
        workers=0,
        engine="ray",
    )
    result = run_suite(
        plan_suite(request),
        on_event=lambda trial, event: told.append((event.kind, trial.id)),
        on_outcome=lambda task, outcome: told.append(("ended", outcome.trial.id)),
        poll_seconds=0.1,
    )
    write_suite(result)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
