"""Methods as text: `lora(rank=4,roles=attn.q+attn.v),bitfit`, and lists of alternatives: `ssf,lora+alast`."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from vitune.errors import ConfigError, did_you_mean
from vitune.methods._base import Method
from vitune.methods._registry import get_method

_METHOD = re.compile(r"\s*(?P<name>[\w-]+)\s*(?:\((?P<settings>[^()]*)\))?\s*")


def parse(text: str) -> tuple[Method, ...]:
    """Read methods from text.

    Settings are `name=value`, separated by commas; a value with several parts joins them by `+`. Methods that act
    together are joined by a comma or by `+`, which are the same here; only in a list of alternatives is a comma taken.

    Args:
        text: For instance `ssf`, or `lora(rank=4,roles=attn.q+attn.v),bitfit`.

    Raises:
        ConfigError: If the text is malformed, or a setting is unknown or of the wrong kind.
        NothingMatchedError: If a method is unknown.
    """
    methods: list[Method] = []
    position = 0
    while True:
        found = _METHOD.match(text, position)
        if found is None or (found.end() < len(text) and text[found.end()] not in ",+"):
            raise ConfigError(
                f"cannot read the method '{text}' from position {position + 1}; "
                f"write for instance 'ssf' or 'lora(rank=4,roles=attn.q+attn.v),bitfit'."
            )
        methods.append(_method(found["name"], found["settings"] or ""))
        if found.end() == len(text):
            return tuple(methods)
        position = found.end() + 1


def split_alternatives(text: str) -> tuple[str, ...]:
    """Split a list of alternatives: a comma outside parentheses separates them, `+` joins methods that act together.

    Args:
        text: For instance `ssf,lora(rank=4,roles=attn.q+attn.v)+alast`: two alternatives, the second of two methods.

    Returns:
        Each as `parse` reads it. Whether the methods exist is not looked at.

    Raises:
        ConfigError: If a parenthesis is not closed, or there is nothing beside a comma or a `+`.
    """
    found, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
        if depth < 0:
            break
    if depth != 0:
        raise ConfigError(
            f"cannot read the methods '{text}': a parenthesis is not {'closed' if depth > 0 else 'opened'}."
        )
    alternatives = tuple(each.strip() for each in found)
    if not all(alternatives):
        raise ConfigError(
            f"cannot read the methods '{text}': there is nothing beside a comma; write for instance 'linear,ssf'."
        )
    return alternatives


def given_settings(text: str) -> frozenset[str]:
    """The settings that a text gives, those that equal their defaults too: `lora.rank` of `lora(rank=8)`.

    Args:
        text: Methods as `parse` reads them; must be readable.
    """
    return frozenset(
        f"{found['name']}.{part.partition('=')[0].strip()}"
        for found in _METHOD.finditer(text)
        for part in filter(str.strip, (found["settings"] or "").split(","))
    )


def method_text(method: Method) -> str:
    """The inverse of `parse` for one method: its name, and the settings that differ from the defaults."""
    texts = method.texts()
    if texts is not None:
        joined = ",".join(f"{name}={text}" for name, text in texts.items())
        return f"{method.name}({joined})" if joined else method.name
    default = type(method)()
    changed = [
        f"{field.name}={value_text(getattr(method, field.name))}"
        for field in dataclasses.fields(method)
        if getattr(method, field.name) != getattr(default, field.name)
    ]
    return f"{method.name}({','.join(changed)})" if changed else method.name


def setting_types(method: type[Method]) -> dict[str, Any]:
    """Name to type of every setting of a method."""
    hints = typing.get_type_hints(method)
    return {field.name: hints[field.name] for field in dataclasses.fields(method)}


def _method(name: str, settings: str) -> Method:
    method = get_method(name)
    texts: dict[str, str] = {}
    for part in filter(str.strip, settings.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or not value:
            raise ConfigError(f"{name}: cannot read the setting '{part.strip()}'; write name=value.")
        if key in texts:
            raise ConfigError(f"{name}: the setting '{key}' is given twice.")
        texts[key] = value
    return method.from_texts(texts) or method(**_values(method, texts))


def _values(method: type[Method], texts: Mapping[str, str]) -> dict[str, Any]:
    """Settings by the types of the method's fields."""
    expected = setting_types(method)
    values: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in expected:
            raise ConfigError(f"{method.name}: no setting '{key}'. {did_you_mean(key, expected)}")
        try:
            values[key] = read_value(text, expected[key])
        except ValueError:
            raise ConfigError(
                f"{method.name}: {key} must be {type_text(expected[key])}, not '{text}'."
            ) from None
    return values


def read_value(text: str, kind: Any) -> Any:
    """Read a value from text.

    Args:
        text: What the user wrote.
        kind: The annotation of the setting.

    Raises:
        ValueError: If the text is no such value.
    """
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        for option in sorted(options, key=lambda option: option is not type(None)):  # "none" is no text
            try:
                return read_value(text, option)
            except ValueError:
                continue
        raise ValueError(text)
    if origin is Literal:
        for option in options:
            if text == str(option):
                return option
        raise ValueError(text)
    if origin is tuple:
        return tuple(read_value(piece.strip(), options[0]) for piece in text.split("+"))
    if kind is type(None):
        if text.lower() == "none":
            return None
        raise ValueError(text)
    if kind is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise ValueError(text)
    return kind(text)


def type_text(kind: Any) -> str:
    """An annotation in words."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(option) for option in options)
    if origin is Literal:
        return " or ".join(f"'{option}'" if isinstance(option, str) else str(option) for option in options)
    if origin is tuple:
        return f"{type_text(options[0])}, several joined by '+'"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}
    return names.get(kind, str(kind))


def value_text(value: Any) -> str:
    """A value as `read_value` reads it."""
    if isinstance(value, tuple):
        return "+".join(str(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
