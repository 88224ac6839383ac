"""A hub cache with one repository in it, as a download leaves it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest


def fill(cache: Path, repo: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the files of a folder into a cache, make it the cache in use, and cut the network.

    Returns:
        The snapshot.
    """
    home = cache / f"models--{repo.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot, blobs = home / "snapshots" / commit, home / "blobs"
    for folder in (snapshot, blobs, home / "refs"):
        folder.mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    for file in files.iterdir():
        data = file.read_bytes()
        blob = blobs / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(cache), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot
