"""What one more block keeps for the backward pass under torch.compile, beside eager mode.

    python -m benchmarks.compiled [--methods full lora] [--backends aot_eager inductor]

A small ViT of one block and of two, float32: the difference is a block's, in activations of the stream (tokens times
channels times four bytes), for every memory level that acts under the compiler. Depends on the compiler's release, not
on the machine; inductor needs a C++ compiler. Writes benchmarks/results/compiled.json and compiled.md.
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
from vitune.durable import replace_file
from vitune.lean import Level
from vitune.measure import saved_activation_bytes, versions
from vitune.methods import parse

RESULTS = Path(__file__).parent / "results"
LEVELS: tuple[Level, ...] = ("stock", "fast", "lean", "leaner")
BATCH, SIZE, PATCH, WIDTH = 2, 32, 4, 64
STREAM = BATCH * ((SIZE // PATCH) ** 2 + 1) * WIDTH * 4


def kept(method: str, level: Level, backend: str | None, depth: int) -> int:
    """Bytes kept by a step of a model of so many blocks; `backend` None is eager mode."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    shape: dict[str, Any] = {"img_size": SIZE, "patch_size": PATCH, "embed_dim": WIDTH, "num_heads": 4}
    model = timm.create_model("vit_tiny_patch16_224", depth=depth, num_classes=3, **shape).train()
    tuned = vitune.apply(model, parse(method), check=False)
    tuned.memory = level
    if backend is not None:
        tuned.model.compile(backend=backend, fullgraph=True)
    images, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.arange(BATCH)

    def loss(net: torch.nn.Module) -> torch.Tensor:
        return F.cross_entropy(net(images), labels)

    return saved_activation_bytes(tuned.model, loss, ignore=[images, labels]).bytes


def main() -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=["full", "lora"])
    parser.add_argument("--backends", nargs="+", default=["aot_eager", "inductor"])
    options = parser.parse_args()
    rows = []
    lines = [
        "# What a block keeps under torch.compile",
        "",
        f"Activations of the stream per block of a ViT of width {WIDTH} (torch {torch.__version__}).",
        "Made by `python -m benchmarks.compiled`.",
        "",
        "| method | level | eager | " + " | ".join(options.backends) + " |",
        "|---|---|---|" + "---|" * len(options.backends),
    ]
    for method in options.methods:
        for level in LEVELS:
            found = {
                str(backend): (kept(method, level, backend, 2) - kept(method, level, backend, 1)) / STREAM
                for backend in (None, *options.backends)
            }
            rows.append({"method": method, "level": level, "streams_per_block": found})
            lines.append(f"| `{method}` | {level} | {' | '.join(f'{x:.2f}' for x in found.values())} |")
            print(lines[-1], flush=True)
    document = {"settings": vars(options), "versions": versions(), "rows": rows}
    for name, text in (
        ("compiled.json", json.dumps(document, indent=1) + "\n"),
        ("compiled.md", "\n".join(lines) + "\n"),
    ):
        replace_file(RESULTS / name, lambda temporary, text=text: temporary.write_text(text))


if __name__ == "__main__":
    main()
