"""Ctrl-C: the first one ends the run cleanly after the current step, the second one at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupt:
    """While entered, takes note of SIGINT in place of raising KeyboardInterrupt.

    Outside the main thread, where Python allows no handlers, it never notes anything.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: signal._HANDLER | None = None
        self._installed = False

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._note)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous or signal.default_int_handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


def ignore_interrupts(worker: int) -> None:
    """Start a data worker deaf to Ctrl-C, which a terminal sends to it as well; its parent ends it.

    Args:
        worker: Number of the worker.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
