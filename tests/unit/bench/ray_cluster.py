"""A comparison on a small Ray cluster of this machine, as JSON on standard output: `python ray_cluster.py DATA OUT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray

from vitune.bench.compare import compare, make_plan
from vitune.bench.compare_files import write_comparison
from vitune.bench.compare_request import CompareRequest
from vitune.tasks.request import DataSettings


def main(data: Path, out: Path) -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
    training = {"epochs": 1, "batch_size": 4, "augment": "none", "device": "cpu", "warmup_epochs": 0}
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
    told: list[tuple[str, str]] = []
    result = compare(
        make_plan(request),
        on_event=lambda trial, event: told.append((event.kind, trial.id)),
        on_outcome=lambda outcome: told.append(("ended", outcome.trial.id)),
        poll_seconds=0.1,
    )
    write_comparison(result)
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
