"""Every architecture of timm: its parts are named, or it is refused with a sentence; none is met unprepared."""

from __future__ import annotations

import functools

import pytest
import timm
import torch

import vitune
from vitune.anatomy import FAMILIES, Anatomy, anatomy
from vitune.errors import UnsupportedBackboneError, VituneError
from vitune.methods import parse

OURS = {file for family in FAMILIES.values() for file in family.TIMM_FILES}


@functools.cache
def files() -> dict[str, list[str]]:
    """Architectures by the file of timm that defines them."""
    from timm.models._registry import _model_to_module  # pyright: ignore[reportAttributeAccessIssue]

    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        found.setdefault(_model_to_module[name], []).append(name)
    return found


def refused_with(sentence: str) -> None:
    assert len(sentence) > 40
    assert len(sentence.splitlines()) == 1


def named_or_refused(name: str) -> Anatomy | None:
    """The parts of an architecture, or None where it is refused; fails where neither they nor a sentence come."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=3)  # some have no head of their own
    try:
        found = anatomy(model)
    except UnsupportedBackboneError as error:
        refused_with(str(error))
        return None
    paths = [operator.path for operator in found.operators]
    assert found.blocks
    assert len(set(paths)) == len(paths)
    assert found.head, f"{name} has no head"
    return found


def apply_usual(found: Anatomy) -> None:
    """BitFit, SSF and LoRA on it: applied and taken off again, or refused with a sentence."""
    model = found.model
    kinds = {operator.kind for operator in found.operators if operator.role.startswith("blocks.")}
    usual = any("attn.q" in role for role in found.slots())
    lora = "lora" if usual else f"lora(roles=all-{'linear' if 'linear' in kinds else 'conv'})"
    for text in ("bitfit", "ssf", lora):
        before = list(model.state_dict())
        try:
            tuned = vitune.apply(model, parse(text), check=False)
        except VituneError as error:
            refused_with(str(error))
        else:
            assert tuned.costs().method_parameters > 0, text
            tuned.detach()
        assert list(model.state_dict()) == before


def smallest(names: list[str]) -> list[str]:
    return sorted(names, key=lambda name: (len(name), name))


@pytest.mark.parametrize("file", sorted(OURS - {"as_mlp"}))
def test_every_file_that_is_listed_has_a_small_architecture_that_is_named(file: str):
    assert any(named_or_refused(name) for name in smallest(files()[file])[:5])


@pytest.mark.slow
def test_architectures_of_other_files_are_refused():
    named = {file for file, names in files().items() if named_or_refused(smallest(names)[0])}
    # What is named is listed by `vitune list models`; the built-in backbone is listed on its own.
    assert named <= OURS | {"registered"}
    assert len(files()) >= 60


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(OURS))
def test_every_architecture_of_our_files_is_named_or_refused(file: str):
    import vitune.backbones  # registers AS-MLP

    assert vitune.backbones.BUILT_IN
    names = timm.list_models(module=file)
    assert names
    refused = []
    for name in names:
        found = named_or_refused(name)
        if found is None:
            refused.append(name)
        else:
            apply_usual(found)
    assert len(refused) <= len(names) // 5, refused
