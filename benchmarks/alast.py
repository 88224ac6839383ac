"""What steps of ALaST and of the random suffix cost, beside full fine-tuning: counted over a grid, and measured.

    python -m benchmarks.alast costs [--model vit_base_patch16_224] [--classes 100]
    python -m benchmarks.alast time [--model ...] [--batch-size 8] [--rounds 3] [--peak]

`costs` depends on no machine: the formula of `vitune.methods.alast.alast_costs`, which tests hold equal to counted
operations and saved storages. `time` wants a quiet machine; it times, counts and, with `--peak`, measures the memory of
one step each in a process of its own, beside full fine-tuning as torch does it (stock) and as this library does it
(fast). What accuracy is kept: `python -m benchmarks.alast_accuracy`.

Writes benchmarks/results/alast_costs.json, alast_time.json and alast_time.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

import vitune
from vitune.anatomy import anatomy
from vitune.backbones import create
from vitune.durable import replace_file
from vitune.lean import Level
from vitune.measure import (
    compare_seconds,
    count_model_flops,
    machine,
    peak_memory,
    saved_activation_bytes,
    versions,
)
from vitune.methods import parse
from vitune.methods.alast import BlockShape, alast_costs
from vitune.methods.alast.selection import kept_patches
from vitune.tasks.costing import load_framework

RESULTS = Path(__file__).parent / "results"
SHARES, BUDGETS = (1.0, 0.75, 0.5, 0.25), (1.0, 0.95, 0.9, 0.85, 0.8)


def tokens_of(budget: float, shape: BlockShape, depth: int) -> list[int]:
    """Tokens that enter each block under equal budgets."""
    patches, found = shape.patches, []
    for _ in range(depth):
        found.append(shape.prefix + patches)
        patches = kept_patches(budget, patches)
    return found


def costs(model_name: str, classes: int) -> list[dict[str, Any]]:
    """Mean over all ways to draw the blocks, beside full fine-tuning."""
    with torch.device("meta"):
        found = anatomy(create(model_name, num_classes=classes, pretrained=False))
    shape, depth = BlockShape.of(found), len(found.blocks)
    full = alast_costs(shape, tokens_of(1.0, shape, depth), range(depth))
    rows = []
    for share, budget, embeddings in itertools.product(SHARES, BUDGETS, (True, False)):
        drawn = list(itertools.combinations(range(depth), round(share * depth)))
        tokens = tokens_of(budget, shape, depth)
        each = [alast_costs(shape, tokens, blocks, train_embeddings=embeddings) for blocks in drawn]
        flops = sum(cost.step_flops for cost in each) / len(each)
        saved = sum(cost.saved_bytes for cost in each) / len(each)
        rows.append(
            {
                "trained_blocks": round(share * depth),
                "budget": budget,
                "train_embeddings": embeddings,
                "step_gflops_per_image": flops / 1e9,
                "saved_mib_per_image": saved / 2**20,
                "flops_reduction": full.step_flops / flops,
                "saved_reduction": full.saved_bytes / saved,
                "tokens_in_last_block": tokens[-1],
            }
        )
    return rows


def timed_settings(depth: int) -> list[tuple[str, str, Level]]:
    """What `time` compares, for a backbone of so many blocks: words, methods, memory level."""
    flat = "alast(budget_rule=flat,initial_budget={budget},k={k})".format
    most, half, quarter = round(0.75 * depth), depth // 2, depth // 4
    found: list[tuple[str, str, Level]] = []

    def add(words: str, text: str, *levels: Level) -> None:
        found.extend((words, text, level) for level in levels)

    add("full fine-tuning", "full", "stock", "fast")
    for b in BUDGETS:
        add(f"budget {b:g}, K = {most}", flat(budget=b, k=most), "fast")
    add(f"budget 0.85, K = {most}", flat(budget=0.85, k=most), "stock")
    add(f"budget 0.85, K = {half}", flat(budget=0.85, k=half), "fast")
    moved = "alast(budget_timing=current,budget_lr=0.0)"
    add(f"budget 0.9, K = {most}, moved in the forward pass", moved, "fast")
    add(
        f"random suffix, mean step ({quarter} blocks)",
        f"suffix(k={quarter},deepest={quarter})",
        "stock",
        "fast",
    )
    add(f"random suffix, deepest step ({half} blocks)", f"suffix(k={half},deepest={half})", "fast")
    return found


def step_times(model_name: str, batch_size: int, rounds: int, peak: bool) -> list[dict[str, Any]]:
    """Seconds of a training step, optimizer included, in interleaved rounds, and what else it costs."""
    with torch.device("meta"):
        depth = len(anatomy(create(model_name, num_classes=100, pretrained=False)).blocks)
    settings = timed_settings(depth)
    steps: dict[str, Callable[[], None]] = {}
    rows = []
    for words, text, level in settings:
        steps[f"{words}, {level}"], counted = _step(text, level, model_name, batch_size)
        rows.append({"what": words, "method": text, "level": level, **counted})
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else None
    timing = compare_seconds(steps, rounds=rounds, warmup=0, synchronize=synchronize)
    for row, name in zip(rows, steps, strict=True):
        row["seconds"] = timing[name].median
        for other in ("stock", "fast"):
            ratio = timing[name].ratio_to(timing[f"full fine-tuning, {other}"])
            row[f"time_over_full_{other}"] = [round(x, 3) for x in (ratio.median, ratio.low, ratio.high)]
    steps.clear()
    for row in rows if peak else []:
        if "budget" in row["what"] and "0.85" not in row["what"]:
            continue
        step = partial(_hold_a_step, row["method"], row["level"], model_name, batch_size)
        row["peak_mib"] = round(
            (peak_memory(step, before=load_framework).increase - row["weight_bytes"]) / 2**20, 1
        )
    return rows


def _prepared(text: str, level: Level, model_name: str, batch_size: int) -> tuple[vitune.Tuned, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = create(model_name, num_classes=100, pretrained=False).to(device)
    tuned = vitune.apply(model, parse(text))
    tuned.memory = level
    tuned.model.train()
    images = torch.randn(batch_size, *tuned.anatomy.input_size, device=device)
    labels = torch.arange(batch_size, device=device)

    def loss(model: torch.nn.Module) -> torch.Tensor:
        return F.cross_entropy(model(images), labels)

    return tuned, loss


def _hold_a_step(text: str, level: Level, model_name: str, batch_size: int) -> None:
    """Forward and backward, with the gradients at the end."""
    tuned, loss = _prepared(text, level, model_name, batch_size)
    for policy in tuned.policies:
        policy.before_step(0)
    loss(tuned.model).backward()


def _step(
    text: str, level: Level, model_name: str, batch_size: int
) -> tuple[Callable[[], None], dict[str, Any]]:
    tuned, loss = _prepared(text, level, model_name, batch_size)
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=1e-5)
    count = itertools.count()

    def run() -> None:
        number = next(count)
        for policy in tuned.policies:
            policy.before_step(number)
        loss(tuned.model).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for policy in tuned.policies:
            policy.after_step()

    run()  # budgets and layers are chosen
    counted = {
        "saved_mib": round(saved_activation_bytes(tuned.model, loss).bytes / 2**20, 1),
        "gflops_per_image": round(count_model_flops(tuned.model, tuned.anatomy.input_size).step / 1e9, 3),
        "weight_bytes": sum(p.numel() * p.element_size() for p in tuned.model.parameters()),
    }
    return run, counted


def time_page(documents: dict[str, Any]) -> str:
    """The tables of all backbones that were measured.

    Args:
        documents: By backbone.
    """
    parts = [_TIME_HEAD]
    for name, document in documents.items():
        rows, settings = document["rows"], document["settings"]
        stock, fast = (
            next(r for r in rows if (r["method"], r["level"]) == ("full", x)) for x in ("stock", "fast")
        )
        device = document["machine"]["gpus"] or f"{document['machine']['cpu']}, one thread"
        lines = [
            f"## {name}",
            "",
            f"Batch {settings['batch_size']}, float32, {settings['rounds']} rounds, {device}.",
            "",
            "| step | level | time | FLOPs | saved | peak | time to fast | FLOPs to fast | saved to fast |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            told = [f"{row['time_over_full_stock'][0]:.2f}"]
            told += [f"{row[key] / stock[key]:.2f}" for key in ("gflops_per_image", "saved_mib")]
            told += [f"{row['peak_mib'] / stock['peak_mib']:.2f}" if "peak_mib" in row else ""]
            told += [f"{row['time_over_full_fast'][0]:.2f}"]
            told += [f"{row[key] / fast[key]:.2f}" for key in ("gflops_per_image", "saved_mib")]
            lines.append(f"| {row['what']} | {row['level']} | {' | '.join(told)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


_TIME_HEAD = """# Steps of ALaST and of the random suffix

