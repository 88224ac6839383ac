from __future__ import annotations

import itertools
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.contract.cases import BY_TEXT, FEW, HEAD, randomise, tune
from tests.contract.families import backbone, images

import vitune
from vitune import methods
from vitune.errors import CompositionError, UnsupportedBackboneError
from vitune.methods import Method, Policy, Run, _registry, all_methods, parse, register
from vitune.recipes import load_recipe, recipe_names

ROOT = Path(__file__).parents[3]
OURS = {
    name: method for name, method in all_methods().items() if method.__module__.startswith("vitune.methods.")
}
# Files of the package that are no method of ours, beside those that begin with an underscore.
SHARED = {"parse", "hf_peft"}


@pytest.fixture
def _table_restored():
    before = dict(_registry._METHODS)
    yield
    _registry._METHODS.clear()
    _registry._METHODS.update(before)
    _registry._load_entry_points.cache_clear()


def test_every_file_is_a_registered_method():
    found = [
        path for path in Path(methods.__file__).parent.iterdir() if path.suffix == ".py" or path.is_dir()
    ]
    files = {path.stem for path in found if not path.name.startswith("_")} - SHARED
    assert len(files) >= 6
    assert {method.__module__.split(".")[2] for method in OURS.values()} == files


def test_every_method_is_documented():
    pages = {path.stem for path in (ROOT / "docs/methods").glob("*.md")} - {"README"}
    assert pages == set(OURS)
    table = (ROOT / "docs/methods/README.md").read_text()
    for name, method in OURS.items():
        assert f"| `{name}` |" in table
        page = (ROOT / f"docs/methods/{name}.md").read_text()
        for setting in method().settings():
            assert f"`{setting}`" in page, f"docs/methods/{name}.md does not explain {setting}"


HEADINGS = ("When to choose it", "Settings", "Recipe", "Cost", "Parity and differences")


@pytest.mark.parametrize("name", OURS)
def test_every_page_has_the_same_parts(name):
    """What it does, when to choose it, settings, recipe, cost, parity and differences."""
    title, _, page = (ROOT / f"docs/methods/{name}.md").read_text().partition("\n")
    assert title.endswith(f"(`{name}`)")
    introduction, *sections = page.split("\n## ")
    assert len(introduction.strip()) > 40  # what it does
    texts = {heading: text for heading, _, text in (section.partition("\n") for section in sections)}
    assert [heading for heading in texts if heading in HEADINGS] == list(HEADINGS)
    assert all(texts[heading].strip() for heading in HEADINGS)
    assert "| setting | default | meaning |" in texts["Settings"]
    assert "olden" in texts["Parity and differences"]
    costs = methods.known_costs().methods[name].saved_activation_mib
    counted = " ".join(texts["Cost"].split())
    assert f"{costs['stock']:,.1f} MiB at `stock`, {costs['fast']:,.1f} at `fast`" in counted


@pytest.mark.parametrize("name", OURS)
def test_every_page_names_the_recipes_of_its_method(name):
    page = (ROOT / f"docs/methods/{name}.md").read_text()
    _, _, recipe = page.partition("\n## Recipe\n")
    recipe = recipe.partition("\n## ")[0]
    for text in recipe_names():
        if name in {method.name for method in parse(load_recipe(text).method)}:
            assert f"`{text}`" in recipe


def test_every_method_is_public():
    for method in OURS.values():
        assert getattr(vitune, method.__name__) is method
        assert method.__name__ in vitune.__all__
        assert method.__name__ in methods.__all__


def test_every_method_says_what_it_is():
    for name, method in OURS.items():
        assert method.name == name
        assert method.title
        assert method.paper
        assert method.default_lr > 0
        assert isinstance(method.merges, bool)


