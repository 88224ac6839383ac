"""BitFit: its settings and the names of its tensors in the references."""

from __future__ import annotations

import vitune
from tests.parity.case import Case, none_new
from tests.parity.golden import Golden


def case(golden: Golden) -> Case:
    return Case(vitune.BitFit(rule="names"), none_new)
