"""Exact costs of every method on one backbone, counted without running it.

    python -m benchmarks.costs [--model vit_base_patch16_224] [--batch-size 8] [--classes 100]

Writes benchmarks/results/costs.json and costs.md, and what `vitune list methods` shows of every method with its default
settings. Nothing here depends on the machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import timm
import torch
from torch.nn import functional as F

import vitune
from benchmarks.allocations import spt_400k
from vitune.adapters import stored_bytes
from vitune.anatomy import logits
from vitune.durable import replace_file
from vitune.lean import LEVELS, Level
from vitune.measure import count_flops, saved_activation_bytes, versions, weightless_copy
from vitune.methods import KNOWN_COSTS, all_methods, parse
from vitune.training import moments

METHODS = (
    "full",
    "linear",
    "bitfit",
    "lora",
    "lora(roles=all-linear)",
    "ssf",
    "adaptformer(bottleneck=8,dropout=0)",
    "adaptformer(dropout=0)",
    "adapter(bottleneck=8)",
    "vpt(prompts=10,dropout=0)",
    "vpt(prompts=100,dropout=0)",
    "vpt(prompts=10,mode=shallow)",
    "e2vpt(prompts=10,dropout=0)",
    "sct",
    "sct(mode=mlp)",
    "sct(mode=qkv)",
    spt_400k("lora"),
    spt_400k("adapter"),
    "bi_adaptformer(bottleneck=8,dropout=0)",
    "bi_adaptformer(dropout=0)",
    "bi_lora(dropout=0)",
    "hst",
    "lora,adaptformer(bottleneck=8,dropout=0)",
)
# What the reference implementations keep for the same step, in MiB, where their code could be run. Measured with saved-
# tensor hooks in the same way, on the authors' own model code; see docs/memory.md.
REFERENCES = {
    "full": 901.5,
    "linear": 4.6,
    "bitfit": 569.1,
    "lora": 726.1,
    "lora(roles=all-linear)": 894.6,
    "ssf": 1297.0,
    "adaptformer(bottleneck=8,dropout=0)": 628.2,
    "adaptformer(dropout=0)": 632.2,
    "vpt(prompts=10,dropout=0)": 722.3,
    "vpt(prompts=10,mode=shallow)": 722.3,
    "e2vpt(prompts=10,dropout=0)": 738.1,
    "sct": 653.0,
    spt_400k("lora"): 1127.4,
    spt_400k("adapter"): 1134.2,
    "bi_adaptformer(dropout=0)": 636.5,
    "bi_lora(dropout=0)": 742.8,
    "hst": 1267.0,
}
RESULTS = Path(__file__).parent / "results"


# Methods whose plan depends on data, with the plan that is counted.
RESOLVED = {"spt": spt_400k("lora").replace("dropout=0,drop_path=0,", "")}
SHOWN: tuple[Level, ...] = ("stock", "fast", "lean")
MIB = 2**20


def saved(tuned: vitune.Tuned, level: Level, batch_size: int) -> tuple[int, int]:
    """Bytes kept for the backward pass at a memory level, and FLOPs of a training step on a batch."""
    tuned.memory = level
    kept, work = [], 0
    for setting in moments.pass_settings(
        tuned.policies
    ):  # the largest of several passes, one after the other
        with setting, weightless_copy(tuned.model) as twin:
            images = torch.zeros(batch_size, *tuned.anatomy.input_size)
            labels = torch.zeros(batch_size, dtype=torch.long)

            def loss(net: torch.nn.Module) -> torch.Tensor:
                return F.cross_entropy(logits(net, images), labels)  # noqa: B023 (called at once)

            kept.append(saved_activation_bytes(twin.train(), loss, ignore=[labels]).bytes)
            work += count_flops(lambda: loss(twin).backward())
    return max(kept), work


def tune(model_name: str, method: str, classes: int) -> vitune.Tuned:
    """A model without memory behind it."""
    with torch.device("meta"):
        model = timm.create_model(model_name, num_classes=classes)
    return vitune.apply(model, parse(method), check=False)


def cost(model_name: str, method: str, batch_size: int, classes: int) -> dict[str, Any]:
    """Count one method at every memory level: a training step on a batch of images."""
    tuned = tune(model_name, method, classes)
    summary = tuned.costs()
    counted = {level: saved(tuned, level, batch_size) for level in LEVELS}
    return {
        "method": method,
        "parameters": summary.method_parameters,
        "head_parameters": summary.head_parameters,
        "adapter_mb": round(stored_bytes(tuned) / 1e6, 3),
        "saved_activation_mib": {level: round(kept / MIB, 1) for level, (kept, _) in counted.items()},
        "step_gflops_per_image": {
            level: round(work / batch_size / 1e9, 2) for level, (_, work) in counted.items()
        },
    }


def default_costs(model_name: str, batch_size: int, classes: int) -> dict[str, Any]:
    """What every method costs with its default settings, for `vitune.methods.KNOWN_COSTS`."""
    found: dict[str, Any] = {}
    for name in all_methods():
        tuned = tune(model_name, RESOLVED.get(name, name), classes)
        kept = {level: round(saved(tuned, level, batch_size)[0] / MIB, 1) for level in SHOWN}
        found[name] = {"parameters": tuned.costs().method_parameters, "saved_activation_mib": kept}
    return {"model": model_name, "batch_size": batch_size, "classes": classes, "methods": found}


def short(method: str) -> str:
    """A method's text, without what would not fit into a table."""
    if len(method) <= len("bi_adaptformer(bottleneck=8,dropout=0)") + 8:
        return method
    return f"{method.partition(',structured=')[0]},...)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--classes", type=int, default=100)
    options = parser.parse_args()
    rows = [cost(options.model, method, options.batch_size, options.classes) for method in METHODS]
    RESULTS.mkdir(exist_ok=True)
    document = {"settings": vars(options), "versions": versions(), "rows": rows}
    (RESULTS / "costs.json").write_text(json.dumps(document, indent=1) + "\n")
    if options == parser.parse_args([]):
        known = default_costs(options.model, options.batch_size, options.classes)
        replace_file(KNOWN_COSTS, lambda path: path.write_text(json.dumps(known, indent=1) + "\n"))
    lines = [
        f"`{options.model}`, batch {options.batch_size}, {options.classes} classes, fp32. Saved: MiB that autograd",
        "keeps between forward and backward, at each memory level. GFLOPs: of a training step, per image, two per",
        "multiply-add, what is computed again included. Reference: what the authors' own code keeps for the same step.",
        "SPT: an allocation of 400,000 parameters of the shape of the released ones. Made by",
        "`python -m benchmarks.costs`.",
        "",
        "| method | trained, head apart | file, MB | "
        + " | ".join(f"{level}" for level in LEVELS)
        + " | reference "
        "| GFLOPs stock | fast | leaner |",
        "|---|---|---|" + "---|" * (len(LEVELS) + 4),
    ]
    for row in rows:
        saved, gflops = row["saved_activation_mib"], row["step_gflops_per_image"]
        reference = REFERENCES.get(row["method"], "") if options == parser.parse_args([]) else ""
        cells = [
            f"`{short(row['method'])}`",
            f"{row['parameters']:,}",
            row["adapter_mb"],
            *(saved[x] for x in LEVELS),
        ]
        cells += [reference, *(gflops[level] for level in ("stock", "fast", "leaner"))]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    (RESULTS / "costs.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
