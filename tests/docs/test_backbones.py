"""The page of backbones lists every family."""

from __future__ import annotations

import re
from pathlib import Path

from vitune.anatomy import FAMILIES

PAGE = (Path(__file__).parents[2] / "docs" / "backbones.md").read_text()


def test_every_family_has_a_row():
    assert set(re.findall(r"^\| `([\w-]+)` \|", PAGE, re.MULTILINE)) == set(FAMILIES)
