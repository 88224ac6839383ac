"""`vitune evaluate`: how good a run is on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitune.cli.options import (
    DATA,
    Device,
    ImageColumn,
    LabelColumn,
    OnBadImage,
    TestDomain,
    Weights,
    Workers,
    given,
)

if TYPE_CHECKING:
    from rich.console import Console

    from vitune.tasks.classification import DataSettings, EvaluateResult

_CONFUSIONS_SHOWN = 5


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA", help="Labelled images; those of the run if not given.", show_default=False
        ),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", metavar="train|val|test", help="Which split.", rich_help_panel=DATA)
    ] = "test",
    classes: Annotated[
        str,
        typer.Option(
            "--classes",
            metavar="auto|all|present",
            help="Which classes compete: all, or those of the images; auto: all but for ImageNet-A and -R.",
            rich_help_panel=DATA,
        ),
    ] = "auto",
    test_domain: TestDomain = None,
    on_bad_image: OnBadImage = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    weights: Weights = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", help="Images at a time.")] = 64,
    device: Device = None,
    workers: Workers = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a run on a split: accuracy with its 95 % interval, and what is taken for what."""
    from vitune.tasks import classification

    result = classification.evaluate(
        run,
        _data(
            run,
            data,
            given(
                test_domain=test_domain,
                on_bad_image=on_bad_image,
                image_column=image_column,
                label_column=label_column,
            ),
        ),
        split=split,  # pyright: ignore[reportArgumentType] (checked there)
        classes=classes,  # pyright: ignore[reportArgumentType] (checked there)
        weights=weights,
        batch_size=batch_size,
        **given(device=device, workers=workers),
    )
    if as_json:
        _print_json(result)
    else:
        _print_text(result)


def _data(run: Path, data: Path | None, reading: dict[str, Any]) -> Path | DataSettings | None:
    """The data, split as those of the run; with options, these settings changed."""
    if not reading:
        return data
    from dataclasses import replace

    from vitune.tasks.classification import DataSettings
    from vitune.tasks.run_directory import read_config

    own = read_config(run).data
    base = own if data is None or data.resolve() == own.path.resolve() else DataSettings(path=data)
    return replace(base, **reading)


def _print_json(result: EvaluateResult) -> None:
    import json

    found = result.evaluation
    values = {
        "split": result.split,
        "accuracy": found.accuracy,
        "low": result.low,
        "high": result.high,
        "interval": "wilson95",
        "n": found.count,
        "loss": found.loss,
        "skipped": list(result.skipped),
        "skipping": None if result.skipping is None else result.skipping.as_dict(),
        "protocol": result.protocol,
        "classes": result.classes,
    }
    if result.corruption is not None:
        values["mean_error"], values["mce"] = result.corruption.mean_error, result.corruption.mce
        values["errors"] = dict(result.corruption.by_corruption)
        values["parts"] = {part.name: part.accuracy for part in result.parts}
    typer.echo(json.dumps(values, indent=1))


def _print_text(result: EvaluateResult) -> None:
    from vitune.cli.console import accuracy_text, console, table
    from vitune.cli.skipping_view import print_skipping

    found, names, out = result.evaluation, result.class_names, console()
    accuracy = accuracy_text(found.accuracy, result.low, result.high)
    out.print(
        f"{result.split} accuracy {accuracy}, 95 % interval, {found.count} images, loss {found.loss:.4f}"
    )
    _print_competing(result, out)
    for name in result.skipped:
        out.print(f"left out, since it cannot be read: {name}", soft_wrap=True)
    if result.skipping is not None:
        print_skipping(result.skipping)
    if result.corruption is not None:
        _print_corruptions(result, out)
        return
    confusion = found.confusion(len(names))
    wrong = [
        (int(confusion[true, seen]), names[true], names[seen])
        for true, seen in zip(*confusion.nonzero(), strict=True)
        if true != seen
    ]
    if not wrong:
        return
    made = table("class", "taken for", "images", right=("images",), title="Most frequent mistakes")
    for count, true, seen in sorted(wrong, key=lambda row: -row[0])[:_CONFUSIONS_SHOWN]:
        made.add_row(true, seen, str(count))
    out.print(made)


def _print_competing(result: EvaluateResult, out: Console) -> None:
    """Which classes could be predicted, where that is a question."""
    known, present = len(result.class_names), len(set(result.samples.labels))
    if result.classes is not None:
        which = f"{result.protocol}: " if result.protocol else ""
        out.print(
            f"{which}the {result.classes} classes of these images compete, of {known} that the run knows"
        )
    elif present < known:
        out.print(
            f"all {known} classes compete, and the images have {present} of them; with --classes present only these"
        )


def _print_corruptions(result: EvaluateResult, out: Console) -> None:
    from vitune.cli.console import table

    assert result.corruption is not None
    accuracies = {part.name: part.accuracy for part in result.parts}
    severities = sorted({name.rpartition("/")[2] for name in accuracies})
    made = table(
        "corruption", *severities, "mean", right=(*severities, "mean"), title="Error in % by severity"
    )
    for corruption, error in result.corruption.by_corruption.items():
        cells = (accuracies.get(f"{corruption}/{severity}") for severity in severities)
        shown = ["-" if accuracy is None else f"{100 * (1 - accuracy):.1f}" for accuracy in cells]
        made.add_row(corruption, *shown, f"{100 * error:.1f}")
    out.print(made)
    out.print(f"mean error over corruptions {100 * result.corruption.mean_error:.1f} %")
    if result.corruption.mce is not None:
        out.print(f"mean corruption error, AlexNet = 100: {100 * result.corruption.mce:.1f}")
