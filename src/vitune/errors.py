"""The errors a user can cause.

Each message is one sentence or two with three parts: what was wrong, what was found, what to do. The command line
prints the message alone and exits with code 2; in Python the class tells what kind of input was at fault.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VituneError(ValueError):
    """Base of every error that bad input can cause."""


class ConfigError(VituneError):
    """A setting is unknown, out of range or contradicts another."""


class UnsupportedBackboneError(VituneError):
    """The model is of no known family, or a method cannot work on its family."""


class NothingMatchedError(VituneError):
    """A role, method or model name matched nothing."""


class CompositionError(VituneError):
    """Two methods cannot be applied to the same model."""


class SurgeryError(VituneError):
    """An edit cannot be made, undone or merged on this module."""


class AdapterError(VituneError):
    """A saved adapter cannot be read, or does not fit the backbone."""


class DataError(VituneError):
    """A data set, list file or image cannot be used."""


class RunError(VituneError):
    """A run directory or checkpoint cannot be used or written."""


class TrainingError(VituneError):
    """Training cannot go on, for instance since the loss is not finite."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an error message that names the nearest known name, or lists them all when none is near.

    Args:
        name: What the user wrote.
        known: The names that would have been accepted.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if near:
        # Of equally near ones that of the most similar length: letters are swapped more often than left out.
        ratio = {one: difflib.SequenceMatcher(None, one, name).ratio() for one in near}
        nearest = max(near, key=lambda one: (ratio[one], -abs(len(one) - len(name))))
        return f"Did you mean '{nearest}'?"
    return f"Known: {', '.join(known)}." if known else "None is known."
