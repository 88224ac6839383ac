"""What the PVP benchmark found, as rows and as a page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitune.bench import TrialOutcome
from vitune.measure.intervals import mean_interval


@dataclass(frozen=True)
class Row:
    """One host on one data set with one number of shots; accuracies from 0 to 1, by seed.

    Attributes:
        data: The data set.
        host: The method.
        shots: Images of each class.
        usual: Test accuracies from the host's own start.
        pretrained: Test accuracies from pre-trained modules, of the same seeds.
        difference: Mean of the paired differences, pre-trained less usual.
        low: Lower end of their 95 % t-interval over the seeds; None where one seed tells nothing.
        high: Upper end.
    """

    data: str
    host: str
    shots: int
    usual: tuple[float, ...]
    pretrained: tuple[float, ...]
    difference: float
    low: float | None
    high: float | None


def rows(outcomes: Iterable[TrialOutcome]) -> list[Row]:
    """Pair the trials of the two starts.

    Args:
        outcomes: Finished final trials.
    """
    found: dict[tuple[str, str, int], dict[bool, dict[int, float]]] = defaultdict(
        lambda: {False: {}, True: {}}
    )
    for outcome in outcomes:
        trial = outcome.trial
        assert outcome.result is not None
        of_start = found[trial.data, trial.methods, trial.settings["shots"]]
        accuracy = outcome.result["metrics"]["test"]["accuracy"]
        of_start["init_modules" in trial.settings][trial.seed] = accuracy
    made = []
    for (data, host, shots), starts in found.items():
        seeds = sorted(starts[False].keys() & starts[True].keys())
        usual, ours = ([starts[start][seed] for seed in seeds] for start in (False, True))
        gained = mean_interval([b - a for a, b in zip(usual, ours, strict=True)])
        made.append(Row(data, host, shots, tuple(usual), tuple(ours), gained.mean, gained.low, gained.high))
    return sorted(made, key=lambda row: (row.data, row.host, row.shots))


def page(found: Mapping[str, Any]) -> str:
    """The benchmark's page, in Markdown.

    Args:
        found: What `benchmarks.pvp.run` gave.
    """
    made = [Row(**row) for row in found["rows"]]
    seeds = len(made[0].usual)
    lines = [
        "# Pre-trained modules with few shots (PVP)",
        "",
        f"Backbone `{found['backbone']['name']}`, weights {found['backbone']['weights_sha256'][:12]}. Test accuracy in "
        f"%, mean over {seeds} seeds, each with its own images; the gain is paired by seed, with its 95 % t-interval. "
        "Made by `python -m benchmarks.pvp`, whose head says the protocol. The paper's gains over five fine-grained "
        "sets: 16.1, 11.5, 6.4, 2.9 and 2.0 points at 1, 2, 4, 8 and 16 shots, with modules trained on all of "
        "ImageNet-1k; they are not comparable, but for their shape.",
        "",
    ]
    for data in dict.fromkeys(row.data for row in made):
        own, about = [row for row in made if row.data == data], found["data"][data]
        lines += [
            f"## {data}",
            "",
            f"{about['classes']} classes, {about['test']} test images; modules from the classes "
            f'"{found["modules_of"][data]}" of tiny-imagenet.',
            "",
            "| host | shots | usual start | pre-trained | gain, points |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += [_line(row) for row in own]
        lines += [_mean_line(own, shots) for shots in dict.fromkeys(sorted(row.shots for row in own))]
        lines.append("")
    rates = ", ".join(f"{case} {rate:g}" for case, rate in found["learning_rates"].items())
    trained = ", ".join(
        f"{entry['host']} {entry['classes']} {_percent(entry['accuracy'])}" for entry in found["modules"]
    )
    machine = ", ".join(f"{key} {value}" for key, value in found["machine"].items() if value)
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items() if number)
    lines += [
        f"Learning rates chosen: {rates}. Accuracy of the modules on their own validation images, in %: {trained}.",
        "",
        f"Machine: {machine}. Versions: {versions}.",
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    usual, ours = _mean(row.usual), _mean(row.pretrained)
    return f"| {row.host} | {row.shots} | {usual} | {ours} | {_gain(row.difference, row.low, row.high)} |"


def _mean_line(own: Sequence[Row], shots: int) -> str:
    """The mean over the hosts, whose differences of one seed are not independent: averaged before the interval."""
    here = [row for row in own if row.shots == shots]
    gains = [[b - a for a, b in zip(row.usual, row.pretrained, strict=True)] for row in here]
    of_seed = [sum(values) / len(values) for values in zip(*gains, strict=True)]
    gained = mean_interval(of_seed)
    usual = _mean([value for row in here for value in row.usual])
    ours = _mean([value for row in here for value in row.pretrained])
    return f"| mean | {shots} | {usual} | {ours} | {_gain(gained.mean, gained.low, gained.high)} |"


def _mean(values: Sequence[float]) -> str:
    return _percent(sum(values) / len(values))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _gain(mean: float, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"{100 * mean:+.1f}"
    return f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
