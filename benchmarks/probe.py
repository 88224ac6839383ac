"""What pre-training is worth: methods on the built-in backbone and on the same architecture with random weights.

    python -m benchmarks.probe DATA_ROOT [--sets caltech101 cifar10]

Protocol, settings and data are those of `vitune bench local DATA_ROOT --out runs/local`, whose trials on the
pre-trained weights are shared, so that they are not run again where they are finished. Full fine-tuning stands beside
the linear probe, since that of random weights is training from scratch. Writes benchmarks/results/probe.md and
probe.json. May be killed and started again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.data_sets import data_set
from benchmarks.local_trials import SUITE
from vitune.backbones import BUILT_IN, read_card
from vitune.bench.compare import compare, make_plan
from vitune.bench.compare_request import CompareRequest
from vitune.durable import replace_file
from vitune.measure import machine, versions
from vitune.measure.intervals import mean_interval
from vitune.tasks.request import DataSettings, ModelSettings

HERE = Path(__file__).parent / "results"
WORK = Path("runs") / "local"
METHODS = ("linear", "full")
WEIGHTS = {"pre-trained": True, "random": False}


def accuracies(name: str, root: Path, *, pretrained: bool) -> dict[str, list[float]]:
    """Test accuracy of every seed, by method.

    Args:
        name: The data set.
        root: Folder of the data sets.
        pretrained: Whether to start from the built-in weights.
    """
    request = CompareRequest(
        name=SUITE.protocol().name,
        data=DataSettings(path=data_set(name, root, WORK / "data")),
        model=ModelSettings(pretrained=pretrained),
        methods=METHODS,
        rates={method: SUITE.rates[method] for method in METHODS},
        training=dict(SUITE.train),
        workers=0,
        out=WORK / name,
    )
    return {
        case.case.methods: [
            trial.result["metrics"]["test"]["accuracy"] for trial in case.final if trial.result
        ]
        for case in compare(make_plan(request)).cases
    }


def page(found: dict[str, Any]) -> str:
    """The table as a page.

    Args:
        found: What is written as JSON.
    """
    lines = [
        "# What pre-training is worth",
        "",
        f"`{BUILT_IN}`, weights {found['weights'][:12]}, against random weights of the same architecture:",
        "test accuracy in %, mean over three seeds +- half width of the 95 % t-interval. Protocol: see",
        "`src/vitune/suites/local.toml`; made by `python -m benchmarks.probe`.",
        "",
        "| data | method | pre-trained | random |",
        "|---|---|---:|---:|",
    ]
    for name, weights in found["accuracy"].items():
        lines += [
            f"| {name} | {method} | {' | '.join(_text(weights[kind][method]) for kind in WEIGHTS)} |"
            for method in METHODS
        ]
    where = ", ".join(f"{key} {value}" for key, value in found["machine"].items() if value)
    return "\n".join([*lines, "", f"Machine: {where}.", ""])


def _text(values: list[float]) -> str:
    interval = mean_interval([100 * value for value in values])
    half = "" if interval.high is None else f" +- {interval.high - interval.mean:.1f}"
    return f"{interval.mean:.1f}{half}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--sets", nargs="+", default=["caltech101", "cifar10"])
    options = parser.parse_args()
    found = {
        "weights": read_card().sha256,
        "accuracy": {
            name: {
                kind: accuracies(name, options.root, pretrained=pretrained)
                for kind, pretrained in WEIGHTS.items()
            }
            for name in options.sets
        },
        "machine": machine(),
        "versions": versions(),
    }
    text = page(found)
    replace_file(
        HERE / "probe.json", lambda temporary: temporary.write_text(json.dumps(found, indent=1) + "\n")
    )
    replace_file(HERE / "probe.md", lambda temporary: temporary.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
