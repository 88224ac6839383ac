"""A suite's results as a Markdown page: means, tasks, and the published numbers apart from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def suite_markdown(values: Mapping[str, Any]) -> str:
    """The page.

    Args:
        values: As `vitune.bench.suite_files.as_dict` gives them.
    """
    suite, methods = values["suite"], [method["method"] for method in values["methods"]]
    seeds = len(values["protocol"]["seeds"])
    title = f": {suite['protocol_title']}" if suite["protocol_title"] else ""
    lines = [
        f"# {suite['title']}",
        "",
        f"Backbone `{values['model']}`, protocol `{suite['protocol']}`{title}.{_changed(suite['changed'])} "
        f"Test accuracy in %, mean over {seeds} seed{'s' * (seeds > 1)} +- half the width of its 95 % interval, over "
        "the test images where seeds cannot tell. Settings were chosen on validation images; each final run opened "
        "the test split once. Bold: the highest, where its paired difference to the runner-up is above 0 by its 95 % "
        "interval.",
        "",
        suite["about"],
        "",
    ]
    if values["command"]:
        lines += [f"    {values['command']}", ""]
    lines += _header("", [f"`{method}`" for method in methods])
    for mean in values["means"]:
        lines.append(_row(f"*{mean['name']}*", mean, methods))
    ranks = [_rank(method["rank"]) for method in values["methods"]]
    lines.append(f"| *average rank* | {' | '.join(ranks)} |")
    for row in values["rows"]:
        report = f"{row['task']}/report.html"
        name = f"[{row['name']}]({report})" if row["task"] in values["comparisons"] else row["name"]
        lines.append(_row(name, row, methods))
    lines += ["", f"## Beside {values['baseline']}", "", *_beside(values)]
    if values["published"]:
        lines += ["", "## Published", "", *_published(values)]
    if values["failures"]:
        lines += ["", "## Failed trials", ""]
        lines += [
            f"- {f['task']}, {f['method']}, {f['stage']}, seed {f['seed']}: {f['error']} ([file]({f['file']}))"
            for f in values["failures"]
        ]
    return "\n".join(lines) + "\n"


def _changed(settings: Mapping[str, Any]) -> str:
    pairs = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f" Changed from the suite: {pairs}." if pairs else ""


def _header(first: str, heads: list[str]) -> list[str]:
    heads = [head.replace("|", "\\|") for head in heads]
    return [f"| {first} | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]


def _row(name: str, row: Mapping[str, Any], methods: list[str]) -> str:
    cells = []
    for method in methods:
        text = _accuracy(row["accuracy"][method])
        cells.append(f"**{text}**" if row["best"] == method else text)
    return f"| {name} | {' | '.join(cells)} |"


def _accuracy(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "-"
    text = f"{100 * estimate['mean']:.1f}"
    if estimate["low"] is None or estimate["high"] is None:
        return text
    return f"{text} +- {50 * (estimate['high'] - estimate['low']):.1f}"


def _rank(rank: float | None) -> str:
    return "-" if rank is None else f"{rank:.2f}"


def _beside(values: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Points of difference in the {values['headline']}, paired, with two 95 % intervals: on these tasks (over the "
        "seeds, or over the test images where seeds cannot tell), and over the tasks, which says how far it carries "
        "over to others of their kind. Tasks count as above or below where the interval of their own difference does "
        "not hold 0.",
        "",
        *_header("method", ["on these tasks", "over tasks", "above", "below", "open"]),
    ]
    for method in values["methods"]:
        over = method["over_tasks"]
        if over is not None:
            cells = [_points(method["difference"]), _interval(over["interval"])]
            cells += [str(over[key]) for key in ("above", "below", "open")]
            lines.append(f"| `{method['method']}` | {' | '.join(cells)} |")
    return lines


def _points(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "-"
    low, high = estimate["low"], estimate["high"]
    if low is None or high is None:
        return f"{100 * estimate['mean']:+.1f}"
    return _interval((estimate["mean"], low, high))


def _interval(values: tuple[float, float, float] | None) -> str:
    if values is None:
        return "-"
    mean, low, high = values
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _published(values: Mapping[str, Any]) -> list[str]:
    lines = [
        "What papers report, with other backbones and protocols than the numbers above, which they are not part of. "
        "*paper*: read in the paper or what its authors released; *quoted*: in a benchmark or paper that quotes it; "
        "*unverified*: from a source that could not be checked.",
        "",
        *_header("method", ["mean of groups", "mean over tasks"]),
    ]
    lines[-2] += " backbone | protocol | evidence | source |"
    lines[-1] += "---|---|---|---|"
    for row in values["published"]:
        means = (f"{v:.1f}" if v is not None else "-" for v in (row["mean_of_groups"], row["mean_of_tasks"]))
        words = (row["backbone"], row["protocol"], row["level"], row["source"])
        lines.append(f"| {row['label']} | {' | '.join((*means, *words))} |")
    return lines
