"""`vitune compare`: several methods on one data set, under one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitune.cli.options import (
    DATA,
    PROTOCOL,
    RUN,
    Baseline,
    BatchSize,
    Device,
    EachMethod,
    Engine,
    Epochs,
    ImageColumn,
    LabelColumn,
    Methods,
    ModelName,
    OnBadImage,
    Precision,
    RetryFailed,
    SharedSetting,
    TestDomain,
    ValFraction,
    Weights,
    Workers,
    chosen_methods,
)

if TYPE_CHECKING:
    from vitune.bench.compare_request import CompareRequest


def compare(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Folder of images, VTAB-1k lists, a table; with a test split."),
    ],
    methods: Methods = None,
    method: EachMethod = None,
    baseline: Baseline = None,
    search: Annotated[
        str | None,
        typer.Option(
            "--search",
            metavar="none|small|optuna[:N]",
            help="Settings tried on validation: three learning rates around each method's default, the default alone, "
            "or N candidates that Optuna chooses.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            metavar="N",
            help="Seeds that each choice is trained and tested with; 3 if not given.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    retry_failed: RetryFailed = False,
    model: ModelName = None,
    weights: Weights = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    assignments: SharedSetting = None,
    shots: Annotated[
        int | None,
        typer.Option(
            "--shots",
            metavar="K",
            help="Train on K images of each class, the same for all.",
            rich_help_panel=DATA,
        ),
    ] = None,
    val_fraction: ValFraction = None,
    test_domain: TestDomain = None,
    on_bad_image: OnBadImage = None,
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    precision: Precision = None,
    engine: Engine = None,
    device: Device = None,
    workers: Workers = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder of the comparison; runs/compare-DATA if not given. The same command goes on with it.",
            rich_help_panel=RUN,
        ),
    ] = None,
) -> None:
    """Compare methods on one data set: same splits, same number of trials, the test split opened at the end.

    Settings are chosen on validation images. Stop it at any time and give the same command again, or give it several
    times over a shared folder: every trial runs once. Leaves a report (HTML, CSV, Markdown) and every trial.
    """
    given: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "shots": shots,
        "val_fraction": val_fraction,
        "test_domain": test_domain,
        "on_bad_image": on_bad_image,
        "image_column": image_column,
        "label_column": label_column,
        "precision": precision,
        "device": device,
        "set": assignments or None,
    }
    own: dict[str, Any] = {
        "search": search,
        "seeds": seeds,
        "workers": workers,
        "baseline": baseline,
        "engine": engine,
    }

    import shlex

    from vitune.cli.compare_view import compare_and_show

    request = _request(
        data,
        chosen_methods(methods, method),
        {name: value for name, value in given.items() if value is not None},
        {name: value for name, value in own.items() if value is not None},
        model=model,
        weights=weights,
        out=out,
        retry_failed=retry_failed,
        command=shlex.join(["vitune", *context.obj]),
    )
    compare_and_show(request)


def _request(
    data: Path,
    methods: tuple[str, ...],
    given: dict[str, Any],
    own: dict[str, Any],
    *,
    model: str | None,
    weights: Path | None,
    out: Path | None,
    retry_failed: bool,
    command: str,
) -> CompareRequest:
    import re

    from vitune.bench.compare_request import CompareRequest
    from vitune.cli.train_request import compose
    from vitune.errors import ConfigError

    if not methods:
        raise ConfigError("no methods given; name two or more: vitune compare DATA --methods linear,ssf.")
    for name in ("lr", "seed", "train_split", "final_test", "store_bits", "tensorboard", "workers"):
        if any(word.partition("=")[0].strip().replace("-", "_") == name for word in given.get("set", ())):
            raise ConfigError(f"--set {name}: a comparison sets it for every trial; leave it out.")
    # The settings are read as `train` reads them; the method is not theirs to check.
    common = compose(data, {**given, "method": "linear"}, None)
    names = set(given) | {w.partition("=")[0].strip().replace("-", "_") for w in given.get("set", ())}
    training = {name: value for name, value in common.training.to_dict().items() if name in names}
    words = re.sub(r"[^\w.=-]+", "-", data.resolve().stem).strip("-.") or "data"
    return CompareRequest(
        data=common.data,
        model=_with(common.model, name=model, weights=weights),
        methods=methods,
        training=training,
        out=out or Path("runs") / f"compare-{words}",
        retry_failed=retry_failed,
        command=command,
        **own,
    )


def _with(settings: Any, **changes: Any) -> Any:
    from dataclasses import replace

    return replace(settings, **{name: value for name, value in changes.items() if value is not None})
