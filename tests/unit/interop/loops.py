"""A few synthetic images, a small ViT, and what a plain loop makes of them: what other loops must give, too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from tests.contract.families import backbone
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

import vitune
from vitune.methods import Policy, Run, parse
from vitune.training import moments

BATCH = 4
STEPS = 3
LR = 0.05


class Images(Dataset[dict[str, Tensor]]):
    """Image and label i are functions of i."""

    def __init__(self, size: tuple[int, int, int]) -> None:
        generator = torch.Generator().manual_seed(5)
        self.images = torch.randn(BATCH * STEPS, *size, generator=generator)
        self.labels = torch.arange(BATCH * STEPS) % 3

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[i], "labels": self.labels[i]}

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.images.split(BATCH), self.labels.split(BATCH), strict=True))


def tuned(text: str, family: str = "plain", policy: Any = None) -> vitune.Tuned:
    made = vitune.apply(backbone(family), parse(text))
    if policy is not None:
        made.policies = (policy,)
    return made


def data_of(made: vitune.Tuned) -> Images:
    return Images(made.anatomy.input_size)


def plain_loop(made: vitune.Tuned, stages: int = 1) -> dict[str, Tensor]:
    """One epoch a stage of SGD, as `vitune.training.moments` says; what training changed."""
    batches, policies, step = data_of(made).batches(), made.policies, 0
    moments.begin(policies, Run(0, LR, STEPS, batches))
    moments.prepare(policies, batches)
    made.model.train()
    for stage in range(stages):
        optimizer = torch.optim.SGD(made.parameters(), lr=LR)
        for images, labels in batches:
            moments.before_step(policies, step)
            for loss in moments.losses(policies, made, images, labels, F.cross_entropy):
                loss.backward()
            moments.after_backward(policies)
            optimizer.step()
            optimizer.zero_grad()
            moments.after_step(policies)
            step += 1
        assert moments.next_stage(policies) is (stage + 1 < stages)
    return made.state()


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.cpu(), expected[name], rtol=1e-4, atol=1e-6, msg=name)


class Diary(Policy):
    """Notes the moments, and wants some stages."""

    def __init__(self, stages: int = 1) -> None:
        self.notes: list[str] = []
        self.left = stages
        self.seen = 0

    def begin(self, run: Run) -> None:
        self.notes.append(f"begin {run.steps}")

    def prepare(self, batches: Any) -> None:
        self.notes.append(f"prepare {sum(len(labels) for _, labels in batches)}")

    def before_step(self, step: int) -> None:
        self.notes.append(f"step {step}")

    def after_backward(self) -> None:
        self.notes.append("backward")

    def after_step(self) -> None:
        self.notes.append("stepped")

    def next_stage(self) -> bool:
        self.left -= 1
        self.notes.append("end")
        return self.left > 0

    def state_dict(self) -> dict[str, Any]:
        return {"left": self.left, "seen": torch.tensor(7)}

    def load_state_dict(self, state: Any) -> None:
        self.left, self.seen = state["left"], int(state["seen"])


def notes(stages: int = 1, steps: int = STEPS) -> list[str]:
    """What a diary holds after so many stages."""
    found = [f"begin {steps}", f"prepare {BATCH * STEPS}"]
    for stage in range(stages):
        for step in range(stage * steps, (stage + 1) * steps):
            found += [f"step {step}", "backward", "stepped"]
        found.append("end")
    return found


class OwnLoss(Policy):
    """Twice the loss."""

    def loss(self, logits: Tensor, targets: Tensor, criterion: Any) -> Tensor:
        return 2 * criterion(logits, targets)


class TwoPasses(Policy):
    """The images, then the images upside down."""

    passes = 2

    def losses(self, forward: Any, images: Tensor, targets: Tensor, criterion: Any) -> Iterator[Tensor]:
        yield criterion(forward(images), targets)
        yield 0.5 * criterion(forward(images.flip(2)), targets)
