from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from tests.contract.cases import gradients, randomise, tune
from tests.contract.families import backbone, images
from torch import nn

import vitune
from vitune.errors import AdapterError, CompositionError, SurgeryError, UnsupportedBackboneError
from vitune.methods import Policy


def looks(model: nn.Module) -> list[object]:
    return [(n, type(m)) for n, m in model.named_modules()] + [
        (n, p.requires_grad) for n, p in model.named_parameters()
    ]


def test_apply_edits_the_very_model_that_was_given():
    model = backbone("plain")
    tuned = vitune.apply(model, vitune.SSF())
    assert tuned.model is model
    assert tuned.methods == (vitune.SSF(),)
    assert tuned.policies == ()
    assert torch.equal(tuned(images("plain")), model(images("plain")))


def test_the_seed_alone_decides_the_start():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one = vitune.apply(backbone("plain"), vitune.LoRA(), seed=1).state()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again = vitune.apply(backbone("plain"), vitune.LoRA(), seed=1).state()
    other = vitune.apply(backbone("plain"), vitune.LoRA(), seed=2).state()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_new_layers_follow_the_precision_of_the_model():
    tuned = vitune.apply(backbone("plain").to(torch.bfloat16), vitune.methods.parse("lora,ssf,adaptformer"))
    assert {tensor.dtype for tensor in tuned.state().values()} == {torch.bfloat16}
    assert tuned(images("plain").to(torch.bfloat16)).dtype == torch.bfloat16


def test_no_method_is_refused():
    with pytest.raises(CompositionError, match=r"no method given; for instance vitune.LinearProbe\(\)"):
        vitune.apply(backbone("plain"), [])


def test_a_method_twice_is_refused():
    with pytest.raises(CompositionError, match="'lora' is given twice; once is enough"):
        vitune.apply(backbone("plain"), [vitune.LoRA(), vitune.LoRA(rank=2)])


def test_an_unknown_model_is_refused():
    with pytest.raises(UnsupportedBackboneError, match="no known backbone family matches Linear"):
        vitune.apply(nn.Linear(2, 2), vitune.LoRA())


@pytest.mark.parametrize("text", ["ssf", "adaptformer"])
def test_a_tuned_model_is_not_tuned_again(text):
    model = tune(text, "plain").model
    before = looks(model)
    with pytest.raises(
        SurgeryError, match="the model is tuned already; give all methods at once, or detach the first"
    ):
        vitune.apply(model, vitune.LoRA())
    assert looks(model) == before


class Failing(vitune.LinearProbe):
    """Fails when everything else is done."""

    name = "failing"
    conflicts: ClassVar[dict[str, str]] = {}

    def policy(self, tuned):
        raise MemoryError("no room")


def test_a_failure_at_the_very_end_leaves_the_model_as_it_was():
    model = backbone("plain")
    model.cls_token.requires_grad_(False)
    before = looks(model)
    with pytest.raises(MemoryError, match="no room"):
        vitune.apply(model, [vitune.SSF(), vitune.AdaptFormer(), Failing()])
    assert looks(model) == before


class Watching(vitune.LinearProbe):
    """Has a policy."""

    name = "watching"
    conflicts: ClassVar[dict[str, str]] = {}

    def policy(self, tuned):
        return Policy()


def test_policies_stand_in_the_order_of_the_methods():
    tuned = vitune.apply(backbone("plain"), [vitune.SSF(), Watching()])
    assert [type(policy) for policy in tuned.policies] == [Policy]
    tuned.detach()
    assert tuned.policies == tuned.methods == ()


def test_trainable_is_named_as_the_state_dict_and_in_its_order():
    tuned = tune("lora(rank=2),ssf", "plain")
    names = [name for name in tuned.model.state_dict() if name in tuned.trainable()]
    assert list(tuned.trainable()) == names
    assert list(tuned.parameters()) == list(tuned.trainable().values())
    assert names[-2:] == ["head.weight", "head.bias"]


def test_state_can_be_put_back():
    tuned = tune("bitfit,lora(rank=2)", "plain")
    before = {name: tensor.clone() for name, tensor in tuned.state().items()}
    randomise(tuned)
    assert any(not torch.equal(tensor, before[name]) for name, tensor in tuned.state().items())
    tuned.load_state(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned.state().items())
    assert gradients(tuned, images("plain")).keys() == before.keys()


