"""Adapters on the Hugging Face hub: `hf-hub:OWNER/NAME`, with `@REVISION` behind it where one is meant."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub

from vitune.adapters._files import CONFIG, TENSORS
from vitune.backbones.hub import quick_hub
from vitune.backbones.messages import sentence
from vitune.errors import AdapterError

PREFIX = "hf-hub:"


def is_hub_name(path: str | Path) -> bool:
    """Whether an adapter is named that is on the hub."""
    return str(path).startswith(PREFIX)


def fetch(name: str | Path) -> Path:
    """The directory of an adapter on the hub: downloaded, or out of the local cache where there is no network.

    Args:
        name: `hf-hub:OWNER/NAME` or `hf-hub:OWNER/NAME@REVISION`.

    Raises:
        AdapterError: If there is no such adapter, or it can neither be downloaded nor is in the cache.
    """
    repo, _, revision = str(name).removeprefix(PREFIX).partition("@")
    try:
        with quick_hub():
            found = huggingface_hub.snapshot_download(
                repo, revision=revision or None, allow_patterns=[CONFIG, TENSORS]
            )
    except Exception as error:  # no network shows as any of a dozen classes, by transport and cache state
        raise AdapterError(
            f"the adapter '{name}' cannot be fetched ({sentence(error)}); look at the name, log in with "
            f"'hf auth login' if it is private, or give a directory."
        ) from error
    return Path(found)
