"""Benchmark suites as data: one TOML file each, and the published numbers that stand beside ours."""

from __future__ import annotations

from vitune.suites.loading import EvaluationSet, Suite, SuiteProtocol, Task, load_suite, suite_names
from vitune.suites.published import PublishedRow, load_published

__all__ = [
    "EvaluationSet",
    "PublishedRow",
    "Suite",
    "SuiteProtocol",
    "Task",
    "load_published",
    "load_suite",
    "suite_names",
]
