"""Domain generalisation: `DOMAIN/CLASS/*.jpg`, trained on some domains and tested on another.

The layout of PACS, OfficeHome, VLCS, TerraIncognita and DomainNet as DomainBed unpacks them (arXiv:2007.01434). As
there, the validation images are a part of every training domain: nothing of the tested domain takes part in a choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from vitune.data.folder import visible_folders
from vitune.data.images import walk_images
from vitune.data.listing import FileImages, Layout, Listing
from vitune.errors import ConfigError, DataError, did_you_mean


def domains_of(folder: Path) -> list[str]:
    """Sorted names of the folders that hold class folders."""
    return [name for name in visible_folders(folder) if visible_folders(folder / name)]


def domain_of(name: str) -> str:
    """The domain of an image, from its path below the data."""
    return name.partition("/")[0]


def read_domains(folder: Path, test_domain: str, train_domains: Sequence[str] | None = None) -> Layout:
    """Read domains of class folders.

    A domain may lack classes that another has (no folder, or an empty one); `rule` names them.

    Args:
        folder: The folder of the domains.
        test_domain: The domain that is tested on.
        train_domains: The domains that are trained on; None is all others.

    Returns:
        "train", the images of the training domains, and "test".

    Raises:
        ConfigError: If a domain is unknown, named twice, or both trained and tested on.
        DataError: If there are fewer than two domains, or one holds no image.
    """
    there = domains_of(folder)
    if len(there) < 2:
        raise DataError(
            f"'{folder}' has {len(there)} folders of class folders, and domains need two or more: DOMAIN/CLASS/*.jpg."
        )
    others = [name for name in there if name != test_domain]
    trained = others if train_domains is None else list(train_domains)
    _check(folder, there, test_domain, trained)
    listings = {"train": _listing(folder, trained), "test": _listing(folder, [test_domain])}
    lacking = _lacking(listings.values(), [*trained, test_domain])
    rule = {
        "rule": "domains",
        "train_domains": trained,
        "test_domain": test_domain,
        "classes_lacking": lacking,
        "notes": [
            f"the domain '{domain}' has no images of these classes: {', '.join(names)}."
            for domain, names in lacking.items()
        ],
    }
    return Layout("domains", folder, listings, rule=rule)


def missing(folder: Path, *, domains: Iterable[str] | None = None, classes: int | None = None) -> list[str]:
    """What a folder of domains lacks, one sentence each.

    Args:
        folder: The folder.
        domains: Domains that must be there; None asks for any two.
        classes: How many classes there must be over all domains.
    """
    if not folder.is_dir():
        return [f"there is no folder '{folder}'; it holds one folder of class folders for each domain."]
    there = domains_of(folder)
    if domains is None:
        lacks = (
            []
            if len(there) > 1
            else [f"'{folder}' holds {len(there)} domains, and two are needed: DOMAIN/CLASS/*.jpg."]
        )
    else:
        lacks = [
            f"the domain '{name}' is missing in '{folder}': a folder of class folders."
            for name in domains
            if name not in there
        ]
    found = {name for domain in there for name in visible_folders(folder / domain)}
    if classes is not None and there and len(found) != classes:
        lacks.append(f"'{folder}' has {len(found)} classes, expected {classes}.")
    return lacks


def _check(folder: Path, there: list[str], test_domain: str, trained: list[str]) -> None:
    for name in (test_domain, *trained):
        if name not in there:
            raise ConfigError(f"'{folder}' has no domain '{name}'. {did_you_mean(name, there)}")
        if trained.count(name) > 1:
            raise ConfigError(f"the training domain '{name}' is given twice; give it once.")
    if test_domain in trained:
        raise ConfigError(f"the domain '{test_domain}' is both trained and tested on; train on others.")
    if not trained:
        raise ConfigError("no training domain is given; name one or more, or leave train_domains out.")


def _listing(folder: Path, domains: list[str]) -> Listing:
    names: list[str] = []
    classes: list[str] = []
    for domain in domains:
        before = len(names)
        for class_folder in visible_folders(folder / domain):
            inside = walk_images(folder / domain / class_folder)
            names += [f"{domain}/{class_folder}/{name}" for name in inside]
            classes += [class_folder] * len(inside)
        if len(names) == before:
            raise DataError(f"the domain '{folder / domain}' holds no image; fill it or remove it.")
    return Listing.all_of(FileImages(folder, names), classes)


def _lacking(listings: Iterable[Listing], domains: list[str]) -> dict[str, list[str]]:
    """Domain to the classes that it lacks and another of these domains has."""
    found: dict[str, set[str]] = {domain: set() for domain in domains}
    for listing in listings:
        for position in listing.positions:
            found[domain_of(listing.images.name(position))].add(listing.classes[position])
    every = set().union(*found.values())
    return {domain: sorted(every - own) for domain, own in found.items() if every - own}