Shares of a step of full fine-tuning: as torch does it (`stock`), and in the last three columns as this library does
it (`fast`). Time: medians of interleaved rounds, optimizer included. FLOPs: counted, what is made again included.
Saved: what autograd keeps between forward and backward, without weights. Peak: most memory of a step in a process of
its own, gradients included, weights not. Made by `python -m benchmarks.alast time`."""


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("costs", "time"):
        parts.add_parser(name).add_argument("--model", default="vit_base_patch16_224")
    parts.choices["costs"].add_argument("--classes", type=int, default=100)
    parts.choices["time"].add_argument("--batch-size", type=int, default=8)
    parts.choices["time"].add_argument("--rounds", type=int, default=3)
    parts.choices["time"].add_argument("--peak", action="store_true", help="measure the memory, too")
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    document: dict[str, Any] = {"settings": vars(options), "versions": versions(), "machine": machine()}
    path = RESULTS / f"alast_{options.part}.json"
    if options.part == "costs":
        document["rows"] = costs(options.model, options.classes)
    else:
        torch.set_num_threads(1)
        document["rows"] = step_times(options.model, options.batch_size, options.rounds, options.peak)
        before = json.loads(path.read_text()) if path.exists() else {}
        document = before | {options.model: document}  # each backbone is timed by itself
        page = time_page(document)
        replace_file(RESULTS / "alast_time.md", lambda temporary: temporary.write_text(page))
        print(page)
    text = json.dumps(document, indent=1) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text))


if __name__ == "__main__":
    main()
