"""What every loop that is not ours has to do for the policies of a tuned model; the loops' own files say when."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitune.errors import TrainingError
from vitune.methods import Policy, Run
from vitune.training import moments
from vitune.training.step import check_gradients
from vitune.tuned import Tuned


class Batches:
    """A loader of another library as the (images, labels) batches that policies look at; iterated anew each time.

    Args:
        loader: The loader.
        read: Takes images (B, channels, height, width) and labels (B,) out of a batch.
        device: Where they go.
    """

    def __init__(
        self, loader: Iterable[Any], read: Callable[[Any], tuple[Tensor, Tensor]], device: torch.device
    ) -> None:
        self._loader, self._read, self._device = loader, read, device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with torch.random.fork_rng(devices=[]):  # looking at data must not change the training that follows
            for batch in self._loader:
                images, labels = self._read(batch)
                yield images.to(self._device), labels.to(self._device)


class Moments:
    """The policies of one tuned model while another loop trains it, through all stages.

    Args:
        tuned: The model.

    Attributes:
        another_stage: Whether a policy asked for one more stage when the last one ended.
    """

    def __init__(self, tuned: Tuned) -> None:
        self.tuned, self.another_stage = tuned, False
        self._begun = self._checked = False
        self._steps_before = 0

    def begin(self, run: Run, states: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Tell policies about the run and let them look at the data; in a later stage nothing happens.

        Args:
            run: The run, with batches.
            states: What `state_dicts` gave, where the run is resumed.
        """
        self.another_stage = False
        if self._begun:
            return
        moments.begin(self.tuned.policies, run)
        if states is None:
            moments.prepare(self.tuned.policies, run.batches or ())
        else:
            moments.load_state_dicts(self.tuned.policies, states)
        self._begun = True

    def before_step(self, step: int) -> None:
        """Let policies decide about a step.

        Args:
            step: Counted from 0 in this stage.
        """
        moments.before_step(self.tuned.policies, self._steps_before + step)

    def after_backward(self) -> None:
        """All gradients of a step are there.

        Raises:
            TrainingError: If a trained parameter has none in the first step.
        """
        moments.after_backward(self.tuned.policies)
        if not self._checked:
            check_gradients(self.tuned)
            self._checked = True

    def after_step(self) -> None:
        """The optimizer has stepped."""
        moments.after_step(self.tuned.policies)

    def end_stage(self, steps: int) -> None:
        """Ask policies for another stage.

        Args:
            steps: Steps of the stage that is over.
        """
        self._steps_before += steps
        self.another_stage = moments.next_stage(self.tuned.policies)

    def state_dicts(self) -> list[dict[str, Any]]:
        """What a checkpoint must hold of the policies."""
        return moments.state_dicts(self.tuned.policies)


def require_plain_loss(policies: Sequence[Any], instead: str) -> None:
    """Refuse policies whose loss or passes another loop would leave out without a word.

    Args:
        policies: The policies of a tuned model.
        instead: What makes them, for the error.

    Raises:
        TrainingError: If there is one.
    """
    for policy in policies:
        if getattr(policy, "passes", 0) or says(policy, "loss"):
            raise TrainingError(
                f"{type(policy).__name__} has a loss or passes of its own, which a callback cannot make; use {instead}."
            )


def says(policy: Any, moment: str) -> bool:
    """Whether a policy does something of its own at a moment."""
    own = getattr(type(policy), moment, None)
    return own is not None and own is not getattr(Policy, moment)
