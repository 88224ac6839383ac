"""Tune in a loop of one's own with Accelerate; the moments are there for methods that act during training.

    accelerate launch examples/accelerate_loop.py [METHOD]

Made-up images (class k is brighter in channel k), so that it needs no data; prints the loss of each epoch.
"""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import vitune
from vitune.backbones import create
from vitune.methods import Run, parse
from vitune.training import moments
from vitune.training.step import Logits

EPOCHS, LR = 3, 1e-3


def main(method: str = "lora(rank=4)") -> list[float]:
    """Train, and give the mean loss of each epoch."""
    torch.manual_seed(0)
    labels = torch.arange(48) % 3
    images = torch.randn(48, 3, 64, 64) + F.one_hot(labels)[:, :, None, None]
    history: list[float] = []

    tuned = vitune.apply(create("vitune_vit_nano_patch8_64", num_classes=3), parse(method))
    accelerator, policies = Accelerator(), tuned.policies
    loader = accelerator.prepare(DataLoader(TensorDataset(images, labels), batch_size=12, shuffle=True))
    moments.begin(policies, Run(seed=0, lr=LR, steps=EPOCHS * len(loader), batches=loader))
    moments.prepare(policies, loader)
    model, step, stage = accelerator.prepare(Logits(tuned)), 0, True
    while stage:
        optimizer = accelerator.prepare(torch.optim.AdamW(tuned.parameters(), lr=LR))
        for _ in range(EPOCHS):
            model.train()
            total = 0.0
            for inputs, targets in loader:
                moments.before_step(policies, step)
                for loss in moments.losses(policies, model, inputs, targets, F.cross_entropy):
                    accelerator.backward(loss)
                    total += loss.item() / len(loader)
                moments.after_backward(policies)
                optimizer.step()
                optimizer.zero_grad()
                moments.after_step(policies)
                step += 1
            history.append(total)
            accelerator.print(f"epoch {len(history)}: loss {total:.3f}")
        stage = moments.next_stage(policies)
    return history


if __name__ == "__main__":
    main(*sys.argv[1:])
