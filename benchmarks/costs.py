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
    "lora,adaptformer(bottleneck=8,dropout=0)",
)
RESULTS = Path(__file__).parent / "results"


def cost(model_name: str, method: str, batch_size: int, classes: int) -> dict[str, Any]:
    """Count one method: a training step on a batch of images."""
    with torch.device("meta"):
        model = timm.create_model(model_name, num_classes=classes)
    tuned = vitune.apply(model, parse(method), check=False)
    summary = tuned.costs()
    channels, height, width = tuned.anatomy.input_size
    with weightless_copy(model) as twin:
        images = torch.zeros(batch_size, channels, height, width)
        labels = torch.zeros(batch_size, dtype=torch.long)

        def loss(net: torch.nn.Module) -> torch.Tensor:
            return F.cross_entropy(net(images), labels)

        saved = saved_activation_bytes(twin.train(), loss, ignore=[labels])
        step = count_flops(lambda: loss(twin).backward())
    return {
        "method": method,
        "parameters": summary.method_parameters,
        "head_parameters": summary.head_parameters,
        "adapter_mb": round(4 * summary.trained_parameters / 1e6, 3),
        "saved_activation_mib": round(saved.bytes / 2**20, 1),
        "step_gflops_per_image": round(step / batch_size / 1e9, 2),
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
    base = rows[0]
    lines = [
        f"`{options.model}`, batch {options.batch_size}, {options.classes} classes, fp32. Saved activations: what",
        "autograd keeps between forward and backward. FLOPs: 2 per multiply-add, forward and backward of one",
        "training step.",
        "Made by `python -m benchmarks.costs`.",
        "",
        "| method | trained parameters (head apart) | adapter with head, MB | saved activations, MiB | x full "
        "| GFLOPs per image | x full |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = row["saved_activation_mib"] / base["saved_activation_mib"]
        flops = row["step_gflops_per_image"] / base["step_gflops_per_image"]
        lines.append(
            f"| `{row['method']}` | {row['parameters']:,} | {row['adapter_mb']} | {row['saved_activation_mib']} "
            f"| {memory:.2f} | {row['step_gflops_per_image']} | {flops:.2f} |"
        )
    (RESULTS / "costs.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
