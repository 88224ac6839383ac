"""Time of a training step and of inference, beside full fine-tuning of the same backbone in the same run.

    python -m benchmarks.step_time [--model NAME] [--batch-size 64] [--rounds 9] [--threads 1]

Interleaved rounds, ratios of medians; run it on a quiet machine. Writes benchmarks/results/step_time.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional as F

import vitune
from vitune.backbones import BUILT_IN, create
from vitune.measure import compare_seconds, machine, versions
from vitune.methods import parse

METHODS = (
    "full",
    "linear",
    "bitfit",
    "lora",
    "lora(roles=all-linear)",
    "ssf",
    "adaptformer(bottleneck=8,dropout=0)",
    "vpt(prompts=10)",
    "sct",
    "bi_lora(rank=32)",
    "hst",
)
RESULT = Path(__file__).parent / "results" / "step_time.json"


def step(method: str, model_name: str | None, batch_size: int, *, train: bool) -> Callable[[], None]:
    """A training step (forward, loss, backward, AdamW), or a forward pass without gradients."""
    tuned = vitune.apply(
        create(model_name, num_classes=100, pretrained=model_name is None), parse(method), check=False
    )
    channels, height, width = tuned.anatomy.input_size
    images = torch.randn(batch_size, channels, height, width, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(batch_size) % 100
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=1e-4)
    tuned.model.train(train)

    def run() -> None:
        if not train:
            with torch.no_grad():
                tuned(images)
            return
        loss = F.cross_entropy(tuned(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=None)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    document = {
        "model": options.model or BUILT_IN,
        "settings": vars(options) | {"precision": "fp32", "classes": 100},
    }
    for name, train in (("step", True), ("inference", False)):
        timings = compare_seconds(
            {method: step(method, options.model, options.batch_size, train=train) for method in METHODS},
            rounds=options.rounds,
            warmup=2,
        )
        ratios = {method: timing.ratio_to(timings["full"]) for method, timing in timings.items()}
        document[name] = {
            method: {"seconds": timings[method].median, "x_full": r.median, "low": r.low, "high": r.high}
            for method, r in ratios.items()
        }
    document |= {"versions": versions(), "machine": machine()}
    RESULT.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps({name: document[name] for name in ("step", "inference")}, indent=1))


if __name__ == "__main__":
    main()
