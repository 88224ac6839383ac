"""What few bits cost in accuracy: trained in few bits, and rounded after training in full precision.

    python -m benchmarks.low_bit DATA_ROOT [--sets caltech101] [--trained-bits 1] [--seeds 3] [--epochs 10]

DATA_ROOT holds data sets in VTAB-1k layout, as `<name>/` or `<name>.tar`. For each method three settings are compared
on val200 with one seed (trained on train800); the best is trained with several seeds on train800val200, and its last
epoch is tested. `lora` and `adaptformer` train once and are stored with 32, 8, 4, 2 and 1 bits; `bi_lora` and
`bi_adaptformer` train with each of `--trained-bits`, which without a number leaves them out. All have the same shape
(rank or bottleneck 8, no biases), so that nothing but the bits differs. May be killed and started again: finished runs
are kept in runs/low_bit, or where `--work` says. As it is, 24 runs of 10 epochs and 36 tests: three quarters of an
hour on one core that has bf16.

Writes benchmarks/results/low_bit.json and low_bit.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.data_sets import data_set
from vitune.adapters import TENSORS, load
from vitune.durable import replace_file
from vitune.measure import machine, versions
from vitune.tasks.evaluate import evaluate
from vitune.tasks.request import DataSettings, TrainRequest
from vitune.tasks.run_directory import RESULT_FILE, read_json
from vitune.tasks.train import resume, train
from vitune.training.config import TrainConfig

RESULTS = Path(__file__).parent / "results"
WORK = Path("runs") / "low_bit"
FLOAT = 32
SETTINGS = {
    "augment": "none",
    "select": "last",
    "weight_decay": 1e-4,
    "warmup_epochs": 1,
    "precision": "auto",
    "checkpoint_minutes": None,
}


@dataclass(frozen=True)
class Row:
    """One method, and the numbers of bits it is stored with.

    Attributes:
        method: As on the command line; `{}` stands for the searched setting.
        grid: What is searched: scales, or learning rates where the method has no `{}`.
        bits: Bits on disk; the first is what it trained with.
    """

    method: str
    grid: tuple[float, ...]
    bits: tuple[int, ...]

    def text(self, value: float) -> str:
        """The method with a value of the grid."""
        return self.method.format(value)

    def training(self, value: float) -> dict[str, Any]:
        """Training settings with a value of the grid."""
        return {} if "{}" in self.method else {"lr": value}


def rows(trained_bits: Sequence[int]) -> list[Row]:
    """Every method of the comparison, those with weights of few bits once for each number of bits."""
    once = (FLOAT, 8, 4, 2, 1)
    found = [
        Row("lora(rank=8,dropout=0.1)", (1e-3, 3e-3, 1e-2), once),
        Row("adaptformer(bottleneck=8,bias=false)", (3e-3, 1e-2, 3e-2), once),
    ]
    for bits in trained_bits:
        book = ",codebook=converged" if bits == 8 else ""
        # The scale is what the authors search; the rate is theirs.
        found.append(Row(f"bi_lora(rank=8,bits={bits},scale={{}}{book})", (0.1, 1.0, 10.0), (bits,)))
        found.append(
            Row(f"bi_adaptformer(bottleneck=8,bits={bits},scale={{}}{book})", (0.1, 1.0, 10.0), (bits,))
        )
    return found


@dataclass(frozen=True)
class Plan:
    """How much is run, and where.

    Attributes:
        seeds: Of the tested runs.
        epochs: Of every run.
        batch_size: Images of a step.
        work: Folder of the runs.
    """

    seeds: int
    epochs: int
    batch_size: int
    work: Path

    def training(self) -> dict[str, Any]:
        """Training settings."""
        return {"epochs": self.epochs, "batch_size": self.batch_size}


def run(
    work: Path, name: str, data: Path, method: str, split: str, seed: int, settings: dict[str, Any]
) -> Path:
    """A finished run's directory; trains it, or goes on with it, if it is not finished."""
    lr = settings.get("lr", "own")
    directory = work / f"{name}-{method}-{lr}-{split}-s{seed}-e{settings['epochs']}-n{settings['batch_size']}"
    if (directory / RESULT_FILE).is_file():
        return directory
    if (directory / "checkpoint").is_dir():
        resume(directory)
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    training = TrainConfig.from_dict({**SETTINGS, **settings, "seed": seed})
    train(
        TrainRequest(
            data=DataSettings(path=data, train_split=split), method=method, training=training, out=directory
        )
    )
    return directory


