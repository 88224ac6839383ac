"""ALaST beside its controls: exact costs over a grid, step times, accuracy on real data.

    python -m benchmarks.alast costs [--model vit_base_patch16_224] [--classes 100]
    python -m benchmarks.alast time [--model ...] [--batch-size 8] [--rounds 5]
    python -m benchmarks.alast accuracy ROOT [--sets caltech101 cifar10] [--epochs 10]

`costs` depends on no machine: the formula of `vitune.methods.alast.alast_costs`, which tests hold equal to counted
operations and saved storages. `time` wants a quiet machine. `accuracy` chooses each learning rate on a validation
split and tests the choice with several seeds. What ALaST must beat: full fine-tuning with as many fewer steps, a flat
budget, random tokens, freezing alone, LoRA and a linear probe.

Writes benchmarks/results/alast_costs.json, alast_time.json and alast.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import timm
import torch
from torch.nn import functional as F

import vitune
from benchmarks.data_sets import data_set
from vitune.anatomy import anatomy
from vitune.backbones import BUILT_IN, read_card
from vitune.bench import Case, Column, SelectThenTest, TrialRunner, aggregate, run_protocol
from vitune.bench.table import markdown
from vitune.bench.train_trial import TrainTrial
from vitune.durable import replace_file
from vitune.lean import Level
from vitune.measure import compare_seconds, machine, saved_activation_bytes, versions
from vitune.methods import parse
from vitune.methods.alast import BlockShape, alast_costs
from vitune.methods.alast.selection import kept_patches

RESULTS = Path(__file__).parent / "results"
WORK = Path("runs") / "alast"
SHARES, BUDGETS = (1.0, 0.75, 0.5, 0.25), (1.0, 0.95, 0.9, 0.85, 0.8)

# Method -> learning rates; as many candidates for each.
FULL, ADAPTERS = (3e-4, 1e-3, 3e-3), (1e-3, 3e-3, 1e-2)
CONTROLS = {
    "full": FULL,
    "alast": FULL,
    "alast(budget_rule=flat,initial_budget=0.9)": FULL,
    "alast(budget_rule=flat,initial_budget=0.9,tokens=random)": FULL,
    "alast(budget_rule=flat,initial_budget=0.75,dropped=carried)": FULL,
    "alast(budget_rule=schedule,initial_budget=0.8,final_budget=0.95,dense_share=0.2)": FULL,
    "alast(budget_rule=target_flops,target_flops=0.55)": FULL,
    "alast(tokens=all)": FULL,
    "lora": ADAPTERS,
    "lora,alast(budget_rule=flat,initial_budget=0.9)": ADAPTERS,
    "linear": (3e-3, 1e-2, 3e-2),
}
COLUMNS = (
    Column("test accuracy, %", "metrics.test.accuracy", 100, 1),
    Column("lr", "lr", 1, 4),
    Column("saved activations, MB", "costs.saved_activation_bytes", 1e-6, 1),
)


def tokens_of(budget: float, shape: BlockShape, depth: int) -> list[int]:
    """Tokens that enter each block under equal budgets."""
    patches, found = shape.patches, []
    for _ in range(depth):
        found.append(shape.prefix + patches)
        patches = kept_patches(budget, patches)
    return found


def costs(model_name: str, classes: int) -> list[dict[str, Any]]:
    """Mean over all ways to draw the blocks (where these are many, over equally spaced ones), beside full tuning."""
    with torch.device("meta"):
        found = anatomy(timm.create_model(model_name, num_classes=classes))
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


def step_times(model_name: str, batch_size: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of a training step, optimizer included, in interleaved rounds, beside full fine-tuning as torch does it
    (stock) and as this library does it (fast), and the saved activations of the step."""
    settings: list[tuple[str, Level]] = [("full", "stock"), ("full", "fast")]
    settings += [(f"alast(budget_rule=flat,initial_budget={budget})", "fast") for budget in BUDGETS]
    settings += [("alast(budget_rule=flat,initial_budget=0.85)", "stock")]
    settings += [
        (f"alast(budget_timing={timing},budget_lr=0.0)", "fast") for timing in ("current", "previous")
    ]
    steps, saved = {}, {}
    for text, level in settings:
        name = f"{text}, {level}"
        steps[name], saved[name] = _step(text, level, model_name, batch_size)
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else None
    timing = compare_seconds(steps, rounds=rounds, warmup=0, synchronize=synchronize)
    rows = []
    for (text, level), name in zip(settings, steps, strict=True):
        row: dict[str, Any] = {"method": text, "level": level, "seconds": timing[name].median}
        for other in ("stock", "fast"):
            ratio = timing[name].ratio_to(timing[f"full, {other}"])
            row[f"time_over_full_{other}"] = [round(x, 3) for x in (ratio.median, ratio.low, ratio.high)]
            row[f"saved_over_full_{other}"] = round(saved[name] / saved[f"full, {other}"], 3)
        rows.append(row | {"saved_mib": round(saved[name] / 2**20, 1)})
    return rows


