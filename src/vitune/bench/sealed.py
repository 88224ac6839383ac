"""Who may open the test split: nobody while settings are chosen, the final run once.

A trial function is handed one of the two wrappers below and never the source itself, so what selects cannot
look at the test split even by mistake.
"""

from __future__ import annotations

from typing import Any, Protocol

from vitune.errors import DataError


class TrialData(Protocol):
    """What a trial may do with its data; `vitune.data.Source` has all of it."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names in the order of their labels."""
        ...

    @property
    def kind(self) -> str:
        """Which reader read the data."""
        ...

    @property
    def has_test(self) -> bool:
        """Whether there is a test split that may be opened."""
        ...

    def split(self, name: Any) -> Any:
        """The samples of "train" or "val"."""
        ...

    def open_test(self, reason: Any) -> Any:
        """The samples of the test split."""
        ...

    def describe(self) -> dict[str, Any]:
        """How the data were found and split, as JSON values."""
        ...


class _Guarded:
    """Passes on what does not concern the test split."""

    def __init__(self, source: TrialData) -> None:
        self.__source = source

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.__source.class_names

    @property
    def kind(self) -> str:
        return self.__source.kind

    def split(self, name: str) -> Any:
        if name not in ("train", "val"):
            raise DataError(f"A trial may use the splits 'train' and 'val', not '{name}'; see open_test.")
        return self.__source.split(name)

    def describe(self) -> dict[str, Any]:
        return self.__source.describe()


class _Sealed(_Guarded):
    has_test = False

    def open_test(self, reason: str) -> Any:
        raise DataError(
            f"The test split is sealed while settings are chosen (asked for with reason '{reason}'); "
            "only the final trials of a protocol open it."
        )


class _Once(_Guarded):
    def __init__(self, source: TrialData) -> None:
        super().__init__(source)
        self.has_test = source.has_test
        self.__door = source.open_test
        self.__opened = False

    def open_test(self, reason: str) -> Any:
        if reason != "final":
            raise DataError(f"A final trial opens the test split with reason 'final', not '{reason}'.")
        if self.__opened:
            raise DataError("A final trial opens the test split once; this is the second time.")
        self.__opened = True
        return self.__door(reason)


def sealed(source: TrialData) -> TrialData:
    """The same data without a way to the test split.

    Args:
        source: Where training and validation samples come from.

    Returns:
        Data whose `open_test` raises DataError and whose `has_test` is False.
    """
    return _Sealed(source)


def once(source: TrialData) -> TrialData:
    """The same data with a test split that opens once, for the reason "final"; then DataError.

    Args:
        source: Where the samples come from.
    """
    return _Once(source)
