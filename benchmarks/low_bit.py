"""What few bits cost in accuracy: trained in few bits, and rounded after training in full precision.

    python -m benchmarks.low_bit DATA_ROOT [--sets caltech101 cifar10] [--seeds 3] [--epochs 10]

DATA_ROOT holds data sets in VTAB-1k layout, as `<name>/` or `<name>.tar`. For each method three settings are compared
on val200 with one seed (trained on train800); the best is trained with several seeds on train800val200, and its last
epoch is tested. `lora` and `adaptformer` train once and are stored with 32, 8, 4, 2 and 1 bits; `bi_lora` and
`bi_adaptformer` train with each. All have the same shape (rank or bottleneck 8, no biases), so that nothing but the
bits differs. May be killed and started again: finished runs are kept in runs/low_bit.

Writes benchmarks/results/low_bit.json and low_bit.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
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
    "batch_size": 64,
    "augment": "none",
    "select": "last",
    "weight_decay": 1e-4,
    "warmup_epochs": 1,
    "precision": "fp32",
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


def rows() -> list[Row]:
    """Every method of the comparison."""
    once = (FLOAT, 8, 4, 2, 1)
    found = [
        Row("lora(rank=8,dropout=0.1)", (1e-3, 3e-3, 1e-2), once),
        Row("adaptformer(bottleneck=8,bias=false)", (3e-3, 1e-2, 3e-2), once),
    ]
    for bits in (8, 4, 2, 1):
        book = ",codebook=converged" if bits == 8 else ""
        # The scale is what the authors search; the rate is theirs.
        found.append(Row(f"bi_lora(rank=8,bits={bits},scale={{}}{book})", (0.1, 1.0, 10.0), (bits,)))
        found.append(
            Row(f"bi_adaptformer(bottleneck=8,bits={bits},scale={{}}{book})", (0.1, 1.0, 10.0), (bits,))
        )
    return found


def run(name: str, data: Path, method: str, split: str, seed: int, settings: dict[str, Any]) -> Path:
    """A finished run's directory; trains it, or goes on with it, if it is not finished."""
    lr = settings.get("lr", "own")
    directory = WORK / f"{name}-{method}-{lr}-{split}-s{seed}-e{settings['epochs']}"
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


def chosen(name: str, data: Path, row: Row, epochs: int) -> float:
    """The value of the grid that is best on val200."""

    def accuracy(value: float) -> float:
        settings = {"epochs": epochs, **row.training(value)}
        found = read_json(run(name, data, row.text(value), "train800", 0, settings) / RESULT_FILE)
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


def measured(name: str, data: Path, row: Row, seeds: int, epochs: int) -> list[dict[str, Any]]:
    """Test accuracy and bytes with every number of bits."""
    value = chosen(name, data, row, epochs)
    settings = {"epochs": epochs, **row.training(value)}
    runs = [run(name, data, row.text(value), "train800val200", seed, settings) for seed in range(seeds)]
    found = []
    for bits in row.bits:
        places = runs if bits == row.bits[0] else [stored(directory, bits) for directory in runs]
        accuracies = [evaluate(place, data).evaluation.accuracy for place in places]
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
    lines = [
        "# Few bits",
        "",
        f"Built-in backbone, {document['seeds']} seeds, {document['epochs']} epochs: mean and standard deviation of",
        "test accuracy in %. File: the adapter with its float32 head. Made by `python -m benchmarks.low_bit`, whose",
        "head has the protocol; every number is in [low_bit.json](low_bit.json).",
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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--sets", nargs="+", default=["caltech101", "cifar10"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    found = []
    for name in options.sets:
        data = data_set(name, options.root, WORK / "data")
        for row in rows():
            found += measured(name, data, row, options.seeds, options.epochs)
    document = {
        "seeds": options.seeds,
        "epochs": options.epochs,
        "machine": machine(),
        "versions": versions(),
    }
    document["rows"] = found
    text = page(document)
    replace_file(
        RESULTS / "low_bit.json", lambda path: path.write_text(json.dumps(document, indent=1) + "\n")
    )
    replace_file(RESULTS / "low_bit.md", lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
