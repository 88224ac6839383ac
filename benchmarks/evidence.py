"""The evidence that `vitune suggest` ships with, from the trials in benchmarks/results/local.

    python -m benchmarks.evidence [--check]

Every JSON below that folder that holds a finished trial of stage `final` counts. Trials are grouped by data, backbone
and protocol; a group without a linear probe says nothing here, since gains are differences to it, paired by
seed. Writes src/vitune/tasks/suggest/evidence.json; `--check` compares with the file and changes nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vitune.durable import replace_file
from vitune.measure import mean_interval
from vitune.methods import method_text, parse
from vitune.tasks.suggest.evidence import BASELINE, EVIDENCE_FILE
from vitune.training.config import TrainConfig

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "local"
TARGET = ROOT / "src" / "vitune" / "tasks" / "suggest" / EVIDENCE_FILE
FORMAT = 1
DEFAULT = TrainConfig()

Trial = Mapping[str, Any]


def trials(folder: Path) -> list[tuple[Path, Trial]]:
    """Finished final trials below a folder, by path."""
    found = []
    for path in sorted(folder.rglob("*.json")):
        values = json.loads(path.read_text())
        trial = values.get("trial") if isinstance(values, dict) else None
        test = (values.get("metrics") or {}).get("test") if trial else None
        if trial and trial.get("stage") == "final" and test:
            found.append((path, values))
    return found


def evidence(folder: Path) -> dict[str, Any]:
    """The file's contents."""
    groups: dict[tuple[str, ...], list[tuple[Path, Trial]]] = defaultdict(list)
    for path, values in trials(folder):
        trial = values["trial"]
        shots = str(trial["settings"].get("shots"))
        key = (trial["data"], trial["model"], trial["protocol"], shots, str(values["data"]["train"]))
        groups[key].append((path, values))
    entries = [entry for key in sorted(groups) if (entry := _group(groups[key])) is not None]
    return {"format": FORMAT, "made_by": "python -m benchmarks.evidence", "groups": entries}


def _group(members: list[tuple[Path, Trial]]) -> dict[str, Any] | None:
    by_method: dict[str, dict[int, Trial]] = defaultdict(dict)
    for _, values in members:
        by_method[_canonical(values["trial"]["methods"])][values["trial"]["seed"]] = values
    if BASELINE not in by_method:
        return None
    path, first = members[0]
    settings = first["trial"]["settings"]
    base = by_method[BASELINE]
    methods = {
        name: known for name in sorted(by_method) if (known := _known(by_method[name], base)) is not None
    }
    return {
        "data": re.sub(r"-[0-9a-f]{8,}$", "", first["trial"]["data"]),  # less the digest of the lists
        "train_images": first["data"]["train"],
        "classes": first["data"]["classes"],
        "backbone": first["model"]["name"],
        "family": first["model"]["family"],
        "protocol": first["trial"]["protocol"],
        "epochs": settings.get("epochs", DEFAULT.epochs),
        "batch_size": settings.get("batch_size", DEFAULT.batch_size),
        "source": path.parent.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.parent.name,
        "methods": methods,
    }


def _known(runs: Mapping[int, Trial], base: Mapping[int, Trial]) -> dict[str, Any] | None:
    shared = sorted(runs.keys() & base.keys())
    if not shared:
        return None
    gain = mean_interval([_accuracy(runs[seed]) - _accuracy(base[seed]) for seed in shared])
    return {
        "accuracy": round(statistics.fmean(_accuracy(run) for run in runs.values()), 5),
        "gain": round(gain.mean, 5),
        "half": None if gain.high is None else round(gain.high - gain.mean, 5),
        "seeds": len(shared),
        "lr": statistics.median(run["lr"] for run in runs.values()),
    }


def _accuracy(values: Trial) -> float:
    return values["metrics"]["test"]["accuracy"]


def _canonical(methods: str) -> str:
    return ",".join(map(method_text, parse(methods)))


def text(values: Mapping[str, Any]) -> str:
    """As the file holds it: a line for each method."""
    lines = json.dumps(values, indent=1)
    for known in _all_known(values["groups"]):
        lines = lines.replace(json.dumps(known, indent=1).replace("\n", "\n    "), json.dumps(known))
    return lines + "\n"


def _all_known(groups: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    for group in groups:
        yield from group["methods"].values()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare with the file that is there")
    options = parser.parse_args()
    found = text(evidence(RESULTS))
    if options.check:
        same = TARGET.is_file() and TARGET.read_text() == found
        print("the same" if same else f"{TARGET} differs: run python -m benchmarks.evidence")
        return 0 if same else 1
    replace_file(TARGET, lambda temporary: temporary.write_text(found))
    print(f"{TARGET}: {len(json.loads(found)['groups'])} groups")
    return 0


if __name__ == "__main__":
    sys.exit(main())
