"""Exact costs of every method on one backbone, counted without running it.

    python -m benchmarks.costs [--model vit_base_patch16_224] [--batch-size 8] [--classes 100]

Writes benchmarks/results/costs.json and costs.md. Nothing here depends on the machine.
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
from vitune.adapters import stored_bytes
from vitune.lean import LEVELS
from vitune.measure import count_flops, saved_activation_bytes, versions, weightless_copy
from vitune.methods import parse

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
    "vpt(prompts=10)",
    "e2vpt(prompts=10)",
    "sct",
    "bi_adaptformer(bottleneck=8,dropout=0)",
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
    "vpt(prompts=10)": 722.3,
    "e2vpt(prompts=10)": 738.1,
    "hst": 1267.0,
}
RESULTS = Path(__file__).parent / "results"


def cost(model_name: str, method: str, batch_size: int, classes: int) -> dict[str, Any]:
    """Count one method at every memory level: a training step on a batch of images."""
    with torch.device("meta"):
        model = timm.create_model(model_name, num_classes=classes)
    tuned = vitune.apply(model, parse(method), check=False)
    summary = tuned.costs()
    channels, height, width = tuned.anatomy.input_size
    saved: dict[str, float] = {}
    gflops: dict[str, float] = {}
    for level in LEVELS:
        tuned.memory = level
        with weightless_copy(model) as twin:
            images = torch.zeros(batch_size, channels, height, width)
            labels = torch.zeros(batch_size, dtype=torch.long)

            def loss(net: torch.nn.Module) -> torch.Tensor:
                return F.cross_entropy(net(images), labels)  # noqa: B023 (called at once)

            kept = saved_activation_bytes(twin.train(), loss, ignore=[labels])
            step = count_flops(lambda: loss(twin).backward())
        saved[level] = round(kept.bytes / 2**20, 1)
        gflops[level] = round(step / batch_size / 1e9, 2)
    return {
        "method": method,
        "parameters": summary.method_parameters,
        "head_parameters": summary.head_parameters,
        "adapter_mb": round(stored_bytes(tuned) / 1e6, 3),
        "saved_activation_mib": saved,
        "step_gflops_per_image": gflops,
    }


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
    lines = [
        f"`{options.model}`, batch {options.batch_size}, {options.classes} classes, fp32. Saved: MiB that autograd",
        "keeps between forward and backward, at each memory level. GFLOPs: of a training step, per image, two per",
        "multiply-add, what is computed again included. Made by `python -m benchmarks.costs`.",
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
            f"`{row['method']}`",
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
