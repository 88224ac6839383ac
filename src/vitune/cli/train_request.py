"""From the words of a command line to a request."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitune.cli.settings import read_settings
from vitune.errors import ConfigError, RunError
from vitune.recipes import Recipe, load_recipe
from vitune.tasks.request import DataSettings, ModelSettings, TrainRequest
from vitune.tasks.run_directory import CONFIG_FILE, FORMAT, read_config, read_json
from vitune.training.config import TrainConfig

_REQUEST_SETTINGS = ("final_test", "tensorboard", "store_bits")


def known_settings() -> dict[str, Any]:
    """Name to type of every setting that `--set` takes."""
    known = {**_types(TrainConfig), **_types(DataSettings), **_types(ModelSettings)}
    known |= {name: kind for name, kind in _types(TrainRequest).items() if name in _REQUEST_SETTINGS}
    for name in ("path", "name", "weights"):  # arguments and options with names of their own
        del known[name]
    return known


def compose(data: Path | None, given: Mapping[str, Any], out: Path | None) -> TrainRequest:
    """A request from options.

    Args:
        data: The data.
        given: Options that the user gave, by name; `set` has the words of `--set`.
        out: The run directory.

    Raises:
        VituneError: If something is missing, unknown, contradictory or out of range.
    """
    if data is None:
        raise ConfigError(
            "no data given; name a folder of images or a table: vitune train DATA --method ssf."
        )
    options = {
        name: value for name, value in given.items() if name not in ("model", "method", "recipe", "set")
    }
    values = {**read_settings(given.get("set", ()), known_settings()), **_unless_set_twice(options, given)}
    recipe = load_recipe(given["recipe"]) if "recipe" in given else None
    training = {name: values.pop(name) for name in _types(TrainConfig) if name in values}
    data_values = {name: values.pop(name) for name in _types(DataSettings) if name in values}
    model_values = {name: values.pop(name) for name in _types(ModelSettings) if name in values}
    if recipe is not None:
        recipe.require({**training, **data_values})
        training = {**recipe.train, **training}
        data_values = {**recipe.data, **data_values}
    return TrainRequest(
        data=DataSettings(path=data, **data_values),
        model=ModelSettings(name=given.get("model"), **model_values),
        method=_method(given.get("method"), recipe),
        training=TrainConfig.from_dict(training),
        out=out,
        **values,
    )


def repeat(config: Path, data: Path | None, out: Path | None) -> TrainRequest:
    """The request that wrote a configuration.

    Args:
        config: The `config.json` of a run, a copy of it, or the run directory.
        data: Where the data are now, if they have moved.
        out: The new run directory.

    Raises:
        RunError: If it is no configuration of a run, or one of another version.
        ConfigError: If a setting in it is unknown or not allowed.
    """
    if config.is_dir():
        request = read_config(config)
    elif config.is_file() and config.name == CONFIG_FILE:
        request = read_config(config.parent)
    elif config.is_file():
        request = _read_copy(config)
    else:
        raise RunError(f"there is no configuration '{config}'; name the config.json of a run.")
    if data is not None:
        request = replace(request, data=replace(request.data, path=data))
    return replace(request, out=out)


def _read_copy(path: Path) -> TrainRequest:
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise RunError(f"'{path}' is not the config.json of a run of this version of vitune; give that file.")
    names = [field.name for field in dataclasses.fields(TrainRequest)]
    return TrainRequest.from_dict({name: values[name] for name in names if name in values})


def _unless_set_twice(options: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    for word in given.get("set", ()):
        name = word.partition("=")[0].strip().replace("-", "_")
        if name in options:
            raise ConfigError(
                f"{name} is given twice, as --{name.replace('_', '-')} and as --set {name}; give one."
            )
    return options


def _method(text: str | None, recipe: Recipe | None) -> str:
    if text is not None:
        return text
    if recipe is not None:
        return recipe.method
    raise ConfigError(
        "no method given; say what to train, for instance --method ssf (see 'vitune list methods')."
    )


def _types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)
