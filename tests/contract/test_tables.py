"""Nothing is forgotten: a method or family without cases fails here."""

from __future__ import annotations

import pytest

import vitune
from tests.contract.cases import ALL, BY_TEXT, CASES, FEW, SLOW
from tests.contract.families import FAMILIES, backbone, images
from vitune import anatomy as families
from vitune.anatomy import anatomy
from vitune.errors import VituneError
from vitune.methods import all_methods, parse

OURS = [name for name, method in all_methods().items() if method.__module__.startswith("vitune.")]


def test_every_method_has_a_case_of_its_own():
    assert {case.names[0] for case in CASES if len(case.names) == 1} == set(OURS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", FEW)
def test_every_method_works_on_a_family_or_is_refused_with_the_reason(text, family):
    if (text, family) in ALL:
        return
    model = backbone(family)
    before = list(model.state_dict())
    try:
        tuned = vitune.apply(model, parse(text))
    except VituneError as error:
        reason = str(error)
    else:
        assert tuned(images(family)).isfinite().all()
        return
    assert len(reason) > 30
    assert list(model.state_dict()) == before


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
    assert (kinds.get("norm") == "norm") == ("norm" in features)
