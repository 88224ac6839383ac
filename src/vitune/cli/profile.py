"""`vitune profile`: what methods cost on a backbone, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitune.cli.options import MACHINE, MODEL, RUN, EachMethod, ModelName, chosen_methods, given

if TYPE_CHECKING:
    from vitune.tasks.profile import ProfileRow


def profile(
    model: ModelName = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            "--methods",
            metavar="A,B,...",
            help="What to profile: a comma separates methods, + joins those that act together.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    method: EachMethod = None,
    memory: Annotated[
        list[str] | None,
        typer.Option(
            "--memory",
            metavar="LEVEL",
            help="stock, fast, lean, leaner, leanest or all; may be repeated. fast if not given.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", metavar="N", help="Height and width in pixels.", rich_help_panel=MODEL),
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", metavar="N", help="Of the head.", rich_help_panel=MODEL)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", metavar="N", help="Images per step.", rich_help_panel=MODEL),
    ] = None,
    time: Annotated[
        int | None,
        typer.Option(
            "--time",
            metavar="ROUNDS",
            help="Time steps and inference so often, against full fine-tuning in the same run.",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    peak: Annotated[
        bool,
        typer.Option(
            "--peak",
            help="Measure the peak memory too, each in a process of its own.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", metavar="fp32|bf16|fp16", help="Of computation.", rich_help_panel=MACHINE
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="cpu|cuda", help="Where to compute.", rich_help_panel=MACHINE),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the numbers as JSON too.", rich_help_panel=RUN),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            help="Write a report too: memory against time, every cost as bars, all numbers.",
            rich_help_panel=RUN,
        ),
    ] = None,
) -> None:
    """Show what methods cost on a backbone: parameters, FLOPs, memory and, on request, time.

    Counting takes no memory and no weights, so it works for models larger than this machine.
    """
    from vitune.cli.console import console
    from vitune.errors import ConfigError
    from vitune.lean import LEVELS
    from vitune.report import write_profile_report
    from vitune.tasks.profile import ProfileSettings, write_profile
    from vitune.tasks.profile import profile as run

    for option, file in (("--out", out), ("--html", html)):
        if file is not None and not file.parent.is_dir():
            raise ConfigError(f"{option}: there is no folder '{file.parent}' to write '{file.name}' to.")
        if file is not None and file.is_dir():
            raise ConfigError(f"{option}: '{file}' is a folder; name a file.")
    levels = None if memory is None else tuple(LEVELS if "all" in memory else memory)
    settings = ProfileSettings(
        **given(
            model=model,
            methods=chosen_methods(methods, method) or None,
            levels=levels,
            image_size=image_size,
            classes=classes,
            batch_size=batch_size,
            rounds=time,
            peak=peak or None,
            precision=precision,
            device=device,
        )
    )
    news = console(news=True)
    with news.status("") as status:
        result = run(settings, lambda text: status.update(text))
    _print(result.rows)
    for note in result.notes:
        news.print(note, soft_wrap=True)
    if out is not None:
        write_profile(result, out)
        news.print(f"written to {out}")
    if html is not None:
        write_profile_report(result.as_dict(), html)
        news.print(f"report: {html}")


def _print(rows: tuple[ProfileRow, ...]) -> None:
    from vitune.cli.console import console, table

    numbers = ["trained", "disk MB", "GFLOPs", "saved", "forecast"]
    if rows[0].peak_bytes is not None:
        numbers.append("peak")
    if rows[0].step_ratio is not None:
        numbers += ["step s", "x full", "infer x"]
    made = table("method", *numbers, right=tuple(numbers))
    before = ""
    for row in rows:
        if row.method != before:
            made.add_row(row.method)
            before = row.method
        cells = [
            _short(row.trained_parameters),
            f"{row.adapter_bytes / 1e6:.3f}",
            f"{row.step_flops / 1e9:.2f}",
            f"{row.saved_activation_bytes / 2**20:,.1f}",
            f"{row.forecast_bytes / 2**20:,.0f}",
        ]
        if row.peak_bytes is not None:
            cells.append(f"{row.peak_bytes / 2**20:,.0f}")
        if row.step_ratio is not None and row.inference_ratio is not None:
            cells += [
                f"{row.step_seconds or 0:.3f}",
                f"{row.step_ratio[0]:.2f}",
                f"{row.inference_ratio[0]:.2f}",
            ]
        made.add_row(f"  {row.memory}", *cells)
    out = console()
    out.print(made)
    out.print(
        "saved: MiB kept between forward and backward. forecast: the most MiB that a step holds, with weights, "
        "gradients and AdamW's state. GFLOPs: of a training step, per image, two per multiply-accumulate.",
    )
    _print_skipping(rows)


def _print_skipping(rows: tuple[ProfileRow, ...]) -> None:
    """Of methods that skip tokens: what inference runs, beside everything computed and the plain backbone."""
    from vitune.cli.console import console
    from vitune.cli.skipping_view import print_skipping

    out = console()
    shown: set[str] = set()
    for row in rows:
        if row.masked_flops is None or row.method in shown:
            continue
        shown.add(row.method)
        out.print(
            f"{row.method}: inference runs {row.forward_flops / 1e9:.3f} GFLOPs per image where it keeps as many "
            f"tokens as it aims at, {row.masked_flops / 1e9:.3f} with everything computed and masked; plain "
            f"{rows[0].forward_flops / 1e9:.3f}",
            soft_wrap=True,
        )
        if row.skipping is not None:
            out.print("with its gates untrained, on noise:", soft_wrap=True)
            print_skipping(row.skipping)


def _short(count: int) -> str:
    """A count in thousands or millions."""
    return f"{count / 1e6:.2f}M" if count >= 1e6 else f"{count / 1e3:.1f}k"
