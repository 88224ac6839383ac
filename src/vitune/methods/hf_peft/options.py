"""Settings of a PEFT config: from text, from a file, from a config object, and back."""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union
from urllib.parse import quote, unquote

from vitune._extras import require
from vitune.errors import ConfigError, did_you_mean

# What PEFT notes down about a run or a base model; none of it changes what is computed.
METADATA = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"}
METADATA |= {"inference_mode", "runtime_config"}
_HINTS = {
    "DORA": "DoRA is 'type=LORA,use_dora=true'",
    "RSLORA": "rsLoRA is 'type=LORA,use_rslora=true'",
    "QALORA": "QALoRA is 'type=LORA,use_qalora=true'",
}
_JSON = "json:"
# Words that a setting takes and its annotation does not name.
_UNLISTED = {"init_lora_weights": ("lora_ga",)}
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
_WORDS |= {list: "names joined by '+'", dict: "name:value pairs joined by '+'"}


def peft_library() -> Any:
    """The package peft.

    Raises:
        ConfigError: If it is not installed; names the extra.
    """
    require("peft", "peft", "the method 'peft'")
    return require("peft.mapping", "peft", "the method 'peft'")


def config_class(kind: str) -> type:
    """The config class of a PEFT type.

    Raises:
        ConfigError: If the installed PEFT has no such type; names the nearest.
    """
    known = known_types()
    if kind not in known:
        hint = _HINTS.get(kind.replace("-", "").upper())
        raise ConfigError(
            f"peft: no type '{kind}' in the installed peft; {hint}."
            if hint
            else f"peft: no type '{kind}' in the installed peft. {did_you_mean(kind, known)}"
        )
    return known[kind]


def known_types() -> dict[str, type]:
    """Config classes of the installed PEFT by type.

    Raises:
        ConfigError: If it is not installed; names the extra.
    """
    known = peft_library().PEFT_TYPE_TO_CONFIG_MAPPING
    # A plain string is of another package: `vitune.interop.peft_bridge` registers one.
    return {str(name.value): cls for name, cls in known.items() if hasattr(name, "value")}


def known_options(kind: str) -> dict[str, Any]:
    """Name to default of every setting of a PEFT type."""
    fields = dataclasses.fields(config_class(kind))
    found = {}
    for field in fields:
        if field.name in METADATA or not field.init:
            continue
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        found[field.name] = plain(made)
    return found


def plain(value: Any) -> Any:
    """A value of a config as JSON has it: sets as sorted lists, dataclasses and enums by their contents."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str):
        return str(getattr(value, "value", value))
    return value


def of_config(config: Any) -> tuple[str, dict[str, Any]]:
    """Type and settings of a config object of PEFT.

    Raises:
        ConfigError: If it is none.
    """
    kind = getattr(config, "peft_type", None)
    if kind is None or not dataclasses.is_dataclass(config):
        raise ConfigError(
            f"peft: config must be a config object of peft, such as peft.LoraConfig(...), "
            f"not a {type(config).__name__}."
        )
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.init}
    return plain(kind), {name: plain(value) for name, value in values.items() if name not in METADATA}


def of_file(path: str | Path) -> tuple[str, dict[str, Any]]:
    """Type and settings from a JSON file, or from the directory of an adapter that PEFT saved.

    Raises:
        ConfigError: If it cannot be read or names no type.
    """
    file = Path(path)
    if file.is_dir():
        file /= "adapter_config.json"
    try:
        values = json.loads(file.read_text())
    except OSError as error:
        raise ConfigError(f"peft: cannot read the config '{file}': {error.strerror or error}.") from None
    except ValueError as error:
        raise ConfigError(f"peft: the config '{file}' is not JSON: {error}.") from None
    if not isinstance(values, dict) or not isinstance(values.get("peft_type"), str):
        raise ConfigError(
            f"peft: the config '{file}' has no 'peft_type'; write one as peft's save_pretrained does."
        )
    return values["peft_type"], {name: value for name, value in values.items() if name not in METADATA}


def changed(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from the defaults.

    Raises:
        ConfigError: If a setting is unknown, within a nested config too; names the nearest.
    """
    known = known_options(kind)
    for name in options:
        if name not in known:
            raise ConfigError(f"peft: {kind} has no setting '{name}'. {did_you_mean(name, known)}")
    values = {name: plain(value) for name, value in options.items()}
    for name, value in values.items():
        if isinstance(value, dict):
            _check_nested(kind, name, value)
    return {name: value for name, value in values.items() if value != known[name]}


