"""Material that is too large for the repository: read from a folder beside it, or skipped with the reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def shared_folder() -> Path:
    """The folder named by VITUNE_SHARED; `../shared` beside the repository where that is not set."""
    return Path(os.environ.get("VITUNE_SHARED") or ROOT.parent / "shared").resolve()


def need_shared(*parts: str) -> Path:
    """A file or folder of it.

    Without it the test is skipped with the reason, or fails where VITUNE_REQUIRE_SHARED=1 says that it must be there.
    """
    path = shared_folder().joinpath(*parts)
    if not path.exists():
        reason = f"'{path}' is not there; VITUNE_SHARED names the folder of shared test material"
        if os.environ.get("VITUNE_REQUIRE_SHARED") == "1":
            pytest.fail(f"{reason}, and VITUNE_REQUIRE_SHARED=1 asks for it")
        pytest.skip(reason)
    return path
