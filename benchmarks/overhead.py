"""What the training loop costs beside a bare PyTorch loop: images per second, both in one run.

    python -m benchmarks.overhead [--rounds 7] [--images 1024]

Same model, same data pipeline, same optimizer, same batches in both; rounds alternate and medians are compared.
Writes benchmarks/results/overhead.json. The ratio (vitune / bare) is to be at least 0.95.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

import vitune
from vitune.backbones import BUILT_IN, create
from vitune.data import EpochSampler, collate
from vitune.measure import compare_seconds, machine, versions
from vitune.training.config import TrainConfig
from vitune.training.data import FitData
from vitune.training.loop import fit

RESULT = Path(__file__).parent / "results" / "overhead.json"
LR, BATCH = 1e-4, 64


class Images(Dataset[tuple[Tensor, int, int]]):
    """Random images in memory, so that reading files does not hide the loop's own cost."""

    def __init__(self, count: int, size: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(count, 3, size, size, generator=generator)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int]:
        _, index = key
        return self.pixels[index], index % 10, index


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=1024)
    options = parser.parse_args()
    data = Images(options.images, 64)

    def bare() -> None:
        model = create(None, num_classes=10).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=1e-4)
        order = EpochSampler(len(data), 0, BATCH, drop_last=True, epoch=0)
        for images, labels, _ in DataLoader(data, batch_sampler=order, collate_fn=collate):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    def ours() -> None:
        tuned = vitune.apply(create(None, num_classes=10), vitune.Full(), check=False)
        config = TrainConfig(
            epochs=1,
            lr=LR,
            batch_size=BATCH,
            schedule="constant",
            warmup_epochs=0,
            workers=0,
            precision="fp32",
        )
        fit(tuned, FitData(data, None, 10), config)

    timings = compare_seconds({"bare": bare, "vitune": ours}, rounds=options.rounds, warmup=1)
    ratio = timings["bare"].ratio_to(timings["vitune"])
    document = {
        "model": BUILT_IN,
        "settings": {**vars(options), "batch_size": BATCH, "method": "full", "precision": "fp32"},
        "images_per_second": {name: options.images / timing.median for name, timing in timings.items()},
        "ratio": {"median": ratio.median, "low": ratio.low, "high": ratio.high},
        "versions": versions(),
        "machine": machine(),
    }
    RESULT.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps({key: document[key] for key in ("images_per_second", "ratio")}, indent=1))


if __name__ == "__main__":
    main()