def nested_defaults(kind: str, name: str) -> dict[str, Any]:
    """Settings of the config that is nested in a setting, with their defaults; empty where none is."""
    cls = _nested(kind, name)
    return {} if cls is None else plain(cls())


def _check_nested(kind: str, name: str, values: Mapping[str, Any]) -> None:
    cls = _nested(kind, name)
    if cls is None:
        return
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for inner, value in values.items():
        if inner not in known:
            raise ConfigError(f"peft: {name} has no setting '{inner}'. {did_you_mean(inner, known)}")
        admitted, words = _admitted(cls, inner)
        whole_for_float = float in admitted and type(value) is int
        if not (type(value) in admitted or whole_for_float or value in words):
            raise ConfigError(f"peft: {inner} of {name} must be {_kinds(admitted, words)}, not '{value}'.")


def _nested(kind: str, name: str) -> type | None:
    """The class of the config that is nested in a setting."""
    try:
        hint = typing.get_type_hints(config_class(kind)).get(name)
    except (NameError, TypeError):  # an annotation that only a type checker can resolve
        return None
    found = [one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)]
    return found[0] if found and isinstance(found[0], type) else None


def read_option(kind: str, name: str, text: str) -> Any:
    """Read a setting from text, by the annotation that PEFT gives it.

    Raises:
        ConfigError: If the text is no such value.
    """
    admitted, words = _admitted(config_class(kind), name)
    try:
        return _read(text, admitted, words)
    except ValueError:
        raise ConfigError(f"peft: {name} must be {_kinds(admitted, words)}, not '{text}'.") from None


def _kinds(admitted: set[type], words: tuple[str, ...]) -> str:
    """Types and words that a setting may be, in words."""
    return " or ".join(
        [*(_WORDS[one] for one in _WORDS if one in admitted), *(f"'{word}'" for word in words)]
    )


def option_text(kind: str, name: str, value: Any) -> str:
    """The inverse of `read_option`; what plain text cannot say is written as percent-encoded JSON."""
    text = _text(value)
    if re.fullmatch(r"[\w.:+*/^$|\\\[\]?-]+", text):
        try:
            if read_option(kind, name, text) == value:
                return text
        except ConfigError:
            pass
    return _JSON + quote(json.dumps(value), safe="")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "+".join(f"{key}:{_text(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "+".join(_text(item) for item in value)
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _read(text: str, admitted: set[type], words: tuple[str, ...]) -> Any:
    if text.startswith(_JSON):
        return json.loads(unquote(text.removeprefix(_JSON)))
    guess = _guess(text)
    if type(guess) in admitted and not isinstance(guess, str):
        return guess
    if isinstance(guess, int) and not isinstance(guess, bool) and float in admitted:
        return float(guess)
    if text in words or (text == "all-linear" and str in admitted):
        return text
    if any("[" in word and re.fullmatch(re.escape(word.partition("[")[0]) + r"\d+", text) for word in words):
        return text  # such as pissa_niter_[number of iters]
    if dict in admitted and ":" in text:
        pairs = (piece.partition(":") for piece in text.split("+"))
        return {key: _guess(value) for key, _, value in pairs}
    if list in admitted:
        return [_guess(piece.strip()) for piece in text.split("+")]
    if str in admitted:
        return text
    raise ValueError(text)


def _guess(text: str) -> Any:
    """None, a truth value, a number, or the text."""
    fixed: dict[str, Any] = {"none": None, "true": True, "false": False}
    if text.lower() in fixed:
        return fixed[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _admitted(config: type, name: str) -> tuple[set[type], tuple[str, ...]]:
    """The types, and the words, that a setting may be."""
    try:
        hint = typing.get_type_hints(config)[name]
    except (NameError, KeyError, TypeError):  # an annotation that only a type checker can resolve
        return {*_WORDS}, ()
    types_, words = set(), []
    waiting = [hint]
    while waiting:
        one = waiting.pop()
        origin = typing.get_origin(one)
        if origin in (Union, types.UnionType):
            waiting += typing.get_args(one)
        elif origin is Literal:
            words += [word for word in typing.get_args(one) if isinstance(word, str)]
            types_ |= {type(word) for word in typing.get_args(one) if not isinstance(word, str)}
        else:
            kind = dict if dataclasses.is_dataclass(one) else origin or one
            types_.add({set: list, tuple: list}.get(kind, kind))
    words += _UNLISTED.get(name, ())
    return types_ & {*_WORDS} or ({dict} if not words else set()), tuple(words)
