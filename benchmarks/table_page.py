"""The page of the project's table, `docs/evidence.md`, and the short table in the README."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.local_trials import BASELINE, SUITE, Finished
from benchmarks.step_time import RESULT as STEP_TIME
from benchmarks.table_words import (
    BUILT_ON,
    code,
    reference_task,
    summarise_finished,
    task_sentences,
    troubles,
    verdicts,
)
from vitune.bench.suite_summary import SuiteSummary
from vitune.bench.summary import Estimate, paired_difference
from vitune.suites import PublishedRow, load_published

CLAIMS = Path(__file__).with_name("claims.toml")
MADE_BY = "python -m benchmarks.table"


def page(found: Finished, place: Path) -> str:
    """The page.

    Args:
        found: The trials.
        place: Where the page will lie; links are relative to its folder.
    """
    summary = summarise_finished(found)
    parts = [
        _head(found),
        "## What wins where\n\n" + _list([*verdicts(summary), *_each_task(summary, found)]),
        "## What does not work\n\n" + _list(troubles(summary, found)),
        "## Test accuracy\n\n" + accuracy_table(summary),
        _means(summary),
        "## Beside the linear probe\n\n" + _differences(summary),
        "## Beside what a method is built on\n\n" + _beside_base(found),
        "## Costs\n\n" + _costs(summary, found) + "\n" + _step_times(place),
        "## What the papers claim\n\n" + _claims(summary, found),
        "## Not run\n\n" + _missing(found),
        "## Every seed\n\n" + _seeds(found, place),
        _machines(found),
    ]
    return "\n".join(part for part in parts if part)


def short(found: Finished) -> str:
    """The README's section: the accuracies and what they say.

    Args:
        found: The trials.
    """
    summary = summarise_finished(found)
    lines = [
        "## Evidence on real data",
        "",
        "Test accuracy in %, mean over the seeds +- half width of its 95 % interval. Backbone",
        f"`{found.backbone}`, protocol `{found.protocol}`: learning rate chosen on validation images,",
        "test split sealed. [Costs, paired differences, what does not work, what papers claim, every",
        f"seed](docs/evidence.md); made by `{MADE_BY}`.",
        "",
        accuracy_table(summary),
        *_list(verdicts(summary)).splitlines(),
    ]
    return "\n".join(lines) + "\n"


def accuracy_table(summary: SuiteSummary) -> str:
    """A line for each method, a column for each task, and their mean where a method has them all.

    Args:
        summary: The table.
    """
    mean = summary.means[0] if len(summary.rows) > 1 else None
    columns = [*summary.rows, *([mean] if mean is not None else [])]
    heads = [*(row.row.name for row in summary.rows), *(["mean"] if mean is not None else [])]
    lines = _heads(["method"], heads)
    for method in summary.methods:
        cells = [_accuracy(column.accuracy[method], bold=column.best == method) for column in columns]
        lines.append(f"| {code(method)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _head(found: Finished) -> str:
    seeds = sorted({len(of_seed) for of_seed in found.results.values()})
    counted = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    others = f" {found.others} trials of other protocols or tasks are left out." if found.others else ""
    methods = ",".join(method.replace(",", "+") for method in found.wanted[1])
    seeds_text = f"{counted} seed{'s' * (seeds[-1] > 1)}"
    lines = [
        "# Evidence: every method on small real data",
        "",
        f"Made by `{MADE_BY}` from the trials in `benchmarks/results/local`, sentences included; do not edit it",
        "by hand. To add trials:",
        "",
        f"    vitune bench local DATA --tasks NAME --out runs/local --methods {methods}",
        f"    {MADE_BY} --collect runs/local",
        "",
        "DATA holds Caltech-101 and CIFAR-10 in VTAB-1k layout and PACS; the digits are scikit-learn's. The command",
        "may be stopped, and given again on several machines over a shared folder.",
        "",
        f"Backbone `{found.backbone}`, protocol `{found.protocol}` ({SUITE.protocol().title}).",
        SUITE.about,
        "The learning rate is chosen on validation images with one seed, from the same number of candidates for every",
        f"method; {seeds_text} are then trained and tested, and the test split is opened once for each.",
        "Differences are paired by seed, on the same images, with Student's 95 % interval. They are not corrected for",
        f"their number, and {len(found.tasks)} tasks with {len(found.methods)} methods give many.",
        '"Above", "below" and "open" say where an interval lies beside 0. The order here says nothing of larger',
        f"backbones or longer training.{others}",
    ]
    return "\n".join(lines) + "\n"


def _each_task(summary: SuiteSummary, found: Finished) -> list[str]:
    return [task_sentences(row, found) for row in summary.rows]


def _means(summary: SuiteSummary) -> str:
    return (
        "Bold: the highest, where its paired difference to the runner-up is above 0 by its interval. A dash: not run. "
        f"The mean is given where a method has all {len(summary.rows)} tasks.\n"
    )


def _differences(summary: SuiteSummary) -> str:
    if BASELINE not in summary.methods:
        return "The linear probe has not been run.\n"
    lines = [
        "Points of difference, paired by seed, with their 95 % interval; bold where it does not hold 0. Last: the mean "
        "over the tasks with its interval over the tasks, which says how far it carries over to others of their kind.",
        "",
        *_heads(["method"], [*(row.row.name for row in summary.rows), "over tasks"]),
    ]
    for method in summary.methods:
        if method == BASELINE:
            continue
        cells = [_points(row.difference[method]) for row in summary.rows]
        over = summary.beside[method]
        interval = None if over is None else over.interval
        cells.append("-" if interval is None else _points(Estimate(*interval, "seeds", 0)))
        lines.append(f"| {code(method)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _beside_base(found: Finished) -> str:
    lines = _heads(["method", "built on"], list(found.tasks))
    for method, base in BUILT_ON.items():
        scores = [found.scores(task) for task in found.tasks]
        if not any(method in of and base in of for of in scores):
            continue
        cells = [_points(paired_difference(of.get(method, {}), of.get(base, {}))) for of in scores]
        lines.append(f"| {code(method)} | {code(base)} | {' | '.join(cells)} |")
    if len(lines) == 2:
        return "None of these has been run yet.\n"
    return "Points of difference, as above.\n\n" + "\n".join(lines) + "\n"


def _costs(summary: SuiteSummary, found: Finished) -> str:
    columns = (
        ("trained parameters", "trained_parameters", 1, 0),
        ("of these in the head", "head_parameters", 1, 0),
        ("adapter file, kB", "adapter_bytes", 1e-3, 0),
        ("saved activations, MB", "saved_activation_bytes", 1e-6, 1),
        ("peak memory (forecast), MB", "peak_bytes", 1e-6, 1),
        ("training, s", "train_seconds", 1, 0),
    )
    lines = [
        f"On {reference_task(found)}. All but the last column are counted and hold for any machine. The time of "
        "training is the mean over the seeds on machines that may have had other work: it is no measurement.",
        "",
        *_heads(["method"], [title for title, *_ in columns]),
    ]
    for method in summary.methods:
        costs = summary.costs[method]
        cells = [
            f"{costs[key] * scale:,.{digits}f}" if key in costs else "-" for _, key, scale, digits in columns
        ]
        lines.append(f"| {code(method)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _step_times(place: Path) -> str:
    """Training step and inference beside full fine-tuning, as measured apart on a quiet machine."""
    if not STEP_TIME.is_file():
        return "Step times: not measured; run `python -m benchmarks.step_time`.\n"
    times = json.loads(STEP_TIME.read_text())
    lines = [
        "Time beside full fine-tuning, fp32, ratios of medians [smallest, largest round] "
        f"([JSON]({_link(STEP_TIME, place)})):",
        "",
        *_heads(["methods"], ["training step", "inference"]),
    ]
    for method, step in times["step"].items():
        cells = (
            f"{t['x_full']:.2f} [{t['low']:.2f}, {t['high']:.2f}]" for t in (step, times["inference"][method])
        )
        lines.append(f"| {code(method)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _claims(summary: SuiteSummary, found: Finished) -> str:
    lines = [
        "Published on VTAB-1k with ViT-B/16 of ImageNet-21k, 19 tasks: another backbone, other data, other protocols, "
        "and not reached here. They are not part of any number above; what can be compared is the sign and the order "
        "of the gains, not their size. *paper*: read in the paper or in what its authors released; *quoted*: in a "
        "benchmark or paper that quotes it; *unverified*: from a source that could not be checked. *Here*: points "
        "over the linear probe, mean over the tasks that were run.",
        "",
        *_heads(
            ["method", "published"],
            ["mean of groups", "mean over tasks", "over linear, published", "over linear, here"],
        ),
    ]
    lines[-2] += " protocol | evidence | source |"
    lines[-1] += "---|---|---|"
    rows = load_published("vtab1k")
    probe = next(row for row in rows if row.method == BASELINE)
    for method in found.wanted[1]:
        over = summary.beside.get(method)
        here = "-" if over is None else _mean_here(summary, method)
        for row in (row for row in rows if row.method == method and _mean(row) is not None):
            gain = _gain(row, probe)
            cells = (_number(row.mean_of_groups), _number(row.mean_of_tasks), gain, here)
            words = (row.protocol, row.level, row.source)
            lines.append(f"| {code(method)} | {row.label} | {' | '.join((*cells, *words))} |")
    return "\n".join([*lines, "", *_claims_beside_base(rows), *_claims_in_words()]) + "\n"


def _mean_here(summary: SuiteSummary, method: str) -> str:
    found = [d.mean for row in summary.rows if (d := row.difference[method]) is not None]
    return f"{100 * sum(found) / len(found):+.1f} ({len(found)} tasks)" if found else "-"


def _gain(row: PublishedRow, probe: PublishedRow) -> str:
    if row.method == BASELINE:
        return "-"
    for own, base in ((row.mean_of_groups, probe.mean_of_groups), (row.mean_of_tasks, probe.mean_of_tasks)):
        if own is not None and base is not None:
            return f"{own - base:+.1f}"
    return "-"


def _claims_beside_base(rows: tuple[PublishedRow, ...]) -> list[str]:
    """What a paper gives with and without its method, on the same tasks."""
    lines = []
    for row in rows:
        base = next(
            (o for o in rows if o.source == row.source and f"{o.method},velora" == row.method and o.tasks),
            None,
        )
        if base is None:
            continue
        shared = row.tasks.keys() & base.tasks.keys()
        gain = sum(row.tasks[task] - base.tasks[task] for task in shared) / len(shared)
        lines.append(
            f"- {code(row.method)}: {gain:+.1f} points over {code(base.method)}, mean over {len(shared)} tasks of "
            f"VTAB-1k ({row.source}; {row.level})."
        )
    return lines


def _claims_in_words() -> list[str]:
    claims = tomllib.loads(CLAIMS.read_text())["claims"]
    return [f"- {code(c['method'])}: {c['text']} ({c['source']}; {c['level']})." for c in claims]


def _missing(found: Finished) -> str:
    missing = found.missing()
    if not missing:
        return "Every method has been run on every task.\n"
    lines = [
        f"- {task}: {', '.join(map(code, methods))}"
        if len(methods) < len(found.wanted[1])
        else f"- {task}: no method"
        for task, methods in missing.items()
    ]
    return "\n".join(lines) + "\n"


def _seeds(found: Finished, place: Path) -> str:
    lines = [
        "Test accuracy in % of each seed, linked to its file.",
        "",
        *_heads(["task", "method"], ["learning rate", "seeds"]),
    ]
    for task in found.tasks:
        for method in found.methods:
            of_seed = found.results.get((task, method), {})
            if not of_seed:
                continue
            rates = sorted({result["lr"] for _, result in of_seed.values()})
            links = [
                f"[{100 * result['metrics']['test']['accuracy']:.2f}]({_link(path, place)})"
                for _, (path, result) in sorted(of_seed.items())
            ]
            rate = ", ".join(f"{rate:g}" for rate in rates)
            lines.append(f"| {task} | {code(method)} | {rate} | {' '.join(links)} |")
    return "\n".join(lines) + "\n"


def _machines(found: Finished) -> str:
    contents = [result for of_seed in found.results.values() for _, result in of_seed.values()]
    days = sorted({result["ended"] for result in contents if result.get("ended")})
    when = f"Trials ended from {days[0]} to {days[-1]}. " if days else ""
    return f"{when}Machines: {_different(contents, 'machine')}.\n\nVersions: {_different(contents, 'versions')}.\n"


def _different(contents: list[Mapping[str, Any]], key: str) -> str:
    texts = (
        ", ".join(f"{name} {value}" for name, value in result[key].items() if value) for result in contents
    )
    return "; ".join(dict.fromkeys(texts))


def _heads(words: list[str], numbers: list[str]) -> list[str]:
    return [f"| {' | '.join([*words, *numbers])} |", "|" + "---|" * len(words) + "---:|" * len(numbers)]


def _accuracy(found: Estimate | None, *, bold: bool) -> str:
    if found is None:
        return "-"
    text = f"{100 * found.mean:.1f}"
    if found.low is not None and found.high is not None:
        text += f" +- {50 * (found.high - found.low):.1f}"
    if found.over == "images" and found.seeds == 1:
        text += " (1 seed)"
    elif found.seeds == 2:
        text += " (2 seeds)"
    return f"**{text}**" if bold else text


def _points(found: Estimate | None) -> str:
    if found is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{100 * found.mean:+.1f}"
    text = f"{100 * found.mean:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def _mean(row: PublishedRow) -> float | None:
    return row.mean_of_tasks if row.mean_of_groups is None else row.mean_of_groups


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _link(path: Path, place: Path) -> str:
    return Path(os.path.relpath(path, place.parent)).as_posix()
