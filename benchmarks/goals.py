"""Step and inference times at ViT-B/16 beside the goals that this project set itself, and beside the references.

    python -m benchmarks.goals [--rounds 5] [--only lora ssf ... [--anew]] [--clock cpu]

ViT-B/16, 224 pixels, batch 8, float32, 100 classes, random weights, one thread, on a CPU. Interleaved rounds; the
ratio of medians to stock full fine-tuning (steps: forward, loss, backward) or to the plain model (inference), with the
smallest and the largest ratio of a round. `--clock cpu` takes the CPU time of the process, which others on the machine
disturb less. "Reference" is what the authors' own code took, over the same baseline, on the machine of that
measurement.

DyT's inference keeps exactly half of the patch tokens in every layer: its gates' biases are set on the batch.
Writes benchmarks/results/goals.json and goals.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor
from torch.nn import functional as F

import vitune
from benchmarks.allocations import spt_400k
from vitune.durable import replace_file
from vitune.lean import Level
from vitune.measure import Timing, compare_seconds, machine, versions
from vitune.methods import parse
from vitune.methods.dyt.dispatch import Dispatch, recorded
from vitune.training import moments

MODEL, BATCH, CLASSES = "vit_base_patch16_224", 8, 100
RESULTS = Path(__file__).parent / "results"
PLAIN_STEP, PLAIN_INFERENCE = "full fine-tuning, stock", "plain model"


@dataclass(frozen=True)
class Row:
    """What is timed, and what it should not exceed.

    Attributes:
        name: As the table shows it.
        method: As the command line spells it.
        goal: Largest ratio to the baseline, or None.
        reference: The ratio of the authors' code, or None.
        level: Memory level.
    """

    name: str
    method: str
    goal: float | None
    reference: float | None = None
    level: Level = "fast"


STEPS = (
    Row("full", "full", 1.00),
    Row("full, lean", "full", None, level="lean"),
    Row("linear", "linear", None, 0.35),
    Row("bitfit", "bitfit", None, 0.70),
    Row("lora", "lora", 0.70, 0.72),
    Row("lora, lean", "lora", 0.80, level="lean"),
    Row("lora, leaner", "lora", 0.87, level="leaner"),
    Row("lora, leanest", "lora", 0.90, level="leanest"),
    Row("lora, all linear", "lora(roles=all-linear)", 0.75, 0.79),
    Row("ssf", "ssf", 0.70, 0.73),
    Row("adaptformer", "adaptformer(bottleneck=8,dropout=0)", 0.67, 0.67),
    Row("vpt", "vpt(prompts=10,dropout=0)", 0.70, 0.74),
    Row("e2vpt", "e2vpt(prompts=10,dropout=0)", 0.70, 0.74),
    Row("sct", "sct", 0.70, 0.71),
    Row("spt, LoRA, 400k", spt_400k("lora"), 0.75, 0.89),
    Row("spt, adapter, 400k", spt_400k("adapter"), 0.75, 0.94),
    Row("bi_adaptformer", "bi_adaptformer(bottleneck=32,dropout=0)", 0.70, 0.70),
    Row("bi_lora", "bi_lora(rank=32,dropout=0)", 0.70, 0.72),
    Row("hst", "hst", 0.78, 0.80),
    Row("dyt, two passes", "dyt(bottleneck=8,dropout=0)", 1.25, 1.34),
    Row("full, velora", "full,velora", None, 1.15),
    Row("lora, velora", "lora,velora", None, 0.71),
)
INFERENCE = (
    Row("dyt, half of the patches", "dyt(bottleneck=8,dropout=0)", 0.70, 0.70),
    Row("dyt, all computed and masked", "dyt(bottleneck=8,dropout=0)", None, 1.02),
    Row("adaptformer", "adaptformer(bottleneck=8,dropout=0)", None, 1.02),
)


def batch() -> tuple[Tensor, Tensor]:
    """Images of noise (8, 3, 224, 224) and labels (8,)."""
    images = torch.randn(BATCH, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return images, torch.arange(BATCH) % CLASSES


def tuned_model(row: Row) -> vitune.Tuned:
    """The backbone with random weights and the row's method on it."""
    torch.manual_seed(0)
    tuned = vitune.apply(timm.create_model(MODEL, num_classes=CLASSES), parse(row.method), check=False)
    tuned.memory = row.level
    return tuned


def step(row: Row) -> Callable[[], None]:
    """A training step without the optimizer's part, which depends on what trains and not on the method's code."""
    tuned = tuned_model(row)
    tuned.model.train()
    images, labels = batch()

    def run() -> None:
        moments.before_step(tuned.policies, 0)
        for loss in moments.losses(tuned.policies, tuned, images, labels, F.cross_entropy):
            loss.backward()
        tuned.model.zero_grad(set_to_none=True)

    return run


