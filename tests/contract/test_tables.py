"""Nothing is forgotten: a method or family without cases fails here."""

from __future__ import annotations

import itertools

import pytest

from tests.contract.cases import ALL, BY_TEXT, CASES, FEW, SLOW
from tests.contract.families import FAMILIES, backbone
from vitune import anatomy as families
from vitune.anatomy import anatomy
from vitune.methods import all_methods

OURS = [name for name, method in all_methods().items() if method.__module__.startswith("vitune.")]


def test_every_method_has_a_case_of_its_own_on_every_kind_of_family():
    alone = {case.names[0] for case in CASES if len(case.names) == 1}
    assert alone == set(OURS)
    for method in OURS:
        for family in families.FAMILIES:
            on = {text for text, name in ALL if FAMILIES[name].anatomy == family}
            assert any(BY_TEXT[text].names == (method,) for text in on), f"{method} has no case on {family}"


def test_every_method_has_a_case_in_the_slow_checks():
    assert {BY_TEXT[text].names[0] for text in FEW} == set(OURS)
    assert {text for text, _ in SLOW} == set(FEW)
    assert {FAMILIES[family].anatomy for _, family in SLOW} == set(families.FAMILIES)


def test_every_family_is_in_the_table():
    assert {family.anatomy for family in FAMILIES.values()} == set(families.FAMILIES)
    assert {family for _, family in ALL} == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_what_the_table_says(family):
    found = anatomy(backbone(family))
    features = FAMILIES[family].features
    assert found.family == FAMILIES[family].anatomy
    assert bool(found.head) == ("head" in features)
    assert ("blocks.0.attn.qkv" in found.slots()) == ("fused" in features)
    kinds = {operator.role: operator.kind for operator in found.operators}
    assert (kinds["norm"] == "norm") == ("norm" in features)


def test_every_allowed_pair_has_a_case():
    methods = all_methods()
    tested = {frozenset(case.names) for case in CASES if len(case.names) == 2}
    for one, other in itertools.combinations(OURS, 2):
        refused = other in methods[one].conflicts or one in methods[other].conflicts
        assert (frozenset({one, other}) in tested) != refused, f"{one} with {other}"
