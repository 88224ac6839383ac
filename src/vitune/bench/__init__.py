"""Benchmarks that cannot fool themselves: trials that run once, selection that never sees the test split."""

from __future__ import annotations

from vitune.bench.protocol import Case, CaseResult, SelectThenTest, run_protocol
from vitune.bench.sealed import TrialData, once, sealed
from vitune.bench.selection import ValidationResult, select
from vitune.bench.table import Cell, Column, Row, aggregate, markdown
from vitune.bench.trial import Trial
from vitune.bench.trials import TrialOutcome, TrialRunner

__all__ = [
    "Case",
    "CaseResult",
    "Cell",
    "Column",
    "Row",
    "SelectThenTest",
    "Trial",
    "TrialData",
    "TrialOutcome",
    "TrialRunner",
    "ValidationResult",
    "aggregate",
    "markdown",
    "once",
    "run_protocol",
    "sealed",
    "select",
]
