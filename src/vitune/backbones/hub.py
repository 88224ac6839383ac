"""The Hugging Face hub, asked only where it can be reached."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

_CONNECT_SECONDS = 3.0


@contextmanager
def quick_hub() -> Iterator[None]:
    """While entered, a hub that cannot be reached is not asked: its client would retry for most of a minute.

    Files in its cache are found all the same.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable() -> bool:
    if getproxies():
        return True  # the names may be known to the proxy alone
    address = urlsplit(constants.ENDPOINT)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=_CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
