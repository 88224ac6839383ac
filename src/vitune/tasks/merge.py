"""Fold a run's adapter into its backbone and write a plain checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vitune.adapters import load, write_merged
from vitune.backbones import BackboneSource
from vitune.errors import RunError


@dataclass(frozen=True)
class MergeResult:
    """A plain checkpoint.

    Attributes:
        path: The `.safetensors` file.
        bytes: Its size.
        source: How to make the plain model that loads it.
        class_names: Names of the classes, where known.
    """

    path: Path
    bytes: int
    source: BackboneSource
    class_names: tuple[str, ...] | None


def merge(run: Path, output: Path, *, weights: Path | None = None) -> MergeResult:
    """Write a checkpoint that timm or transformers loads without vitune; it is compared before it appears.

    Args:
        run: The run directory.
        output: The `.safetensors` file to write; it must not exist.
        weights: File with the backbone's weights, if they are no longer where they were.

    Raises:
        RunError: If the file exists or is of another kind.
        SurgeryError: If the methods cannot be merged.
        AdapterError: If the adapter cannot be loaded, or the file cannot be written.
    """
    if output.suffix != ".safetensors":
        raise RunError(f"The output '{output}' is no .safetensors file; give it that ending.")
    if output.exists():
        raise RunError(f"The output '{output}' exists already; choose another name, or delete it.")
    tuned = load(run, weights=weights)
    names = tuned.class_names
    source = write_merged(tuned, output)
    return MergeResult(output, output.stat().st_size, source, names)
