"""`vitune bench`: methods on a suite of data sets, under one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitune.cli.options import (
    DATA,
    PROTOCOL,
    RUN,
    TRAINING,
    Baseline,
    BatchSize,
    Device,
    EachMethod,
    Engine,
    Epochs,
    Methods,
    ModelName,
    OnBadImage,
    Precision,
    RetryFailed,
    Weights,
    Workers,
    chosen_methods,
    given,
)

if TYPE_CHECKING:
    from vitune.bench.suite_request import SuiteRequest

# What a suite sets itself: for every trial, or for its tasks.
_OF_SUITE = ("lr", "seed", "train_split", "final_test", "store_bits", "tensorboard", "workers")
_OF_TASKS = ("shots", "shot_seed", "test_domain", "train_domains")


def bench(
    context: typer.Context,
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="One of 'vitune list suites', or a .toml file of your own.")
    ],
    root: Annotated[
        Path,
        typer.Argument(metavar="ROOT", help="Folder that holds the data of the tasks; 'data' if not given."),
    ] = Path("data"),
    methods: Methods = None,
    method: EachMethod = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Only say which data are there, what is missing and how to get it.",
            rich_help_panel=DATA,
        ),
    ] = False,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            metavar="A,B",
            help="Run only these tasks or groups of tasks; * stands for anything; may be repeated.",
            rich_help_panel=DATA,
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="Which of the suite's protocols, such as vtab1k's normalisations; its first if not given.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    baseline: Baseline = None,
    search: Annotated[
        str | None,
        typer.Option(
            "--search",
            metavar="none|small|optuna[:N]",
            help="What is tried on validation, as in 'vitune compare'; what the suite says if not given.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            metavar="N",
            help="Seeds that each choice is trained and tested with; what the suite says if not given.",
            rich_help_panel=PROTOCOL,
        ),
    ] = None,
    retry_failed: RetryFailed = False,
    model: ModelName = None,
    weights: Weights = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting that goes before the suite's, see 'vitune list settings'; may be repeated.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    on_bad_image: OnBadImage = None,
    precision: Precision = None,
    engine: Engine = None,
    device: Device = None,
    workers: Workers = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder of the results; runs/bench-SUITE if not given. The same command goes on with it.",
            rich_help_panel=RUN,
        ),
    ] = None,
) -> None:
    """Compare methods on a suite of data sets: one comparison per task, their means, and published numbers beside.

    Every task is a 'vitune compare' of its own: settings are chosen on validation images, the test split is opened at
    the end. Stop it at any time and give the same command again, or give it several times over a shared folder.
    """
    settings = given(
        epochs=epochs,
        batch_size=batch_size,
        on_bad_image=on_bad_image,
        precision=precision,
        device=device,
        set=assignments or None,
    )
    own = given(
        search=search, seeds=seeds, workers=workers, baseline=baseline, protocol=protocol, engine=engine
    )

    import shlex

    from vitune.cli.bench_view import bench_and_show, check_and_show

    request = _request(
        suite,
        root,
        settings,
        own,
        # What is there does not depend on the methods.
        methods=chosen_methods(methods, method) or (("linear",) if check else ()),
        tasks=tuple(name.strip() for names in tasks or () for name in names.split(",")),
        model=model,
        weights=weights,
        out=out,
        retry_failed=retry_failed,
        command=shlex.join(["vitune", *context.obj]),
    )
    if check:
        check_and_show(request)
    else:
        bench_and_show(request)


def _request(
    suite: str,
    root: Path,
    settings: dict[str, Any],
    own: dict[str, Any],
    *,
    model: str | None,
    weights: Path | None,
    out: Path | None,
    **more: Any,
) -> SuiteRequest:
    from dataclasses import fields, replace

    from vitune.bench.suite_request import SuiteRequest
    from vitune.cli.train_request import compose
    from vitune.errors import ConfigError
    from vitune.suites import load_suite
    from vitune.tasks.request import DataSettings

    loaded = load_suite(suite)
    words = {word.partition("=")[0].strip().replace("-", "_") for word in settings.get("set", ())}
    for name in sorted(words):
        if name in _OF_SUITE:
            raise ConfigError(f"--set {name}: a suite sets it for every trial; leave it out.")
        if name in _OF_TASKS:
            raise ConfigError(
                f"--set {name}: the tasks of a suite set it; write a suite of your own to change it."
            )
    # The settings are read as `train` reads them; the method is not theirs to check.
    common = compose(root, {**settings, "method": "linear"}, None)
    names = set(settings) | words
    of_data = [field.name for field in fields(DataSettings) if field.name in names]
    return SuiteRequest(
        suite=loaded,
        root=root,
        out=out or Path("runs") / f"bench-{loaded.name}",
        model=replace(common.model, **given(name=model, weights=weights)),
        training={name: value for name, value in common.training.to_dict().items() if name in names},
        data={name: getattr(common.data, name) for name in of_data},
        **own,
        **more,
    )