def test_conflicts_are_refused_in_both_orders_with_the_reason():
    refused = 0
    for one, other in itertools.permutations(OURS, 2):
        reason = OURS[one].conflicts.get(other) or OURS[other].conflicts.get(one)
        if not reason:
            continue
        model = backbone("plain")
        with pytest.raises(CompositionError) as caught:
            vitune.apply(model, [OURS[one](), OURS[other]()])
        assert str(caught.value) == f"'{one}' and '{other}' cannot be combined: {reason}."
        assert not any(".vitune." in name for name in model.state_dict())
        refused += 1
    assert refused >= 18


def test_conflicts_name_known_methods():
    for method in OURS.values():
        assert set(method.conflicts) <= set(OURS)


def test_reasons_of_both_sides_agree():
    for one, other in itertools.combinations(OURS, 2):
        reasons = {OURS[one].conflicts.get(other), OURS[other].conflicts.get(one)} - {None}
        assert len(reasons) <= 1, f"{one} and {other} give two reasons"


@pytest.mark.usefixtures("_table_restored")
def test_a_double_name_is_refused():
    class Other(Method):
        name = "ssf"

    with pytest.raises(ValueError, match=r"two methods are called 'ssf': SSF and .*Other"):
        register(Other)
    assert register(vitune.SSF) is vitune.SSF
    assert all_methods()["ssf"] is vitune.SSF


@pytest.mark.usefixtures("_table_restored")
def test_methods_of_other_packages_come_by_entry_points(monkeypatch):
    class Foreign(vitune.LinearProbe):
        name = "foreign"
        conflicts: ClassVar[dict[str, str]] = {}

    class Entry:
        def load(self) -> type[Method]:
            return Foreign

    asked = []
    monkeypatch.setattr(_registry, "entry_points", lambda *, group: (asked.append(group), [Entry()])[1])
    _registry._load_entry_points.cache_clear()
    assert parse("foreign") == (Foreign(),)
    assert all_methods()["foreign"] is Foreign
    assert asked == ["vitune.methods"]
    tuned = vitune.apply(backbone("plain"), parse("foreign"))
    assert set(tuned.trainable()) == {"head.weight", "head.bias"}


def test_no_two_methods_compute_the_same():
    # A method that is another in disguise would train the same tensors, or compute the same from the same start.
    texts = [text for text in FEW if "," not in text.split("(")[0]]
    seen = {}
    for text in dict.fromkeys([*texts, *OURS]):
        if not BY_TEXT.get(text, BY_TEXT["full"]).needs <= HEAD | {"fused", "deep"}:
            continue
        if any(method.needs_data for method in parse(text)):  # without data it does not know what to train
            continue
        if any(method.acts_on_others for method in parse(text)):  # in evaluation nothing of it acts
            continue
        try:
            tuned = randomise(tune(text, "plain"))
        except UnsupportedBackboneError:  # the defaults of some are too large for this model
            assert text in OURS
            continue
        tuned.model.eval()
        with torch.no_grad():
            scores = tuned(images("plain"))
        for other, theirs in seen.items():
            assert not torch.allclose(scores, theirs, atol=1e-4), f"{text} computes what {other} does"
        seen[text] = scores
    assert {parse(text)[0].name for text in seen} == {n for n in OURS if not all_methods()[n].acts_on_others}


def test_a_policy_does_nothing_by_default():
    policy, calls = Policy(), []
    logits, targets = torch.ones(1, 2), torch.zeros(1)

    def criterion(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(arguments)
        return torch.tensor(3.0)

    assert policy.loss(logits, targets, criterion).item() == 3.0
    assert calls == [(logits, targets)]
    assert policy.next_stage() is False
    assert policy.state_dict() == {}
    assert policy.log() == {}
    for moment in (
        lambda: policy.begin(Run(seed=0, lr=1e-3, steps=1)),
        lambda: policy.prepare([(logits, targets)]),
        lambda: policy.before_step(0),
        policy.after_backward,
        policy.after_step,
        lambda: policy.load_state_dict({}),
    ):
        assert moment() is None
    assert vitune.LoRA().policy(None) is None  # type: ignore[arg-type]
