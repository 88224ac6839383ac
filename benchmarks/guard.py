"""A guard against numbers that move unnoticed: accuracies, exact costs and file sizes of every method.

    python -m benchmarks.guard [--update] [--methods ssf lora]

Trains every method for a few steps: built-in backbone at 32 x 32, 200 digits, judged on 200 others. What comes out
is compared with benchmarks/results/guard.json, which lies in the repository: a change that moves a number fails here
until the file is made anew (`--update`) in the same commit. A minute or two; continuous integration runs it too, as
tests/unit/test_guard.py.

Counts and bytes must be equal to the last digit. Where a method decides by what it sees which parts it trains, they may
differ by a hundredth, since the last bits of gradients depend on the processor. Accuracies may differ by six images.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitune.data.digits import write_digits
from vitune.measure.machine import machine, versions
from vitune.methods import all_methods, parse
from vitune.tasks.request import DataSettings, ModelSettings, TrainRequest
from vitune.tasks.run_directory import write_json
from vitune.tasks.train import train
from vitune.training import TrainConfig
from vitune.training.advice import learning_rate

RESULT = Path(__file__).parent / "results" / "guard.json"
AGAIN = "python -m benchmarks.guard --update"
FORMAT = 1
TRAIN, VALIDATION = 200, 200
IMAGE_SIZE = 32
# Steps are few: so the default learning rates, which are for twenty epochs, are taken so many times.
LR_FACTOR = 4.0
LR_FACTORS = {"sct": 1.0}  # its own default is high
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 20,
    "warmup_epochs": 0.5,
    "augment": "none",
    "select": "last",
    "eval_every": 3,
    "precision": "fp32",
    "device": "cpu",
    "workers": 0,
    "checkpoint_minutes": None,
}
# Settings that differ in kind from the defaults.
FURTHER = ("lora(roles=all-linear)", "ssf,bitfit")
# What they train, or compute, they decide while they look at data.
DECIDING = ("spt", "alast", "dyt", "e2vpt")
TOLERANCES = {"accuracy": 0.03, "costs": 0.0, "costs of deciding methods": 0.01}
COSTS = (
    "trained_parameters",
    "head_parameters",
    "total_parameters",
    "adapter_bytes",
    "saved_activation_bytes",
    "flops_per_image",
)


def guarded() -> tuple[str, ...]:
    """The methods as text: all there are, with their default settings, and a few more."""
    return (*sorted(all_methods()), *FURTHER)


def make_data(folder: Path) -> Path:
    """Write the digits; returns their folder."""
    write_digits(folder / "digits", 0, train=TRAIN, validation=VALIDATION)
    return folder / "digits"


def measure(method: str, data: Path, folder: Path) -> dict[str, Any]:
    """Train one method and read its numbers.

    Args:
        method: As the command line spells it.
        data: From `make_data`.
        folder: Where the run may go.
    """
    out = folder / "".join(letter if letter.isalnum() else "-" for letter in method)
    factor = LR_FACTORS.get(method, LR_FACTOR)
    request = TrainRequest(
        data=DataSettings(path=data),
        model=ModelSettings(img_size=IMAGE_SIZE),
        method=method,
        training=TrainConfig(**SETTINGS, lr=factor * learning_rate(TrainConfig(), parse(method))),
        out=out,
    )
    result = train(request).result
    return {
        "accuracy": result["metrics"]["val"]["accuracy"],
        **{name: result["costs"][name] for name in COSTS},
        "file_bytes": (out / "adapter_model.safetensors").stat().st_size,
    }


def differences(method: str, stored: Mapping[str, Any] | None, found: Mapping[str, Any]) -> list[str]:
    """What moved beyond its tolerance, a sentence each.

    Args:
        method: Which one.
        stored: Its numbers in the repository; None where it has none.
        found: Its numbers now.
    """
    if stored is None:
        return [f"{method}: not in {RESULT.name}"]
    moved = []
    for name in dict.fromkeys((*stored, *found)):
        before, now = stored.get(name), found.get(name)
        if not _same(method, name, before, now):
            change = "" if not before or now is None else f" ({100 * (now - before) / before:+.2f} %)"
            moved.append(f"{method}: {name} was {before} and is {now}{change}")
    return moved


def _same(method: str, name: str, before: float | None, now: float | None) -> bool:
    if before is None or now is None:
        return before is now
    if name == "accuracy":
        return abs(now - before) <= TOLERANCES["accuracy"] + 1e-9
    deciding = any(word in method for word in DECIDING)
    return abs(now - before) <= TOLERANCES["costs of deciding methods" if deciding else "costs"] * before


def read_stored() -> dict[str, dict[str, Any]]:
    """The numbers in the repository, by method; none before they are written for the first time."""
    return json.loads(RESULT.read_text())["methods"] if RESULT.is_file() else {}


def write_stored(methods: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace the numbers in the repository."""
    images = {"data": "scikit-learn digits", "train": TRAIN, "validation": VALIDATION, "size": IMAGE_SIZE}
    protocol = {**images, "lr_factor": LR_FACTOR, "lr_factors": LR_FACTORS, "settings": SETTINGS}
    known = {"format": FORMAT, "command": AGAIN, "protocol": protocol, "tolerances": TOLERANCES}
    write_json(RESULT, {**known, "versions": versions(), "machine": machine(), "methods": dict(methods)})


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="write the numbers in place of the stored ones")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="only these")
    options = parser.parse_args()
    if unknown := set(options.methods or ()) - set(guarded()):
        parser.error(f"not guarded: {', '.join(sorted(unknown))}; known: {', '.join(guarded())}")
    stored, moved, found = read_stored(), [], {}
    with tempfile.TemporaryDirectory() as name:
        data = make_data(Path(name))
        for method in options.methods or guarded():
            found[method] = measure(method, data, Path(name))
            print(f"{method:24} {_line(found[method])}", flush=True)
            moved += differences(method, stored.get(method), found[method])
    if options.methods is None:
        moved += [f"{method}: in {RESULT.name}, but no longer a method" for method in stored.keys() - found]
    print("\n".join(["", *moved]) if moved else "\nnothing moved")
    if options.update:
        everything = {**stored, **found} if options.methods else found
        write_stored({method: everything[method] for method in guarded() if method in everything})
        return 0
    if moved:
        print(f"\nif that is meant, store the new numbers in the same commit: {AGAIN}")
    return 1 if moved else 0


def _line(numbers: Mapping[str, Any]) -> str:
    return (
        f"{100 * numbers['accuracy']:5.1f} %  {numbers['trained_parameters']:>9,} parameters  "
        f"{numbers['saved_activation_bytes'] / 1e6:7.1f} MB saved  {numbers['file_bytes']:>9,} bytes on disk"
    )


if __name__ == "__main__":
    sys.exit(main())
