"""`vitune merge`: a plain checkpoint from a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitune.cli.options import Weights

if TYPE_CHECKING:
    from vitune.tasks.classification import MergeResult


def merge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="The .safetensors file to write.")
    ],
    weights: Weights = None,
) -> None:
    """Fold the adapter into the backbone: a checkpoint that timm or transformers loads without vitune."""
    from vitune.cli.console import console
    from vitune.report.units import size
    from vitune.tasks import classification

    result = classification.merge(run, output, weights=weights)
    out = console()
    out.print(f"wrote {result.path} ({size(result.bytes)}), compared with the tuned model", soft_wrap=True)
    out.print("load it without vitune:")
    for line in loading_lines(result):
        out.print(f"  {line}", soft_wrap=True)


def loading_lines(result: MergeResult) -> list[str]:
    """Python that loads the checkpoint.

    Args:
        result: What was merged.
    """
    from vitune.backbones import BUILT_IN, read_card

    source, classes = result.source, len(result.class_names or ())
    state = f"safetensors.torch.load_file({str(result.path)!r})"
    if source.library == "transformers":
        return [
            "import safetensors.torch, transformers",
            f"config = transformers.AutoConfig.from_pretrained({source.name!r}, num_labels={classes})",
            "model = transformers.AutoModelForImageClassification.from_config(config)",
            f"model.load_state_dict({state})",
        ]
    if source.name == BUILT_IN:  # timm does not know this name unless vitune is there
        arguments = _arguments({**read_card().architecture, **source.kwargs}, classes)
        return [
            "import safetensors.torch, timm.models.vision_transformer as vit",
            f"model = vit.VisionTransformer({arguments})",
            f"model.load_state_dict({state})",
        ]
    path = f"checkpoint_path={str(result.path)!r}"
    return [
        "import timm",
        f"model = timm.create_model({source.name!r}, {_arguments(source.kwargs, classes)}, {path})",
    ]


def _arguments(kwargs: Mapping[str, Any], classes: int) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in {**kwargs, "num_classes": classes}.items())
