from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, Union

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import vitune
from vitune.errors import ConfigError, NothingMatchedError
from vitune.methods import Method, all_methods, method_text, parse
from vitune.methods.parse import setting_types, split_alternatives

ROLES = st.sampled_from(["attn.q", "attn.v", "mlp.in", "blocks.[0-3].mlp.*", "all-linear", "norm1"])


def test_the_example_of_the_documentation():
    assert parse("lora(rank=4,roles=attn.q+attn.v),bitfit") == (
        vitune.LoRA(rank=4, roles=("attn.q", "attn.v")),
        vitune.BitFit(),
    )


def test_blanks_and_empty_parentheses_do_not_matter():
    assert parse(" ssf() ,  lora( rank = 4 , share_down = True ) ") == (
        vitune.SSF(),
        vitune.LoRA(rank=4, share_down=True),
    )


def test_plus_joins_methods_as_a_comma_does():
    assert parse("lora(roles=attn.q+attn.v)+alast") == parse("lora,alast")


def test_a_list_of_alternatives_splits_at_commas_outside_parentheses():
    text = " linear, lora(rank=4,roles=attn.q+attn.v)+alast ,ssf"
    assert split_alternatives(text) == ("linear", "lora(rank=4,roles=attn.q+attn.v)+alast", "ssf")
    assert split_alternatives("ssf") == ("ssf",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("linear,,ssf", "there is nothing beside a comma"),
        ("linear,", "there is nothing beside a comma"),
        ("", "there is nothing beside a comma"),
        ("lora(rank=4,ssf", "a parenthesis is not closed"),
        ("lora)rank=4(", "a parenthesis is not opened"),
    ],
)
def test_lists_that_cannot_be_read(text: str, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        split_alternatives(text)


@pytest.mark.parametrize("text", ["lora+", "+lora", "lora++ssf", "lora;ssf"])
def test_what_stands_beside_a_plus_must_be_a_method(text: str):
    with pytest.raises(ConfigError, match="cannot read the method"):
        parse(text)


def test_settings_are_read_as_their_types():
    (method,) = parse("lora(rank=2,scale=1e1,alpha=16,dropout=.5,dropout_at=input,share_down=false)")
    assert method.settings() == {
        "rank": 2,
        "scale": 10.0,
        "alpha": 16.0,
        "roles": ["attn.q", "attn.v"],
        "dropout": 0.5,
        "dropout_at": "input",
        "share_down": False,
    }
    assert parse("lora(alpha=none)") == (vitune.LoRA(),)
    assert parse("adaptformer(scale=learnable)") == (vitune.AdaptFormer(scale="learnable"),)
    assert parse("adaptformer(scale=10)") == (vitune.AdaptFormer(scale=10.0),)


def value(kind: Any) -> st.SearchStrategy[Any]:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return st.one_of(*map(value, options))
    if origin is Literal:
        return st.sampled_from(options)
    if origin is tuple:
        each = ROLES if options[0] is str else value(options[0])
        return st.lists(each, min_size=1, max_size=3).map(tuple)
    return {
        int: st.integers(1, 999),
        float: st.floats(0, 0.99),
        bool: st.booleans(),
        type(None): st.none(),
    }[kind]


def methods() -> st.SearchStrategy[Method]:
    return st.sampled_from(list(all_methods().values())).flatmap(
        lambda method: st.fixed_dictionaries(
            {}, optional={k: value(t) for k, t in setting_types(method).items()}
        ).map(lambda chosen: made(method, chosen))
    )


def made(method: type[Method], chosen: dict[str, Any]) -> Method:
    """The method; settings that it refuses are no example."""
    try:
        return method(**chosen)
    except ConfigError:
        reject()


@given(st.lists(methods(), min_size=1, max_size=3))
@settings(deadline=None, max_examples=200)
def test_text_of_methods_reads_as_the_same_methods(chosen):
    assert parse(",".join(map(method_text, chosen))) == tuple(chosen)


@given(methods())
@settings(deadline=None, max_examples=100)
def test_settings_make_the_same_method(method):
    assert type(method).from_settings(method.settings()) == method


def test_text_leaves_defaults_out():
    assert method_text(vitune.LoRA()) == "lora"
    assert method_text(vitune.LoRA(rank=4, roles=("attn.q", "mlp.in"))) == "lora(rank=4,roles=attn.q+mlp.in)"


@pytest.mark.parametrize(
    "text", ["", ",", "ssf,", "lora(rank=4", "lora rank=4", "lora(rank=4)bitfit", "lora((4))"]
)
def test_text_that_is_no_method(text):
    with pytest.raises(
        ConfigError, match=r"cannot read the method '.*' from position \d+; write for instance 'ssf'"
    ):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora(rank)", "lora: cannot read the setting 'rank'; write name=value."),
        ("lora(rank=)", "lora: cannot read the setting 'rank='; write name=value."),
        ("lora(=4)", "lora: cannot read the setting '=4'; write name=value."),
        ("lora(rnak=4)", "lora: no setting 'rnak'. Did you mean 'rank'?"),
        ("ssf(rank=4)", "ssf: no setting 'rank'. Known: downsample, init_std, roles."),
        ("linear(rank=4)", "linear: no setting 'rank'. None is known."),
        ("lora(rank=4,rank=5)", "lora: the setting 'rank' is given twice."),
        ("lora(rank=four)", "lora: rank must be a whole number, not 'four'."),
        ("lora(rank=4.5)", "lora: rank must be a whole number, not '4.5'."),
        ("lora(alpha=big)", "lora: alpha must be a number or none, not 'big'."),
        ("lora(share_down=yes)", "lora: share_down must be true or false, not 'yes'."),
        ("lora(dropout_at=output)", "lora: dropout_at must be 'latent' or 'input', not 'output'."),
        ("adaptformer(scale=x)", "adaptformer: scale must be a number or 'learnable', not 'x'."),
    ],
)
def test_settings_that_cannot_be_read(text, message):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value) == message


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(NothingMatchedError, match=r"no method 'lorra'\. Did you mean 'lora'\?"):
        parse("lorra(rank=4)")
    with pytest.raises(
        NothingMatchedError, match=r"no method 'xyzzy'\. Known: adapter, adaptformer, alast, bi_adaptformer, "
    ):
        parse("xyzzy")


def test_every_setting_of_every_method_can_be_read():
    for name, method in all_methods().items():
        for setting in dataclasses.fields(method):
            if (other := _other(method, setting.name)) is None:
                continue
            text = method_text(method(**{setting.name: other}))
            assert text.startswith(f"{name}({setting.name}=")
            assert method_text(parse(text)[0]) == text


def _other(method: type[Method], setting: str) -> Any:
    """A value that is not the default."""
    default = getattr(method(), setting)
    kind = setting_types(method)[setting]
    options = [0.25, 3, True, False, ("attn.out",), (0.25, 0.75), (1,), *_literals(kind)]
    options += [(24, 24, 24, 24), (8, 8, 8, 8)]
    for option in options:
        if option != default and _fits(option, kind):
            try:
                method(**{setting: option})
            except ConfigError:  # of the right type, but not among its values
                continue
            return option
    return None  # it takes another only together with other settings


def _literals(kind: Any) -> list[str | int]:
    parts = typing.get_args(kind)
    return [p for p in parts if isinstance(p, (str, int))] + [q for p in parts for q in _literals(p)]


def _fits(option: Any, kind: Any) -> bool:
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(option, part) for part in parts)
    if origin is Literal:
        return option in parts
    if origin is tuple:
        return type(option) is tuple and all(type(each) is parts[0] for each in option)
    return type(option) is (origin or kind)
