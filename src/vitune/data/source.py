"""A data set with one class map, and with its test split behind one door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from vitune.data.classes import check_class_names, labels_of, make_class_map
from vitune.data.listing import Kind, Layout, Listing
from vitune.data.samples import Samples
from vitune.data.verify import drop_bad_images
from vitune.errors import ConfigError, DataError, did_you_mean

OnBadImage = Literal["error", "skip"]
ON_BAD_IMAGE = ("error", "skip")
REASONS = ("evaluate", "final")


class Source:
    """What `open_source` gives.

    Making one lists every split and checks its classes against the class map; it decodes images only if bad
    ones are to be skipped, and then those of train and val alone.

    Args:
        layout: What a reader found; without a "train" listing, `class_names` must be given.
        on_bad_image: "error": a broken image fails when it is read. "skip": images of train and val are
            decoded once now, and the broken ones are left out and recorded in `describe`.
        class_names: The class map to use; None makes one from the training images.

    Raises:
        DataError: If a split has a class that is not in the map, or a class has no readable image left.
    """

    def __init__(
        self, layout: Layout, *, on_bad_image: OnBadImage = "error", class_names: Sequence[str] | None = None
    ) -> None:
        if on_bad_image not in ON_BAD_IMAGE:
            raise ConfigError(
                f"on_bad_image is '{on_bad_image}'. {did_you_mean(str(on_bad_image), ON_BAD_IMAGE)}"
            )
        self._layout = layout
        self._on_bad_image: OnBadImage = on_bad_image
        self._map_is_given = class_names is not None
        self.class_names: tuple[str, ...] = (
            make_class_map(layout) if class_names is None else tuple(class_names)
        )
        owner = "the given class map" if self._map_is_given else "the training images"
        for split, listing in layout.listings.items():
            labels_of(listing, self.class_names, split, owner)
        self._bad: dict[str, dict[str, str]] = {}
        self._usable: dict[str, Listing] = {}
        self._test_openings: list[str] = []
        if on_bad_image == "skip":
            for split in ("train", "val"):
                if split in layout.listings:
                    self._use(split)

    @property
    def kind(self) -> Kind:
        """Which reader read the data."""
        return self._layout.kind

    @property
    def test_openings(self) -> tuple[str, ...]:
        """The reason of each opening of the test split so far."""
        return tuple(self._test_openings)

    @property
    def has_test(self) -> bool:
        """Whether there is a test split to open."""
        return "test" in self._layout.listings

    def split(self, name: Literal["train", "val"]) -> Samples | None:
        """The training or validation samples.

        Args:
            name: "train" or "val".

        Returns:
            The samples; None for "val" if the data are used without a validation split.

        Raises:
            ConfigError: If `name` is "test" (see `open_test`) or unknown.
        """
        if name == "test":
            raise ConfigError(
                "the test split is sealed: open it with open_test(reason='evaluate' or 'final')."
            )
        if name not in ("train", "val"):
            raise ConfigError(f"there is no split '{name}'; use 'train' or 'val'.")
        if name == "train" and "train" not in self._layout.listings:
            raise DataError(f"'{self._layout.path}' has no training split.")
        return self._samples(name) if name in self._layout.listings else None

    def open_test(self, reason: Literal["evaluate", "final"]) -> Samples:
        """The test samples. Every opening is counted in `test_openings` and in `describe`.

        Args:
            reason: "evaluate" for an evaluation that the user asked for, "final" for the one at the end of a
                run.

        Raises:
            ConfigError: If the reason is another.
            DataError: If the data have no test split.
        """
        if reason not in REASONS:
            raise ConfigError(f"the test split opens for {' or '.join(REASONS)} only, not for '{reason}'.")
        if not self.has_test:
            there = ", ".join(self._layout.listings)
            raise DataError(f"'{self._layout.path}' has no labelled test split; its splits are {there}.")
        self._test_openings.append(reason)
        return self._samples("test")

    def with_classes(self, class_names: Sequence[str]) -> Source:
        """The same data with the labels of another class map, matched by name.

        Args:
            class_names: Names in the order of their labels, as an adapter stores them. Openings of the test
                split count on both sources.

        Raises:
            DataError: If a split has a class that is not among them.
        """
        check_class_names(class_names, "the given class map")
        # Bad images were already left out here: look at none of them twice.
        other = Source(self._layout, class_names=class_names)
        other._on_bad_image = self._on_bad_image
        other._bad, other._usable, other._test_openings = self._bad, self._usable, self._test_openings
        return other

    def describe(self) -> dict[str, Any]:
        """How the data were found, split and labelled, as JSON values; decodes nothing."""
        layout = self._layout
        return {
            "kind": layout.kind,
            "path": str(layout.path),
            "class_names": list(self.class_names),
            "class_map": "given"
            if self._map_is_given
            else "declared"
            if layout.declared
            else "training images",
            "classes_without_training_images": self._untrained(),
            "sizes": {
                split: len(self._usable.get(split, listing)) for split, listing in layout.listings.items()
            },
            "digests": {split: listing.digest() for split, listing in layout.listings.items()},
            "split": layout.rule,
            "on_bad_image": self._on_bad_image,
            "bad_images": {split: dict(bad) for split, bad in self._bad.items()},
            "test_openings": list(self._test_openings),
        }

    def _untrained(self) -> list[str] | None:
        train = self._usable.get("train", self._layout.listings.get("train"))
        if train is None:
            return None
        used = {train.classes[position] for position in train.positions}
        return [name for name in self.class_names if name not in used]

    def _samples(self, split: str) -> Samples:
        listing = self._use(split)
        labels = labels_of(listing, self.class_names, split, "this source")
        return Samples(listing, labels, self.class_names, split, tuple(self._bad.get(split, ())))

    def _use(self, split: str) -> Listing:
        listing = self._layout.listings[split]
        if self._on_bad_image == "error":
            return listing
        if split not in self._usable:
            self._usable[split], self._bad[split] = drop_bad_images(listing)
            self._check_left(split)
        return self._usable[split]

    def _check_left(self, split: str) -> None:
        before, left = self._layout.listings[split], self._usable[split]
        lost = {before.classes[p] for p in before.positions} - {left.classes[p] for p in left.positions}
        if lost and (split == "train" or not len(left)):
            first = next(iter(self._bad[split].values()))
            what = f"of the class '{min(lost)}' in" if split == "train" else "of"
            raise DataError(f"no image {what} the {split} split can be read; the first error is: {first}")
