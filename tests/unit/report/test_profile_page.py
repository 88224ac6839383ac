"""The page of a profile: what was measured is drawn, what was not is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vitune.errors import RunError
from vitune.report import write_profile_report
from vitune.report.fields import Fields
from vitune.report.profile_page import profile_page


def row(method: str, memory: str, forecast: int, ratio: float | None = None, **more: Any) -> dict[str, Any]:
    return {
        "method": method,
        "memory": memory,
        "trained_parameters": 1000,
        "adapter_bytes": 4000,
        "forward_flops": 10**9,
        "step_flops": 3 * 10**9,
        "saved_activation_bytes": forecast // 2,
        "forecast_bytes": forecast,
        "peak_bytes": None,
        "step_seconds": ratio,
        "step_ratio": None if ratio is None else [ratio, ratio, ratio],
        "inference_ratio": None,
        **more,
    }


def profile(*rows: dict[str, Any]) -> dict[str, Any]:
    settings = {
        "model": None,
        "batch_size": 8,
        "precision": "fp32",
        "classes": 10,
        "device": "cpu",
        "rounds": 2,
    }
    return {"settings": settings, "rows": list(rows), "machine": {"cpu": "x"}, "versions": {"torch": "2"}}


TIMED = profile(
    row("full", "stock", 4 * 2**30, 1.0), row("lora", "fast", 2**30, 0.7), row("lora", "lean", 2**29, 0.8)
)


def test_memory_stands_against_time_and_levels_of_a_method_share_a_colour() -> None:
    page = profile_page(Fields(TIMED, "profile"))
    assert page.scatter is not None
    assert page.scatter.title == "Memory of a step, MiB, against time"
    dots = {dot.label: dot for dot in page.scatter.dots}
    assert dots["lora, fast"].tone == dots["lora, lean"].tone != dots["full, stock"].tone
    assert {label for label, dot in dots.items() if dot.on_front} == {"lora, fast", "lora, lean"}


def test_what_does_not_depend_on_the_level_has_one_bar_a_method() -> None:
    page = profile_page(Fields(TIMED, "profile"))
    groups = {group.title: [bar.label for bar in group.bars] for group in page.costs}
    assert groups["Trained parameters"] == ["full", "lora"]
    assert groups["Time of a step"] == ["full, stock", "lora, fast", "lora, lean"]
    assert "Memory of a step, measured" not in groups


def test_without_times_compute_stands_in() -> None:
    page = profile_page(Fields(profile(row("full", "stock", 2**30), row("lora", "fast", 2**29)), "profile"))
    assert page.scatter is not None
    assert "GFLOPs" in page.scatter.x_label
    assert "Time of a step" not in page.heads


def test_the_file_is_one_page_that_loads_nothing(tmp_path: Path) -> None:
    values = {**TIMED, "settings": {**TIMED["settings"], "model": "<b>model</b>"}}
    text = write_profile_report(values, tmp_path / "profile.html").read_text()
    assert "&lt;b&gt;model&lt;/b&gt;" in text
    assert "<b>model</b>" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count('data-value="0.7"') == 2  # seconds and ratio, in the table


def test_a_wrong_value_is_named(tmp_path: Path) -> None:
    values = profile(row("full", "stock", 2**30, trained_parameters="many"), row("lora", "fast", 2**29))
    with pytest.raises(RunError, match=r"trained_parameters' should be a number or null, found \"many\""):
        write_profile_report(values, tmp_path / "profile.html")
    assert not (tmp_path / "profile.html").exists()