def chosen(plan: Plan, name: str, data: Path, row: Row) -> float:
    """The value of the grid that is best on val200."""

    def accuracy(value: float) -> float:
        settings = plan.training() | row.training(value)
        found = read_json(run(plan.work, name, data, row.text(value), "train800", 0, settings) / RESULT_FILE)
        return found["metrics"]["val"]["accuracy"]

    return max(row.grid, key=accuracy)


def stored(directory: Path, bits: int) -> Path:
    """The run with its matrices rounded to so many bits."""
    target = directory.with_name(f"{directory.name}-b{bits}")
    if not (target / TENSORS).is_file():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(directory, target, ignore=shutil.ignore_patterns("checkpoint", TENSORS))
        load(directory).save(target, store_bits=bits)
    return target


def measured(plan: Plan, name: str, data: Path, row: Row) -> list[dict[str, Any]]:
    """Test accuracy and bytes with every number of bits."""
    value = chosen(plan, name, data, row)
    settings = plan.training() | row.training(value)
    runs = [
        run(plan.work, name, data, row.text(value), "train800val200", seed, settings)
        for seed in range(plan.seeds)
    ]
    found = []
    for bits in row.bits:
        places = runs if bits == row.bits[0] else [stored(directory, bits) for directory in runs]
        accuracies = [evaluate(place, data, precision="auto").evaluation.accuracy for place in places]
        found.append(
            {
                "data": name,
                "method": row.text(value),
                "trained_bits": row.bits[0],
                "stored_bits": bits,
                "chosen": value,
                "test_accuracy": accuracies,
                "file_bytes": (places[0] / TENSORS).stat().st_size,
            }
        )
    return found


def page(document: dict[str, Any]) -> str:
    """The results as a table."""
    trained = " ".join(["--trained-bits", *map(str, document["trained_bits"])])
    lines = [
        "# Few bits",
        "",
        f"Built-in backbone, {document['seeds']} seeds, {document['epochs']} epochs: mean and standard deviation of",
        "test accuracy in %. File: the adapter with its float32 head. Made by",
        f"`python -m benchmarks.low_bit DATA_ROOT {trained}`; the protocol is in its head, every number, the",
        "machine and the versions are in [low_bit.json](low_bit.json).",
        "",
        "| data | method | trained with | stored with | test accuracy, % | file, bytes |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in document["rows"]:
        percent = [100 * accuracy for accuracy in row["test_accuracy"]]
        spread = f" +- {stdev(percent):.1f}" if len(percent) > 1 else ""
        lines.append(
            f"| {row['data']} | `{row['method']}` | {row['trained_bits']} bits | {row['stored_bits']} bits "
            f"| {fmean(percent):.1f}{spread} | {row['file_bytes']:,} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--sets", nargs="+", default=["caltech101"])
    parser.add_argument("--trained-bits", nargs="*", type=int, choices=(8, 4, 2, 1), default=[1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    plan = Plan(options.seeds, options.epochs, options.batch_size, options.work)
    found = []
    for name in options.sets:
        data = data_set(name, options.root, plan.work / "data")
        for row in rows(options.trained_bits):
            found += measured(plan, name, data, row)
    document = {
        "seeds": plan.seeds,
        "epochs": plan.epochs,
        "trained_bits": options.trained_bits,
        "machine": machine(),
        "versions": versions(),
        "rows": found,
    }
    text = page(document)
    options.results.mkdir(parents=True, exist_ok=True)
    replace_file(
        options.results / "low_bit.json", lambda path: path.write_text(json.dumps(document, indent=1) + "\n")
    )
    replace_file(options.results / "low_bit.md", lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
