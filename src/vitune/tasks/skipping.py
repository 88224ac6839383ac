"""What a model that leaves out computation saves: tokens kept, operations counted, images per second measured."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitune.data import Preprocessing, Samples
from vitune.measure import compare_seconds, count_flops
from vitune.methods import Skipping
from vitune.surgery import undo
from vitune.tasks.pictures import evenly_spaced, load_images
from vitune.training.modes import evaluation_mode
from vitune.tuned import Tuned

_TIMED_IMAGES, _ROUNDS = 8, 5


@dataclass(frozen=True)
class SkippingMeasured:
    """What was found on a sample of images. FLOPs are per image, a multiply-accumulate being two.

    Attributes:
        images: Number of images looked at.
        kept_share: Of all patch tokens, over all gates.
        rates: Role of a gate to the share of patch tokens that it keeps.
        plain_flops: Of the backbone without the method.
        masked_flops: Of the tuned model with everything computed and then masked.
        executed_flops: Of what runs, tokens really skipped.
        timed_images: Images in the batch that was timed.
        plain_images_per_second: Of the backbone without the method; as the next two, a median of interleaved rounds.
        masked_images_per_second: Of the tuned model with everything computed.
        images_per_second: Of the tuned model as it runs.
    """

    images: int
    kept_share: float
    rates: dict[str, float]
    plain_flops: int
    masked_flops: int
    executed_flops: int
    timed_images: int
    plain_images_per_second: float
    masked_images_per_second: float
    images_per_second: float

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def skipping_of(tuned: Tuned) -> Skipping | None:
    """How a model skips, or None if it computes the same for every image.

    Args:
        tuned: The model.
    """
    found = (method.skipping(tuned) for method in tuned.methods)
    return next((one for one in found if one is not None), None)


def skipping_on(
    tuned: Tuned, samples: Samples, preprocessing: Preprocessing, *, most: int, batch_size: int
) -> SkippingMeasured | None:
    """Measure on images of a split, evenly spaced; None for a model that does not skip.

    Args:
        tuned: The trained model, where it is to be measured.
        samples: The split.
        preprocessing: What images are to look like.
        most: Images at most.
        batch_size: Images at a time.

    Raises:
        DataError: If an image cannot be read.
    """
    if skipping_of(tuned) is None:
        return None
    device = next(tuned.model.parameters()).device
    chosen = evenly_spaced(len(samples), most)
    parts = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
    return measure_skipping(tuned, [load_images(samples, part, preprocessing).to(device) for part in parts])


def measure_skipping(tuned: Tuned, batches: Sequence[Tensor], *, rounds: int = _ROUNDS) -> SkippingMeasured:
    """Count and time a model that skips, beside the same with everything computed and the plain backbone.

    Args:
        tuned: A model with a method that skips.
        batches: Images (B, channels, height, width), where the model is.
        rounds: How often each of the three is timed.
    """
    skipping = skipping_of(tuned)
    assert skipping is not None, "the model skips nothing"
    plain = _plain(tuned).eval()
    kept: dict[str, int] = {}
    seen: dict[str, int] = {}
    executed = 0

    def note(images: Tensor) -> None:
        for role, tokens in skipping.kept(images).items():
            kept[role] = kept.get(role, 0) + int(tokens.sum())
            seen[role] = seen.get(role, 0) + tokens.numel()

    few = batches[0][:_TIMED_IMAGES]
    with evaluation_mode(tuned.model), torch.no_grad():
        for images in batches:
            executed += count_flops(partial(note, images))
        with skipping.dense():
            masked_flops = count_flops(lambda: tuned(few)) // len(few)
        plain_flops = count_flops(lambda: plain(few)) // len(few)

        def masked() -> None:
            with skipping.dense():
                tuned(few)

        timings = compare_seconds(
            {"plain": lambda: plain(few), "masked": masked, "skipping": lambda: tuned(few)},
            rounds=rounds,
            synchronize=torch.cuda.synchronize if few.device.type == "cuda" else None,
        )
    images = sum(len(batch) for batch in batches)
    speeds = {name: len(few) / timing.median for name, timing in timings.items()}
    return SkippingMeasured(
        images=images,
        kept_share=sum(kept.values()) / sum(seen.values()),
        rates={role: kept[role] / seen[role] for role in seen},
        plain_flops=plain_flops,
        masked_flops=masked_flops,
        executed_flops=executed // images,
        timed_images=len(few),
        plain_images_per_second=speeds["plain"],
        masked_images_per_second=speeds["masked"],
        images_per_second=speeds["skipping"],
    )


def _plain(tuned: Tuned) -> nn.Module:
    """The backbone without edits: a copy of the modules over the same tensors."""
    tensors = [*tuned.model.parameters(), *tuned.model.buffers()]
    twin = copy.deepcopy(tuned.model, {id(tensor): tensor for tensor in tensors})
    undo(twin, tuned._steps)
    return twin