def inference(row: Row, *, dense: bool = False) -> Callable[[], Any]:
    """A forward pass without gradients."""
    tuned = tuned_model(row)
    tuned.model.eval()
    images, _ = batch()
    gates = [module for module in tuned.model.modules() if isinstance(module, Dispatch)]
    with torch.no_grad():
        for gate in gates:  # one after the other: each gate sees what the ones before it pass on
            with recorded([gate]) as notes:
                tuned(images)
            gate.score.bias -= notes[0][0].logits.median()
            gate.dense = dense

    def run() -> None:
        with torch.no_grad():
            tuned(images)

    return run


def measure(only: list[str], rounds: int, clock: str) -> dict[str, Any]:
    """All ratios, steps and inference each in interleaved rounds."""

    def wanted(row: Row) -> bool:
        return not only or any(row.name.startswith(name) for name in only)

    steps = {row: step(row) for row in STEPS if wanted(row)}
    passes = {row: inference(row, dense="masked" in row.name) for row in INFERENCE if wanted(row)}
    tables = {
        "step": (Row(PLAIN_STEP, "full", None, level="stock"), steps, step),
        "inference": (Row(PLAIN_INFERENCE, "linear", None, level="stock"), passes, inference),
    }
    found: dict[str, Any] = {}
    for name, (plain, functions, make) in tables.items():
        if functions:
            timed = {plain.name: make(plain)} | {row.name: function for row, function in functions.items()}
            timings = compare_seconds(timed, rounds=rounds)
            found[name] = [_numbers(row, timings, plain.name, clock == "cpu") for row in (plain, *functions)]
    return found


def _numbers(row: Row, timings: dict[str, Timing], base: str, cpu: bool) -> dict[str, Any]:
    timing, ratio = timings[row.name], timings[row.name].ratio_to(timings[base], cpu=cpu)
    return {
        **asdict(row),
        "seconds": timing.cpu_median if cpu else timing.median,
        "ratio": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
        "met": None if row.goal is None else ratio.median <= row.goal,
    }


def page(document: dict[str, Any]) -> str:
    """The table."""
    settings = document["settings"]
    heads = {"step": "step over stock full fine-tuning", "inference": "inference over the plain model"}
    lines = [
        "# Step and inference times beside their goals",
        "",
        f"`{MODEL}`, batch {BATCH}, float32, {CLASSES} classes, one thread; {settings['clock']} time, medians of "
        f"{settings['rounds']} interleaved rounds [smallest, largest ratio of a round]. Made by",
        "`python -m benchmarks.goals`; numbers, machine and versions in [goals.json](goals.json).",
    ]
    for part, head in heads.items():
        if part not in document:
            continue
        lines += ["", f"| {head} | ratio | goal | met | reference |", "|---|---:|---:|---|---:|"]
        for row in document[part]:
            goal, reference = (
                "" if value is None else f"{value:.2f}" for value in (row["goal"], row["reference"])
            )
            met = {None: "", True: "yes", False: "no"}[row["met"]]
            ratio = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            alone = f" (with few others, {row['rounds']} rounds)" if "rounds" in row else ""
            if "before" in row:
                first = row["before"]
                before = f"{first['ratio']:.2f} [{first['low']:.2f}, {first['high']:.2f}]"
                alone = f" (again with few others, {row['rounds']} rounds; in the run of all {before})"
            lines.append(f"| {row['name']}{alone} | {ratio} | {goal} | {met} | {reference} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[], help="first words of rows; they replace theirs")
    parser.add_argument("--anew", action="store_true", help="their code has changed: forget what they took")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    options = parser.parse_args()
    torch.set_num_threads(1)
    document: dict[str, Any] = {"settings": vars(options)}
    document |= measure(options.only, options.rounds, options.clock)
    document |= {"versions": versions(), "machine": machine()}
    if options.only:
        document = replaced(json.loads((RESULTS / "goals.json").read_text()), document, options.anew)
    texts = {"goals.json": json.dumps(document, indent=1) + "\n", "goals.md": page(document)}
    for name, text in texts.items():
        replace_file(RESULTS / name, lambda path, text=text: path.write_text(text))
    print(page(document))


def replaced(before: dict[str, Any], found: dict[str, Any], anew: bool) -> dict[str, Any]:
    """All rows, those of a smaller run in place of theirs, beside what stood there unless that was of other code.

    Ratios are to the run's own baseline.
    """
    document = dict(before)
    for part in ("step", "inference"):
        _, *new = found.get(part, [None])
        rounds = {"rounds": found["settings"]["rounds"]}
        again = {row["name"]: row | rounds for row in new}
        document[part] = [
            row
            if row["name"] not in again
            else again[row["name"]]
            if anew
            else again[row["name"]] | {"before": {key: row[key] for key in ("ratio", "low", "high")}}
            for row in before[part]
        ]
    return document


if __name__ == "__main__":
    main()
