"""A trained run, opened to be used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from vitune.adapters import load
from vitune.data import Preprocessing
from vitune.errors import AdapterError
from vitune.training.config import Device, Precision
from vitune.training.devices import make_accelerator
from vitune.tuned import Tuned


@dataclass(frozen=True)
class Trained:
    """A tuned model with all that is needed to apply it to images.

    Attributes:
        tuned: The model, on the device.
        class_names: Names of its classes, in the order of the logits.
        preprocessing: What images are to look like.
        accelerator: Device and precision.
    """

    tuned: Tuned
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    accelerator: Accelerator


def open_run(run: Path, *, weights: Path | None, device: Device, precision: Precision) -> Trained:
    """Load the adapter of a run onto its backbone.

    Args:
        run: The run directory, or one with an adapter.
        weights: File with the backbone's weights, if they are no longer where they were.
        device: Where to compute.
        precision: In which precision.

    Raises:
        AdapterError: If there is no adapter, it does not fit, or it lacks class names or preprocessing.
        ConfigError: If the device or precision is not available.
    """
    accelerator = make_accelerator(device, precision)
    tuned = load(run, weights=weights)
    if tuned.class_names is None or tuned.preprocessing is None:
        missing = "class names" if tuned.class_names is None else "preprocessing"
        raise AdapterError(f"The adapter in '{run}' holds no {missing}; save it with them, as train does.")
    tuned.model.to(accelerator.device)
    return Trained(tuned, tuned.class_names, Preprocessing.from_dict(tuned.preprocessing), accelerator)
