"""`vitune convert`: between adapters and the formats of others: PEFT's LoRA, `.bin` of Bi-AdaptFormer and Bi-LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitune.cli.options import Weights
from vitune.errors import ConfigError


def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="SOURCE", help="A run or adapter directory, one of PEFT, or a .bin file."),
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="A .bin file, or the adapter directory to make.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="The backbone that a file of others belongs to."),
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", metavar="N", help="Classes of a file of others.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", metavar="S", help="Factor s of a .bin file, not part of it.")
    ] = None,
    bits: Annotated[int, typer.Option("--bits", metavar="1|2|4|8", help="Bits of a .bin file.")] = 1,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", metavar="METHOD", help="'bi_lora(rank=2)', where the file's length leaves a choice."
        ),
    ] = None,
    peft: Annotated[
        bool, typer.Option("--peft", help="LoRA in the format of Hugging Face PEFT, in either direction.")
    ] = False,
    weights: Weights = None,
) -> None:
    """Read or write the formats of others: LoRA of Hugging Face PEFT, checkpoints of Bi-AdaptFormer and Bi-LoRA."""
    if peft:
        _peft(source, target, model, classes, weights)
        return
    if (source.suffix == ".bin") == (target.suffix == ".bin"):
        raise ConfigError(
            f"one of '{source}' and '{target}' must be a .bin file, and the other an adapter directory."
        )
    from vitune.cli.console import console

    if target.suffix == ".bin":
        _export(source, target, weights)
    else:
        if model is None or classes is None or scale is None:
            raise ConfigError(
                "a .bin file does not say its backbone, classes and scale; give --model, --classes and --scale."
            )
        _import(source, target, model, classes, scale, bits, method, weights)
    console().print(f"wrote {target}", soft_wrap=True)


def _peft(source: Path, target: Path, model: str | None, classes: int | None, weights: Path | None) -> None:
    """An adapter of ours becomes one of PEFT; anything else is read as one of PEFT's."""
    from vitune.adapters import CONFIG, load
    from vitune.backbones import create
    from vitune.cli.console import console
    from vitune.interop.peft import export_peft, import_peft

    if target.exists():
        raise ConfigError(f"'{target}' exists already; choose another name, or delete it.")
    config = source / CONFIG
    if config.is_file() and '"methods"' not in config.read_text(errors="replace"):
        if model is None or classes is None:
            raise ConfigError(
                f"the PEFT adapter in '{source}' does not say its backbone and classes; give --model and --classes."
            )
        import_peft(create(model, num_classes=classes, weights=weights), source).save(target)
    else:
        export_peft(load(source, weights=weights), target)
    console().print(f"wrote {target}", soft_wrap=True)


def _export(source: Path, target: Path, weights: Path | None) -> None:
    from vitune.adapters import load
    from vitune.interop.petl_bin import export_bin

    if target.exists():
        raise ConfigError(f"the file '{target}' exists already; choose another name, or delete it.")
    export_bin(load(source, weights=weights), target)


def _import(
    source: Path,
    target: Path,
    model: str,
    classes: int,
    scale: float,
    bits: int,
    method: str | None,
    weights: Path | None,
) -> None:
    from vitune.backbones import create
    from vitune.interop.petl_bin import import_bin
    from vitune.methods import BiAdaptFormer, BiLoRA, parse

    chosen = None if method is None else parse(method)[0]
    if chosen is not None and not isinstance(chosen, (BiAdaptFormer, BiLoRA)):
        raise ConfigError(f"a .bin file holds bi_adaptformer or bi_lora, not '{chosen.name}'.")
    if bits not in (1, 2, 4, 8):
        raise ConfigError(f"--bits must be 1, 2, 4 or 8, not {bits}.")
    if target.exists():
        raise ConfigError(f"'{target}' exists already; choose another name, or delete it.")
    backbone = create(model, num_classes=classes, weights=weights)
    # The authors' networks see images in [0, 1].
    preprocessing = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "crop_pct": 1.0, "crop_mode": "squash"}
    tuned = import_bin(source, backbone, scale=scale, bits=bits, method=chosen)
    size = list(tuned.anatomy.input_size)
    tuned.save(target, preprocessing={"input_size": size, "interpolation": "bicubic", **preprocessing})
