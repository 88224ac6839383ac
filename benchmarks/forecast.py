"""Forecasts against reality: the memory and the time of a training step, for pairs of a method and a backbone.

    python -m benchmarks.forecast [--only memory|time] [--pairs N] [--rounds 5]

Memory: the forecast of `vitune suggest` and `--fit-memory`, against the high-water mark of a process of its own that
makes two steps with AdamW. The framework is loaded and run before, so that it does not count. Freed memory returns at
once, as training does with `--fit-memory`; "usual" is the same with the allocator as it is otherwise.

Time: for each backbone, the cost model of `vitune suggest` is fitted to some methods and forecasts the others, which
are then timed; the timed ones are forecast at twice their batch size. Times of a busy machine say nothing.

Writes benchmarks/results/forecast.json, keeping what was measured before of the other kind, and the table of
docs/suggest.md. The verdict is 10 % for memory and 25 % for time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vitune.durable import replace_file
from vitune.lean import Level
from vitune.measure import keep_freed_memory, machine, peak_memory, return_freed_memory, versions
from vitune.tasks.costing import Precision, RealStep, Subject, hold_a_step, load_framework
from vitune.tasks.suggest.counting import step_load
from vitune.tasks.suggest.time_model import fit_time

RESULT = Path(__file__).parent / "results" / "forecast.json"
PAGE = Path(__file__).parents[1] / "docs" / "suggest.md"
MARKS = ("<!-- forecast:start -->\n", "<!-- forecast:end -->")
MEMORY_WITHIN, TIME_WITHIN = 0.10, 0.25
NANO, DEIT, SMALL, RESNET, SWIN = (
    None,
    "deit_tiny_patch16_224",
    "vit_small_patch16_224",
    "resnet18",
    "swin_tiny_patch4_window7_224",
)
# Backbone, method, memory level, images of a step, precision.
MEMORY: tuple[tuple[str | None, str, Level, int, Precision], ...] = (
    (NANO, "full", "stock", 64, "fp32"),
    (NANO, "lora", "fast", 64, "fp32"),
    (NANO, "ssf", "stock", 32, "fp32"),
    (DEIT, "lora", "fast", 16, "fp32"),
    (DEIT, "vpt", "leanest", 16, "fp32"),
    (DEIT, "lora", "leanest", 16, "fp32"),
    (SMALL, "full", "fast", 8, "fp32"),
    (SMALL, "ssf", "lean", 8, "fp32"),
    (SMALL, "adaptformer", "stock", 8, "fp32"),
    (RESNET, "full", "stock", 8, "fp32"),
    (RESNET, "bitfit", "stock", 16, "fp32"),
    (RESNET, "full", "leanest", 8, "fp32"),
    (SWIN, "linear", "stock", 8, "fp32"),
    (SWIN, "lora", "leaner", 8, "fp32"),
    (NANO, "full", "fast", 64, "bf16"),
    (DEIT, "lora", "fast", 16, "bf16"),
    (DEIT, "vpt", "leanest", 16, "bf16"),
    (SMALL, "ssf", "lean", 8, "bf16"),
    (SMALL, "dyt", "stock", 8, "bf16"),
    (RESNET, "full", "stock", 8, "bf16"),
    (SWIN, "adaptformer", "stock", 8, "bf16"),
)
# Backbone, methods that the model is fitted to, methods that it forecasts, images of a step.
TIME: tuple[tuple[str | None, tuple[str, ...], tuple[str, ...], int], ...] = (
    (NANO, ("full", "linear", "ssf", "lora"), ("bitfit", "adaptformer", "vpt"), 16),
    (DEIT, ("full", "linear", "ssf", "lora"), ("bitfit", "adaptformer", "vpt"), 4),
    (SMALL, ("full", "linear", "ssf", "lora"), ("bitfit", "adaptformer", "vpt"), 4),
    (RESNET, ("full", "linear"), ("bitfit",), 4),
    (SWIN, ("full", "linear", "ssf"), ("bitfit", "lora", "adaptformer"), 2),
)


def memory(pairs: int) -> list[dict[str, Any]]:
    """Forecast and measured bytes of a step."""
    rows = []
    for model, method, level, images, precision in MEMORY[:pairs]:
        subject = Subject(model, 10, precision=precision)
        forecast = subject.step_peak(subject.tuned(method, level, weights=False), images)
        peaks = []
        for step in (hold_a_step, hold_a_step_as_usual):
            call = partial(step, subject, method, level, images)
            peaks.append(peak_memory(call, before=partial(load_framework, precision)).increase)
        rows.append(
            {
                "model": model or "built-in",
                "method": method,
                "memory": level,
                "images": images,
                "precision": precision,
                "forecast_bytes": forecast,
                "measured_bytes": peaks[0],
                "ratio": round(forecast / peaks[0], 3),
                "usual_allocator_bytes": peaks[1],
                "within": abs(forecast / peaks[0] - 1) <= MEMORY_WITHIN,
            }
        )
        print(_memory_line(rows[-1]), flush=True)
    return rows


def kernel_bytes(shapes: int = 50) -> float:
    """Mean of what a CPU keeps for the kernel of a half-precision product: forecasts count `KERNEL_BYTES` for each."""
    products = partial(_multiply, range(shapes))
    return peak_memory(products, before=partial(_multiply, [shapes])).increase / (3 * shapes)


def _multiply(shapes: Iterable[int]) -> None:
    """A linear layer on more tokens each time, forward and backward, three products each; too small to hold much."""
    return_freed_memory()
    layer = torch.nn.Linear(192, 192).bfloat16()
    for more in shapes:
        layer(torch.randn(256 + more, 192).bfloat16().requires_grad_()).sum().backward()


def hold_a_step_as_usual(subject: Subject, method: str, level: Level, images: int) -> None:
    """Two steps with the allocator as it is where nobody gave a limit."""
    keep_freed_memory()
    step = RealStep(subject, subject.tuned(method, level, weights=True), images, optimizer=True)
    for _ in range(2):
        step()


def _memory_line(row: dict[str, Any]) -> str:
    names = f"{row['model']:30}{row['method']:13}{row['memory']:9}{row['images']:3} {row['precision']}"
    forecast, measured, usual = (
        row[key] / 2**20 for key in ("forecast_bytes", "measured_bytes", "usual_allocator_bytes")
    )
    verdict = "within 10 %" if row["within"] else "MORE THAN 10 % OFF"
    numbers = f"forecast {forecast:7.1f} MiB, measured {measured:7.1f}, ratio {row['ratio']:.3f}"
    return f"{names} {numbers}: {verdict}; usual {usual:.1f}"


def times(rounds: int) -> list[dict[str, Any]]:
    """Forecast and measured seconds of a step."""
    return_freed_memory()
    keep_freed_memory()
    rows = []
    for model, fitted, others, images in TIME:
        subject = Subject(model, 10)
        asked = [(method, 2 * images) for method in fitted] + [(method, images) for method in others]
        loads = {key: _load(subject, *key) for key in [*((m, images) for m in fitted), *asked]}
        seconds = _seconds(subject, list(loads), rounds)
        prices = fit_time([(loads[method, images], seconds[method, images]) for method in fitted])
        factors = {m: seconds[m, images] / prices.seconds(loads[m, images]) for m in fitted}
        for method, number in asked:
            forecast = prices.seconds(loads[method, number]) * factors.get(method, 1.0)
            ratio = forecast / seconds[method, number]
            rows.append(
                {
                    "model": model or "built-in",
                    "method": method,
                    "images": number,
                    "basis": f"timed at {images} images" if method in fitted else "cost model",
                    "forecast_seconds": forecast,
                    "measured_seconds": seconds[method, number],
                    "ratio": round(ratio, 3),
                    "within": abs(ratio - 1) <= TIME_WITHIN,
                }
            )
            print(_time_line(rows[-1]), flush=True)
    return rows


def _load(subject: Subject, method: str, images: int) -> Any:
    return step_load(subject, subject.tuned(method, "stock", weights=False), images)


def _seconds(subject: Subject, keys: list[tuple[str, int]], rounds: int) -> dict[tuple[str, int], float]:
    """Medians of interleaved rounds, so that drift of the machine hits all alike."""
    steps = {
        key: RealStep(subject, subject.tuned(key[0], "stock", weights=True), key[1], optimizer=True)
        for key in keys
    }
    found: dict[tuple[str, int], list[float]] = {key: [] for key in keys}
    for index in range(rounds + 1):
        for key in keys if index % 2 else reversed(keys):
            start = time.perf_counter()
            steps[key]()
            if index:  # the first makes the optimizer's state
                found[key].append(time.perf_counter() - start)
    return {key: statistics.median(values) for key, values in found.items()}


def _time_line(row: dict[str, Any]) -> str:
    names = f"{row['model']:30}{row['method']:13}{row['images']:3} {row['basis']:20}"
    verdict = "within 25 %" if row["within"] else "MORE THAN 25 % OFF"
    forecast, measured = row["forecast_seconds"], row["measured_seconds"]
    return (
        f"{names} forecast {forecast:6.3f} s, measured {measured:6.3f}, ratio {row['ratio']:.3f}: {verdict}"
    )


def table(values: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = []
    if "memory" in values:
        lines += [
            "| backbone | method | memory | images | precision | forecast, MiB | measured | ratio | usual |"
        ]
        lines += ["|---|---|---|---:|---|---:|---:|---:|---:|"]
        for row in values["memory"]["rows"]:
            sizes = [row[f"{kind}_bytes"] / 2**20 for kind in ("forecast", "measured", "usual_allocator")]
            lines.append(
                f"| `{row['model']}` | {row['method']} | {row['memory']} | {row['images']} | "
                f"{row['precision']} | {sizes[0]:,.0f} | {sizes[1]:,.0f} | {row['ratio']:.2f} | {sizes[2]:,.0f} |"
            )
        lines.append("")
    if "time" in values:
        lines += ["| backbone | method | images | forecast from | forecast, s | measured | ratio |"]
        lines += ["|---|---|---:|---|---:|---:|---:|"]
        for row in values["time"]["rows"]:
            lines.append(
                f"| `{row['model']}` | {row['method']} | {row['images']} | {row['basis']} | "
                f"{row['forecast_seconds']:.3f} | {row['measured_seconds']:.3f} | {row['ratio']:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)


def put_into_page(text: str) -> None:
    """Replace what stands between the two marks of the page."""
    before, rest = PAGE.read_text().split(MARKS[0])
    _, after = rest.split(MARKS[1])
    replace_file(PAGE, lambda temporary: temporary.write_text(f"{before}{MARKS[0]}{text}{MARKS[1]}{after}"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("memory", "time"))
    parser.add_argument("--pairs", type=int, default=len(MEMORY), help="pairs whose memory is measured")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    values: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {}
    made = {"machine": machine(), "versions": versions()}
    if options.only != "time":
        values["memory"] = {"kernel_bytes": kernel_bytes(), "rows": memory(options.pairs), **made}
        print(
            f"a kernel of a half-precision product takes {values['memory']['kernel_bytes'] / 2**10:.0f} KiB"
        )
    if options.only != "memory":
        values["time"] = {"rows": times(options.rounds), **made}
    replace_file(RESULT, lambda temporary: temporary.write_text(json.dumps(values, indent=1) + "\n"))
    put_into_page(table(values))
    for kind, limit in (("memory", MEMORY_WITHIN), ("time", TIME_WITHIN)):
        if kind in values:
            rows = values[kind]["rows"]
            worst = max(abs(row["ratio"] - 1) for row in rows)
            good = sum(row["within"] for row in rows)
            print(
                f"{kind}: {good} of {len(rows)} within {100 * limit:.0f} %, the worst {100 * worst:.0f} % off"
            )


if __name__ == "__main__":
    main()
