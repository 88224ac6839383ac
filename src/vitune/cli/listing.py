"""`vitune list`: what there is to choose from."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from vitune.cli.console import console, table
from vitune.cli.method_list import method_table, print_refused
from vitune.errors import NothingMatchedError, did_you_mean

# Files of timm whose models are plain or distilled `VisionTransformer`s.
_TAGS_SHOWN = 4
_ROOM_FOR_RECIPE_TITLES = 110


def list_(
    what: Annotated[
        str, typer.Argument(metavar="methods|models|recipes|settings|suites", help="What to list.")
    ],
    match: Annotated[
        str | None,
        typer.Argument(metavar="[FILTER]", help="Only names that contain this; * stands for anything."),
    ] = None,
) -> None:
    """List methods, backbones, recipes, benchmark suites, or the settings of training."""
    lists = {
        "methods": lambda match: method_table(partial(_keep, match)),
        "models": _models,
        "recipes": _recipes,
        "settings": _settings,
        "suites": _suites,
    }
    if what not in lists:
        raise NothingMatchedError(f"there is no list of '{what}'. {did_you_mean(what, lists)}")
    found, note = lists[what](match)
    if not found.rows:
        raise NothingMatchedError(f"no {what} match '{match}'; 'vitune list {what}' shows all.")
    console().print(found)
    console().print(note)
    if what == "methods":
        print_refused(console(), partial(_keep, match))


def _keep(match: str | None, name: str) -> bool:
    from fnmatch import fnmatch

    return match is None or fnmatch(name, match if "*" in match else f"*{match}*")


def _models(match: str | None) -> tuple[Any, str]:
    import timm

    from vitune.anatomy import FAMILIES
    from vitune.backbones import BUILT_IN, read_card

    made = table("model", "input", "weights", right=("input",), whole=("model",))
    if _keep(match, BUILT_IN):
        made.add_row(BUILT_IN, str(read_card().input["size"][-1]), "in the package")
    for file in (file for family in FAMILIES.values() for file in family.TIMM_FILES):
        for name in timm.list_models(module=file):
            if _keep(match, name):
                tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
                more = (
                    f" and {len(tags) - _TAGS_SHOWN} more"
                    if len(tags) > _TAGS_SHOWN and match is None
                    else ""
                )
                shown = tags[:_TAGS_SHOWN] if more else tags
                size = timm.get_pretrained_cfg(name)
                pixels = "-" if size is None else str(size.input_size[-1])
                made.add_row(name, pixels, ", ".join(shown) + more or "-")
    return made, (
        "Give weights as NAME.WEIGHTS. Hugging Face ViTs work too, by OWNER/NAME or folder."
        " 'vitune show --model NAME' draws one."
    )


def _recipes(match: str | None) -> tuple[Any, str]:
    from vitune.recipes import load_recipe, recipe_names

    columns = ("recipe", "evidence", "tasks", "to choose", "title")
    if console().width < _ROOM_FOR_RECIPE_TITLES:
        columns = columns[:-1]  # the name says most of it, and a line each is easier to read
    made = table(*columns, right=("tasks",), whole=("recipe", "evidence", "to choose"))
    for name in recipe_names():
        if _keep(match, name):
            recipe = load_recipe(name)
            chosen = ", ".join(recipe.choose) or "-"
            cells = (name, recipe.level, str(len(recipe.tasks) or "-"), chosen, recipe.title)
            made.add_row(*cells[: len(columns)])
    return (
        made,
        "Use one with --recipe NAME, or NAME/TASK where it has tasks; 'vitune show NAME' has all of it.",
    )


def _suites(match: str | None) -> tuple[Any, str]:
    from vitune.suites import load_published, load_suite, suite_names

    columns = ("suite", "tasks", "protocols", "published rows", "title")
    if console().width < _ROOM_FOR_RECIPE_TITLES:
        columns = (*columns[:2], columns[-1])
    made = table(*columns, right=("tasks", "published rows"), whole=("suite",))
    for name in suite_names():
        if _keep(match, name):
            suite = load_suite(name)
            cells = {
                "suite": name,
                "tasks": str(len(suite.tasks)),
                "protocols": ", ".join(protocol.name for protocol in suite.protocols),
                "published rows": str(len(load_published(name)) or "-"),
                "title": suite.title,
            }
            made.add_row(*(cells[column] for column in columns))
    return (
        made,
        "'vitune bench SUITE ROOT --check' says which data are there; a .toml file of your own works too.",
    )


def _settings(match: str | None) -> tuple[Any, str]:
    from vitune.cli.settings import settings_of
    from vitune.training import TrainConfig

    made = table("setting", "default", "what it is", whole=("setting", "default"))
    for setting in settings_of(TrainConfig):
        if _keep(match, setting.name):
            made.add_row(setting.name, setting.default, setting.explanation)
    return (
        made,
        "Set one with --set NAME=VALUE; the most used have options of their own in 'vitune train --help'.",
    )
