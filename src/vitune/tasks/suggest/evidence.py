"""What is known of accuracies: our own trials, which ship with the package, and published numbers, which are weaker."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from vitune.methods import method_text, parse

_PACKAGE = "vitune.tasks.suggest"
EVIDENCE_FILE, PUBLISHED_FILE = "evidence.json", "published.toml"
BASELINE = "linear"
# Evidence counts half where the number of training images is so many times larger or smaller.
_HALF_AT = 4.0
# What evidence on another backbone counts, of the same family and of another.
_SAME_FAMILY, _OTHER_FAMILY = 0.5, 0.25
_CLOSE_IMAGES = 3.0


@dataclass(frozen=True)
class Known:
    """What one method reached in one group of trials.

    Attributes:
        accuracy: Mean test accuracy over the seeds, from 0 to 1.
        gain: Mean difference to the linear probe, paired by seed.
        half: Half width of the 95 % interval of that difference; None where it is unknown.
        seeds: How many.
        lr: Learning rate that was chosen on validation images.
    """

    accuracy: float
    gain: float
    half: float | None
    seeds: int
    lr: float


@dataclass(frozen=True)
class Group:
    """Trials on the same data with the same backbone and protocol.

    Attributes:
        data: Name of the data.
        train_images: How many.
        classes: How many.
        backbone: Its name.
        family: Its family.
        protocol: Name of the protocol, with the beginning of the weights' hash.
        epochs: Of training.
        batch_size: Of training.
        source: Where the trials are, in the repository.
        methods: By method as text.
    """

    data: str
    train_images: int
    classes: int
    backbone: str
    family: str
    protocol: str
    epochs: int
    batch_size: int
    source: str
    methods: dict[str, Known]


@dataclass(frozen=True)
class Published:
    """A published result.

    Attributes:
        gain: Points over the linear probe in the same average, as a share.
        source: Who says so.
    """

    gain: float
    source: str


@dataclass(frozen=True)
class Standing:
    """What is to be expected of a method on the user's data, relative to a linear probe.

    Attributes:
        gain: By our trials, as a share; None where there are none.
        half: Half width of its 95 % interval, differences between groups included.
        groups: Names of the data it comes from.
        close: Whether one of them has the same backbone and about as many training images.
        exact: Whether they used these very settings of the method.
        lr: Learning rate that the nearest group chose; None without one of these settings.
        published: The published number, if any.
    """

    gain: float | None = None
    half: float | None = None
    groups: tuple[str, ...] = ()
    close: bool = False
    exact: bool = False
    lr: float | None = None
    published: Published | None = None


@cache
def evidence() -> tuple[Group, ...]:
    """Our own trials, as `python -m benchmarks.evidence` put them together."""
    values = json.loads(files(_PACKAGE).joinpath(EVIDENCE_FILE).read_text())
    return tuple(group_from(entry) for entry in values["groups"])


def group_from(entry: dict[str, Any]) -> Group:
    """A group as the file holds it."""
    methods = {name: Known(**known) for name, known in entry["methods"].items()}
    return Group(**{**entry, "methods": methods})


@cache
def published() -> dict[str, Published]:
    """Published results by method as text."""
    values = tomllib.loads(files(_PACKAGE).joinpath(PUBLISHED_FILE).read_text())
    found: dict[str, Published] = {}
    for table in values["table"]:
        base = table["methods"][BASELINE]
        for name, accuracy in table["methods"].items():
            found.setdefault(name, Published((accuracy - base) / 100, table["source"]))
    return found


def standing(
    text: str, *, train_images: int, backbone: str, family: str, groups: Sequence[Group] | None = None
) -> Standing:
    """Put together what is known of a method.

    Args:
        text: The method as the command line writes it.
        train_images: Of the user's data.
        backbone: The user's.
        family: Of that backbone.
        groups: The trials; by default those that ship with the package.
    """
    methods = parse(text)
    exact, plain = ",".join(map(method_text, methods)), ",".join(method.name for method in methods)
    groups = evidence() if groups is None else groups
    weighed = []
    for group in groups:
        known = group.methods.get(exact) or group.methods.get(plain)
        if known is not None:
            weighed.append((_weight(group, train_images, backbone, family), group, known))
    cited = published().get(exact) or published().get(plain)
    if not weighed:
        return Standing(published=cited)
    total = sum(weight for weight, _, _ in weighed)
    gain = sum(weight * known.gain for weight, _, known in weighed) / total
    _, nearest, chosen = max(weighed, key=lambda entry: entry[0])
    same = exact in nearest.methods
    return Standing(
        gain=gain,
        half=_half(weighed, total),
        groups=tuple(group.data for _, group, _ in weighed),
        close=same and any(_is_close(group, train_images, backbone) for _, group, _ in weighed),
        exact=same,
        lr=chosen.lr if same else None,
        published=cited,
    )


def _half(weighed: Sequence[tuple[float, Group, Known]], total: float) -> float | None:
    """Of the weighted mean: of the seeds within groups, or half of the range between groups where that is more."""
    if any(known.half is None for _, _, known in weighed):
        return None
    within = math.sqrt(sum((weight * (known.half or 0.0)) ** 2 for weight, _, known in weighed)) / total
    gains = [known.gain for _, _, known in weighed]
    return max(within, (max(gains) - min(gains)) / 2)


def _weight(group: Group, train_images: int, backbone: str, family: str) -> float:
    distance = abs(math.log(max(train_images, 1) / group.train_images))
    of_size = 0.5 ** (distance / math.log(_HALF_AT))
    if group.backbone == backbone:
        return of_size
    return of_size * (_SAME_FAMILY if group.family == family else _OTHER_FAMILY)


def _is_close(group: Group, train_images: int, backbone: str) -> bool:
    times = max(train_images, 1) / group.train_images
    return group.backbone == backbone and 1 / _CLOSE_IMAGES <= times <= _CLOSE_IMAGES
