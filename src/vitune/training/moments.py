"""The moments at which policies act, as plain functions that any training loop can call.

The order within a run is fixed:

    begin(run)                             once, when the run starts or is resumed
    prepare(batches)                       once, before the first step and before the optimizer is made
    for every stage:
        for every step:
            before_step(step)              may choose what this step trains and computes
            losses(model, images, targets) for every part of an accumulated batch: one loss, or one for each
                                           pass of a policy that makes passes of its own; each goes
                                           backward before the next is asked for
            after_backward()               all gradients are there, not clipped yet
            (clip, optimizer step)
            after_step()
        next_stage()                       True asks for one more stage, with a fresh optimizer and schedule

A policy has those of the methods that it needs; an absent one does nothing. Steps are counted through all
stages.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor

from vitune.errors import TrainingError

Criterion = Callable[[Tensor, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]


def begin(policies: Sequence[Any], run: Any) -> None:
    """Tell policies about the run, when it starts and when it is resumed.

    Args:
        policies: The policies of a tuned model, in order.
        run: A `vitune.methods.Run`.
    """
    for policy in _having(policies, "begin"):
        policy.begin(run)


def prepare(policies: Sequence[Any], batches: Batches) -> None:
    """Let policies look at training data before the first step.

    Args:
        policies: The policies of a tuned model, in order.
        batches: Training images (B, 3, height, width) and labels (B,); may be iterated several times.
    """
    for policy in _having(policies, "prepare"):
        policy.prepare(batches)


def before_step(policies: Sequence[Any], step: int) -> None:
    """Let policies decide about the coming step.

    Args:
        policies: The policies of a tuned model, in order.
        step: Number of the step, from 0, counted through all stages.
    """
    for policy in _having(policies, "before_step"):
        policy.before_step(step)


def loss(policies: Sequence[Any], logits: Tensor, targets: Tensor, criterion: Criterion) -> Tensor:
    """The loss of a batch: the criterion, wrapped by every policy that has a loss of its own, first policy
    innermost.

    Args:
        policies: The policies of a tuned model, in order.
        logits: What the model gave, (B, C).
        targets: Labels (B,) or class probabilities (B, C).
        criterion: The loss of the task, a mean over the batch.
    """
    for policy in _having(policies, "loss"):
        criterion = _wrapped(policy.loss, criterion)
    return criterion(logits, targets)


def passes(policies: Sequence[Any]) -> int:
    """How many losses `losses` gives for every part of a batch.

    Args:
        policies: The policies of a tuned model, in order.

    Raises:
        TrainingError: If several policies make passes of their own.
    """
    makers = _making_passes(policies)
    return makers[0].passes if makers else 1


def losses(
    policies: Sequence[Any],
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    criterion: Criterion,
) -> Generator[Tensor, None, None]:
    """The losses of one step, whose sum is minimised; send each backward before asking for the next.

    Args:
        policies: The policies of a tuned model, in order.
        forward: Gives logits (B, C) of images.
        images: (B, 3, height, width).
        targets: Labels (B,) or class probabilities (B, C).
        criterion: The loss of the task, a mean over the batch.

    Raises:
        TrainingError: If several policies make passes of their own.
    """

    def whole(logits: Tensor, targets: Tensor) -> Tensor:
        return loss(policies, logits, targets, criterion)

    makers = _making_passes(policies)
    if makers:
        yield from makers[0].losses(forward, images, targets, whole)
    else:
        yield whole(forward(images), targets)


def pass_settings(policies: Sequence[Any]) -> list[AbstractContextManager[None]]:
    """One context per pass of a step; while it is entered, the model is as in that pass. For counting costs.

    Args:
        policies: The policies of a tuned model, in order.
    """
    for policy in _having(policies, "pass_settings"):
        if policy.passes > 1:  # at most one of them makes several
            return list(policy.pass_settings())
    return [nullcontext()]


def kinds(policies: Sequence[Any]) -> list[tuple[float, AbstractContextManager[None]]]:
    """The kinds of steps that a run makes, with their shares; one kind where nobody draws. For counting costs.

    Args:
        policies: The policies of a tuned model, in order.
    """
    for policy in _having(policies, "kinds"):
        if found := policy.kinds():  # at most one of them draws what trains
            return list(found)
    return [(1.0, nullcontext())]


def after_backward(policies: Sequence[Any]) -> None:
    """Let policies read or change the gradients.

    Args:
        policies: The policies of a tuned model, in order.
    """
    for policy in _having(policies, "after_backward"):
        policy.after_backward()


def after_step(policies: Sequence[Any]) -> None:
    """Let policies act on the updated parameters.

    Args:
        policies: The policies of a tuned model, in order.
    """
    for policy in _having(policies, "after_step"):
        policy.after_step()


def next_stage(policies: Sequence[Any]) -> bool:
    """End a stage; every policy is told.

    Args:
        policies: The policies of a tuned model, in order.

    Returns:
        Whether any policy wants another stage.
    """
    wishes = [policy.next_stage() for policy in _having(policies, "next_stage")]
    return any(wishes)


def log(policies: Sequence[Any]) -> dict[str, Any]:
    """What policies have to say of the last step.

    Args:
        policies: The policies of a tuned model, in order.
    """
    return {name: value for policy in _having(policies, "log") for name, value in policy.log().items()}


def state_dicts(policies: Sequence[Any]) -> list[dict[str, Any]]:
    """What every policy has to remember, empty for one that remembers nothing.

    Args:
        policies: The policies of a tuned model, in order.
    """
    return [dict(policy.state_dict()) if hasattr(policy, "state_dict") else {} for policy in policies]


def load_state_dicts(policies: Sequence[Any], states: Sequence[Mapping[str, Any]]) -> None:
    """Give every policy back what it remembered.

    Args:
        policies: The policies of a tuned model, in order.
        states: What `state_dicts` gave for policies of the same kinds.
    """
    for policy, state in zip(policies, states, strict=True):
        if hasattr(policy, "load_state_dict"):
            policy.load_state_dict(dict(state))


def _making_passes(policies: Sequence[Any]) -> list[Any]:
    makers = [policy for policy in policies if getattr(policy, "passes", 0)]
    if len(makers) > 1:
        names = " and ".join(type(policy).__name__ for policy in makers)
        raise TrainingError(f"{names} both make the passes of a step; use one of their methods.")
    return makers


def _having(policies: Sequence[Any], moment: str) -> list[Any]:
    return [policy for policy in policies if hasattr(policy, moment)]


def _wrapped(outer: Callable[[Tensor, Tensor, Criterion], Tensor], inner: Criterion) -> Criterion:
    return lambda logits, targets: outer(logits, targets, inner)
