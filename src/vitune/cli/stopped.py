"""How a verb says that Ctrl-C ended it."""

from __future__ import annotations


class Stopped(Exception):
    """Ctrl-C ended the work; the message says how to go on. The exit code is 130."""