def _step(text: str, level: Level, model_name: str, batch_size: int) -> tuple[Any, int]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tuned = vitune.apply(timm.create_model(model_name, num_classes=100).to(device), parse(text))
    tuned.memory = level
    tuned.model.train()
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=1e-5)
    images = torch.randn(batch_size, *tuned.anatomy.input_size, device=device)
    labels = torch.arange(batch_size, device=device)
    count = itertools.count()

    def loss(model: torch.nn.Module) -> torch.Tensor:
        return F.cross_entropy(model(images), labels)

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
    saved = saved_activation_bytes(tuned.model, loss, ignore=[images, labels]).bytes
    return run, saved


def accuracy(root: Path, sets: list[str], epochs: int) -> str:
    """The table of the controls; may be killed and started again."""
    settings = {
        "epochs": epochs,
        "batch_size": 50,
        "augment": "none",
        "select": "last",
        "eval_every": epochs,
        "weight_decay": 1e-4,
        "warmup_epochs": 1,
        "precision": "fp32",
        "checkpoint_minutes": None,
    }
    trials = TrainTrial({name: data_set(name, root, WORK / "data") for name in sets})
    protocol = SelectThenTest(name=f"alast-{epochs}-{read_card().sha256[:8]}", settings=settings)
    runner = TrialRunner(WORK / "trials", trials.run, trials.open_data)
    cases = [
        Case(data=name, model=BUILT_IN, methods=method, grid=tuple({"lr": lr} for lr in rates))
        for name in sets
        for method, rates in CONTROLS.items()
    ]
    # The control that costs what ALaST saves: full fine-tuning with 55 % of the epochs.
    short = {"epochs": round(0.55 * epochs), "eval_every": round(0.55 * epochs)}
    cases += [
        Case(data=name, model=BUILT_IN, methods="full", grid=tuple({"lr": lr, **short} for lr in FULL))
        for name in sets
    ]
    outcomes = [o for result in run_protocol(runner, protocol, cases) for o in result.final]
    folder = RESULTS / "alast"
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for outcome in outcomes:
        target = folder / f"{outcome.trial.id}.json"
        target.write_bytes(outcome.path.read_bytes())
        kept.append(dataclasses.replace(outcome, path=target))
    table = markdown(aggregate(kept, COLUMNS), COLUMNS, RESULTS, heads=("data", "methods"))
    head = f"Backbone `{BUILT_IN}`, {epochs} epochs; see `benchmarks/alast.py`."
    return f"# ALaST and its controls\n\n{head}\n\n{table}\n"


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("costs", "time"):
        part = parts.add_parser(name)
        part.add_argument("--model", default="vit_base_patch16_224")
    parts.choices["costs"].add_argument("--classes", type=int, default=100)
    parts.choices["time"].add_argument("--batch-size", type=int, default=8)
    parts.choices["time"].add_argument("--rounds", type=int, default=5)
    real = parts.add_parser("accuracy")
    real.add_argument("root", type=Path)
    real.add_argument("--sets", nargs="+", default=["caltech101", "cifar10"])
    real.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    if options.part == "accuracy":
        text = accuracy(options.root, options.sets, options.epochs)
        replace_file(RESULTS / "alast.md", lambda temporary: temporary.write_text(text))
        print(text)
        return
    if options.part == "costs":
        rows: Any = costs(options.model, options.classes)
    else:
        torch.set_num_threads(1)
        rows = step_times(options.model, options.batch_size, options.rounds)
    document = {"settings": vars(options), "versions": versions(), "machine": machine(), "rows": rows}
    path = RESULTS / f"alast_{options.part}.json"
    if options.part == "time":  # each backbone is timed by itself
        before = json.loads(path.read_text()) if path.exists() else {}
        document = before | {options.model: document}
    text = json.dumps(document, indent=1) + "\n"
    replace_file(path, lambda temporary: temporary.write_text(text))
    print(text)


if __name__ == "__main__":
    main()