def test_state_holds_the_buffers_of_new_layers():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    class Counted(Failing):
        name = "counted"

        def edits(self, anatomy):
            return [vitune.surgery.AttachAtPoint("role", "blocks.0", "mlp.beside", "counted", Counting)]

        def policy(self, tuned):
            return None

    tuned = vitune.apply(backbone("plain"), Counted())
    path = "blocks.0.vitune.points.mlp_beside.counted.seen"
    assert path in tuned.state()
    tuned.load_state({**tuned.state(), path: torch.tensor(7.0)})
    assert tuned.model.get_buffer(path).item() == 7.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("norm.vitune.ssf.scale"),
            "the tensor 'norm.vitune.ssf.scale' is missing; was it made with",
        ),
        (
            lambda s: s.update({"blocks.0.mlp.fc1.weight": torch.ones(1)}),
            "the tensor 'blocks.0.mlp.in.weight' does not belong to this model",
        ),
        (
            lambda s: s.update({"head.bias": torch.ones(4)}),
            r"the tensor 'head.bias' has shape \(4,\), expected \(3,\)",
        ),
    ],
)
def test_state_that_does_not_fit_changes_nothing(change, message):
    tuned = tune("ssf", "plain")
    before = {name: tensor.clone() for name, tensor in tuned.state().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    change(state)
    with pytest.raises(AdapterError, match=message):
        tuned.load_state(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tuned.state().items())


def test_costs_name_every_edit():
    costs = tune("bitfit,adaptformer(bottleneck=4)", "plain").costs()
    edits = {(edit.role, edit.edit): edit.parameters for edit in costs.edits}
    assert len(edits) == len(costs.edits) == 26 + 4
    assert edits["blocks.1.mlp.in.bias", "train"] == 128
    assert edits["blocks.1.mlp.beside", "adaptformer"] == 2 * 32 * 4 + 4 + 32
    plain = sum(p.numel() for p in backbone("plain").parameters())
    assert costs.total_parameters == plain + 4 * (2 * 32 * 4 + 4 + 32)


def test_summary_says_what_trains():
    text = tune("lora(rank=2),ssf", "plain").summary()
    first, second, *rest = text.splitlines()
    assert first == "LoRA + SSF, scaling and shifting features on VisionTransformer (timm-vit)"
    assert second == "  trains 4,067 of 79,747 parameters (5.10 %): 3,968 by the method, 99 in the head"
    assert "  attn.q (lora): 4 x, 512 parameters" in rest
    assert "  attn.v (lora): 4 x, 512 parameters" in rest
    assert "  patch_embed (ssf): 1 x, 64 parameters" in rest


def test_summary_counts_head_and_method_apart():
    costs = tune("ssf", "plain").costs()
    (line,) = (line for line in tune("ssf", "plain").summary().splitlines() if "trains" in line)
    share = 100 * costs.trained_parameters / costs.total_parameters
    assert line == (
        f"  trains {costs.trained_parameters:,} of {costs.total_parameters:,} parameters ({share:.2f} %): "
        f"{costs.method_parameters:,} by the method, 99 in the head"
    )


def test_training_modes_survive_apply():
    model = backbone("plain").train()
    model.blocks[0].eval()
    before = {name: module.training for name, module in model.named_modules()}
    tuned = vitune.apply(model, vitune.methods.parse("ssf,adaptformer"))
    after = {name: module.training for name, module in tuned.model.named_modules()}
    assert {name: mode for name, mode in after.items() if name in before} == before
    assert after["blocks.0.norm1.vitune.ssf"] is False
    assert after["blocks.1.norm1.vitune.ssf"] is True


def test_methods_that_act_on_others_act_on_full_fine_tuning_where_they_are_alone():
    def trained(text: str) -> set[str]:
        return set(tune(text, "plain").trainable())

    full = trained("full")
    assert trained("velora") == trained("alast") == trained("alast,velora") == full
    assert trained("velora,lora,alast") == trained("lora")
