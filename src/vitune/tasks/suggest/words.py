"""How sure a suggestion is, and what it has not measured, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from vitune.tasks.suggest.evidence import evidence
from vitune.tasks.suggest.measuring import StepTimes
from vitune.tasks.suggest.result import Ranked
from vitune.tasks.suggest.settings import SuggestSettings

_FEW = 4  # images of a step that is too small to tell what a batch takes
_BUSY = 0.2  # a step that takes so much more or less than its like shared the machine


def how_sure(ranked: Sequence[Ranked], times: StepTimes, images: int, backbone: str) -> tuple[str, ...]:
    """What the numbers rest on.

    Args:
        ranked: The answer.
        times: What was timed.
        images: The user's training images.
        backbone: The user's backbone.
    """
    timed = ", ".join(times.factors)
    memory = "Memory and sizes are counted on your model; on a CPU a process holds up to half more than the forecast"
    steps = "step" if len(times.factors) == 1 else "steps"
    size = f"{times.images} image{'s' * (times.images > 1)}"
    more = []
    if times.images < _FEW:
        more.append(
            "Steps this small cost more for each image than whole batches do, so times may be much shorter than "
            "forecast; --seconds with a larger number times larger steps."
        )
    if times.spread > _BUSY:
        more.append(
            "The machine was busy while steps were timed: times hold for a machine as busy, not for a quiet one."
        )
    # As many prices as steps fit them whatever they are worth.
    checked = len(times.factors) > sum(price > 0 for price in times.model.prices)
    model = (
        f"that is within {100 * times.model.worst:.0f} % of these" if checked else "that rests on these alone"
    )
    return (
        _order(ranked, images, backbone),
        f"{memory}, unless --fit-memory is given.",
        f"Timed, in {steps} of {size}: {timed} (rounds within {100 * times.spread:.0f} % of their "
        f"median). Others follow a cost model {model}.",
        *more,
    )


def _order(ranked: Sequence[Ranked], images: int, backbone: str) -> str:
    used = {name for one in ranked for name in one.standing.groups}
    groups = [group for group in evidence() if group.data in used]
    if not ranked:
        return "There is no order, since nothing fits; the forecasts beside the limits are as sure as what follows."
    if not groups:
        return "The order is not sure: there are no trials of ours of these methods."
    seeds = min(known.seeds for group in groups for known in group.methods.values())
    trials = "; ".join(
        f"{group.data} ({group.train_images:,} images, {group.classes} classes)" for group in groups
    )
    names = " and ".join(sorted({group.backbone for group in groups}))
    if any(one.standing.close for one in ranked):
        return f"The order rests on trials of your backbone at about your number of images: {trials}; {seeds} seeds."
    return (
        f"The order is a guess from other settings: trials on {trials} with {names}, {seeds} seeds; you have "
        f"{images:,} images and {backbone}."
    )


def what_is_not_measured(settings: SuggestSettings, device: str) -> tuple[str, ...]:
    """What nobody measured.

    Args:
        settings: What was asked.
        device: Where training would run.
    """
    found = [
        "Accuracy on your data: 'vitune compare' measures it.",
        "Whether the learning rate suits your data: it was chosen on other data, or is the method's default.",
        "Inference overhead: it follows the same cost model; 'vitune profile --time' measures it.",
        "Second stages of training (e2vpt trains again after pruning), and early stopping.",
    ]
    if device == "cpu":
        found.append("Other programs on this machine: times are as it was while steps were timed.")
    return tuple(found)
