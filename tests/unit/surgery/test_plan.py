from __future__ import annotations

import pytest
import torch
from tests.unit.surgery.backbone import small
from torch import Tensor, nn

from vitune.errors import SurgeryError, UnsupportedBackboneError
from vitune.surgery import Attach, AttachAtPoint, Edit, Train, carry_out, check, layer_path, parts_of, undo


class Double(Edit):
    key = "doubled"

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)  # type: ignore[misc]


def layer() -> nn.Module:
    return nn.Linear(16, 16)


def broken() -> nn.Module:
    raise MemoryError("no room")


def on(path: str, make=layer, edit: type[Edit] = Double) -> Attach:
    return Attach(f"role of {path}", path, edit, make)


def at(point: str, key: str = "one", path: str = "blocks.0", make=layer) -> AttachAtPoint:
    return AttachAtPoint(f"{path}.{point}", path, point, key, make)


def looks(model: nn.Module) -> list[object]:
    return [(name, type(module)) for name, module in model.named_modules()] + list(model.state_dict())


def test_plan_that_fails_half_way_leaves_the_model_as_it_was():
    model = small()
    before = looks(model)
    steps = [
        on("norm"),
        at("mlp.beside"),
        at("mlp.beside", "two"),
        on("blocks.1.norm1"),
        on("blocks.1.norm2", broken),
    ]
    with pytest.raises(MemoryError, match="no room"):
        carry_out(model, steps)
    assert looks(model) == before


def test_nothing_is_made_when_a_later_step_cannot_be_carried_out():
    made = []

    def counted() -> nn.Module:
        made.append(1)
        return layer()

    model = small()
    with pytest.raises(SurgeryError, match="'doubled' is there already"):
        carry_out(model, [on("norm", counted), on("norm", counted)])
    assert not made
    assert parts_of(model.norm)[1] == ()


def test_undo_in_reverse_gives_the_plain_model_back():
    model = small()
    before = looks(model)
    steps = [on("norm"), at("mlp.beside"), at("attn.input", "two"), Train("role", "head.bias")]
    carry_out(model, steps)
    assert looks(model) != before
    undo(model, steps)
    assert looks(model) == before


def test_points_stay_until_the_last_layer_is_gone():
    model = small()
    one, two = at("mlp.beside", "one"), at("middle", "two")
    carry_out(model, [one, two])
    undo(model, [one])
    assert [name for name in model.state_dict() if ".vitune." in name] == [
        f"{layer_path(two)}.weight",
        f"{layer_path(two)}.bias",
    ]
    undo(model, [two])
    assert parts_of(model.blocks[0])[1] == ()


def test_undo_after_another_tool_changed_the_class_is_refused():
    model = small()
    step = on("norm")
    carry_out(model, [step])
    model.norm.__class__ = type("FSDPLayerNorm", (type(model.norm),), {})
    with pytest.raises(SurgeryError, match="another tool"):
        undo(model, [step])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (on("blocks.7.norm1"), "role of blocks.7.norm1: nothing to edit at 'blocks.7.norm1'"),
        (Train("the role", "head.nothing"), "the role: nothing to edit at 'head.nothing'"),
        (at("nowhere"), "blocks.0.nowhere: no point 'nowhere'; known: attn.input, attn.output"),
    ],
)
def test_steps_that_cannot_be_carried_out(step, message):
    with pytest.raises(SurgeryError, match=message):
        check(small(), [step])


def test_two_layers_of_one_name_at_a_point_are_refused():
    model = small()
    with pytest.raises(
        SurgeryError, match=r"blocks.0.middle: 'one' is there already; one edit of a kind per place"
    ):
        check(model, [at("middle"), at("middle")])
    carry_out(model, [at("middle")])
    with pytest.raises(SurgeryError, match="'one' is there already"):
        check(model, [at("middle")])
    check(model, [at("middle", "two"), at("output")])


def test_the_deaf_projection_of_multihead_attention_is_refused():
    model = nn.Sequential(nn.MultiheadAttention(16, 2))
    with pytest.raises(
        SurgeryError, match=r"'0.out_proj' belongs to nn.MultiheadAttention, which never calls its forward"
    ):
        check(model, [on("0.out_proj")])


def test_a_block_without_points_is_refused():
    model = nn.Sequential(nn.TransformerEncoderLayer(16, 2))
    with pytest.raises(
        UnsupportedBackboneError, match="known for the block class TransformerEncoderLayer; looked for"
    ):
        check(model, [at("middle", path="0")])


def test_new_layers_take_device_precision_and_mode_of_the_module():
    model = small().to(torch.bfloat16).eval()
    steps = [on("norm"), at("mlp.beside")]
    carry_out(model, steps)
    for step in steps:
        made = model.get_submodule(layer_path(step))
        assert not made.training
        assert {p.dtype for p in made.parameters()} == {torch.bfloat16}


class Nested(Double):
    key = "nested"


def test_an_edit_may_act_on_the_layer_that_an_earlier_step_brings():
    model = small()
    before = looks(model)
    outer = on("norm")
    inner = on(layer_path(outer), edit=Nested)
    with pytest.raises(SurgeryError, match=r"nothing to edit at 'norm\.vitune\.doubled'"):
        check(model, [inner, outer])
    with pytest.raises(SurgeryError, match="'nested' is there already; one edit of a kind per place"):
        check(model, [outer, inner, inner])
    carry_out(model, [outer, inner])
    assert isinstance(model.get_submodule("norm.vitune.doubled"), Nested)
    undo(model, [outer, inner])
    assert looks(model) == before
