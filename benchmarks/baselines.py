"""The baselines on real data: accuracy with intervals, parameters, memory, time, bytes on disk.

    python -m benchmarks.baselines DATA_ROOT [--jobs 2] [--sets caltech101 cifar10]

DATA_ROOT holds `caltech101.tar` and `cifar10.tar` (or folders) in VTAB-1k layout. It is tasks of the suite `local`
(`vitune bench local`), whose file has the protocol `small`: 10 epochs, batch 64, no augmentation; for each method three
learning rates are compared on val200 with one seed (trained on train800), the best is trained with three seeds on
train800val200, and its last epoch is tested once. The test split is sealed while settings are chosen. May be killed and
started again; several processes may work over one folder, and `vitune bench local DATA_ROOT --out runs/baselines`
shares its trials.

Writes benchmarks/results/baselines.md, one JSON per final trial in benchmarks/results/baselines/, and the README's
table; the report is in runs/baselines/.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.step_time import RESULT as STEP_TIME
from vitune.backbones import BUILT_IN, read_card
from vitune.bench import Column, TrialOutcome, aggregate
from vitune.bench.suite import plan_suite, run_suite
from vitune.bench.suite_files import write_suite
from vitune.bench.suite_request import SuiteRequest
from vitune.bench.table import markdown
from vitune.durable import replace_file
from vitune.suites import load_suite

HERE = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
MARKS = ("<!-- evidence:start -->", "<!-- evidence:end -->")
WORK = Path("runs") / "baselines"

SUITE = load_suite("local")
PROTOCOL = SUITE.protocol().name
SETTINGS = dict(SUITE.train)
# Method -> learning rates, the same number of candidates for each.
GRIDS = {method: SUITE.rates[method] for method in SUITE.methods}
COLUMNS = (
    Column("test accuracy, %", "metrics.test.accuracy", 100, 1),
    Column("lr", "lr", 1, 4),
    Column("trained parameters", "costs.trained_parameters", 1, 0),
    Column("of these in the head", "costs.head_parameters", 1, 0),
    Column("saved activations, MB", "costs.saved_activation_bytes", 1e-6, 1),
    Column("adapter file, kB", "costs.adapter_bytes", 1e-3, 0),
)


def request(root: Path, sets: list[str]) -> SuiteRequest:
    """What is run: the suite's methods on some of its tasks."""
    return SuiteRequest(suite=SUITE, root=root, out=WORK, tasks=tuple(sets), workers=0)


def run(root: Path, sets: list[str]) -> list[TrialOutcome]:
    """Run what is not finished; returns the final trials."""
    result = run_suite(plan_suite(request(root, sets)))
    write_suite(result)
    return [outcome for task in result.tasks for case in task.comparison.cases for outcome in case.final]


def keep(outcome: TrialOutcome) -> TrialOutcome:
    """Copy a trial's JSON to where the table can link to it."""
    target = HERE / "baselines" / f"{outcome.trial.id}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, lambda temporary: temporary.write_bytes(outcome.path.read_bytes()))
    return dataclasses.replace(outcome, path=target)


def page(outcomes: list[TrialOutcome]) -> str:
    """The table as a page."""
    first = next(outcome.result for outcome in outcomes if outcome.result)
    machine = ", ".join(f"{key} {value}" for key, value in first["machine"].items() if value)
    return f"""# Baselines

Backbone `{BUILT_IN}`, weights {read_card().sha256[:12]} (see its card). Mean over three seeds +- half width of the 95 %
t-interval; the numbers behind a cell link to the JSON of each seed. Protocol `{PROTOCOL}`: see the head of
`benchmarks/baselines.py`, which made this page.

{markdown(aggregate(outcomes, COLUMNS), COLUMNS, HERE, heads=("data", "methods"))}
{step_times()}
Machine: {machine}. Versions: {", ".join(f"{name} {number}" for name, number in first["versions"].items() if number)}.
"""


def step_times() -> str:
    """Training step and inference beside full fine-tuning, as measured apart on a quiet machine."""
    if not STEP_TIME.is_file():
        return "Step times: not measured; run `python -m benchmarks.step_time`.\n"
    times = json.loads(STEP_TIME.read_text())
    lines = [
        f"Time beside full fine-tuning, fp32, ratios of medians [smallest, largest round] ([JSON]({STEP_TIME.name})):",
        "",
        "| methods | training step | inference |",
        "|---|---:|---:|",
    ]
    for method, step in times["step"].items():
        cells = (
            f"{t['x_full']:.2f} [{t['low']:.2f}, {t['high']:.2f}]" for t in (step, times["inference"][method])
        )
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary(outcomes: list[TrialOutcome]) -> str:
    """The accuracies alone, one line per method, for the README."""
    rows = aggregate(outcomes, COLUMNS)
    names = {
        row.trial.data: row.trial.data.rpartition("-")[0] for row in rows
    }  # less the digest of the lists
    sets = list(names.values())
    accuracy = COLUMNS[0].title
    cells = {(row.trial.methods, names[row.trial.data]): row.cells[accuracy] for row in rows}
    lines = [
        "## Evidence on real data",
        "",
        "Test accuracy in %, mean over three seeds +- half width of the 95 % t-interval. Built-in backbone",
        f"`{BUILT_IN}` (interim weights {read_card().sha256[:12]}), 1,000 training images, 10 epochs, learning rate",
        "chosen on 200 of them with the test split sealed. Made by `python -m benchmarks.baselines`;",
        "[all columns and every seed's JSON, machine, versions](benchmarks/results/baselines.md).",
        "",
        f"| method | {' | '.join(sets)} |",
        "|---|" + "---:|" * len(sets),
    ]
    for method in dict.fromkeys(row.trial.methods for row in rows):
        texts = []
        for name in sets:
            cell = cells[method, name]
            failed = cell.mean is None or cell.high is None
            texts.append("-" if failed else f"{cell.mean:.1f} +- {cell.high - cell.mean:.1f}")
        lines.append(f"| {method} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def put_into_readme(text: str) -> None:
    """Replace what stands between the two marks of the README."""
    before, rest = README.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    page = f"{before}{MARKS[0]}\n{text}{MARKS[1]}{after}"
    replace_file(README, lambda temporary: temporary.write_text(page))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--sets", nargs="+", default=["caltech101", "cifar10"])
    parser.add_argument("--jobs", type=int, default=1, help="processes that work at the same time")
    options = parser.parse_args()
    plan_suite(request(options.root, options.sets))  # unpacks, before several processes would
    again = [sys.executable, "-m", "benchmarks.baselines", str(options.root), "--sets", *options.sets]
    helpers = [subprocess.Popen(again) for _ in range(options.jobs - 1)]
    outcomes = run(options.root, options.sets)
    for helper in helpers:
        helper.wait()
    shutil.rmtree(HERE / "baselines", ignore_errors=True)
    kept = [keep(outcome) for outcome in outcomes]
    text = page(kept)
    put_into_readme(summary(kept))
    replace_file(HERE / "baselines.md", lambda temporary: temporary.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
