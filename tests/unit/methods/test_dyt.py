"""DyT: settings, the gate, and that what is skipped, gathered or masked is the same."""

from __future__ import annotations

import re

import pytest
import torch
from tests.contract.cases import labels, randomise
from tests.contract.families import backbone, images
from torch import Tensor, nn
from torch.nn import functional as F

import vitune
from vitune.errors import CompositionError, ConfigError, UnsupportedBackboneError
from vitune.measure import count_flops, saved_activation_bytes
from vitune.methods.dyt import Dispatch, DyT, activation_rates, decisions, kept_tokens, macs, picture_record
from vitune.methods.dyt import dispatch as dispatch_file
from vitune.methods.dyt.dispatch import nothing_skipped
from vitune.methods.dyt.gate import Gate, GateSettings

DISPATCHES = ("mlp", "attention", "attention-mlp", "layer")
SETTINGS = GateSettings(temperature=5.0, threshold=0.5, nominal_rate=0.5, hide_skipped=True)


def tuned_model(family: str = "plain", **settings) -> vitune.Tuned:
    """A model whose gates keep some tokens and skip some."""
    tuned = randomise(vitune.apply(backbone(family), DyT(**{"bottleneck": 4, "dropout": 0.0, **settings})))
    with torch.no_grad():
        for gate in gates(tuned):
            gate.score.weight.mul_(8)
            gate.score.bias.zero_()
    tuned.model.eval()
    return tuned


def gates(tuned: vitune.Tuned) -> list[Dispatch]:
    return [module for module in tuned.model.modules() if isinstance(module, Dispatch)]


def gradients(tuned: vitune.Tuned, batch: Tensor) -> dict[str, Tensor]:
    tuned.model.zero_grad(set_to_none=True)
    F.cross_entropy(tuned(batch), labels(len(batch))).backward()
    return {name: p.grad for name, p in tuned.trainable().items() if p.grad is not None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bottleneck": 0}, "bottleneck must be at least 1, not 0"),
        ({"scale": float("nan")}, "scale must be a finite number or 'learnable', not nan"),
        ({"layernorm": "both"}, "layernorm must be 'none', 'in' or 'out', not 'both'"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
        ({"dispatch": "head"}, "dispatch must be 'mlp', 'attention', 'attention-mlp' or 'layer', not 'head'"),
        ({"first_block": -1}, "first_block must be at least 0, not -1"),
        ({"target_rate": 0.0}, r"target_rate must be in \(0, 1\], not 0.0"),
        ({"rate_weight": -1.0}, "rate_weight must be a number that is not negative, not -1.0"),
        ({"complete_pass": "yes"}, "complete_pass must be 'distil', 'learn' or 'none', not 'yes'"),
        ({"temperature": 0.0}, "temperature must be positive, not 0.0"),
        ({"final_temperature": -1.0}, "final_temperature must be positive or none, not -1.0"),
        ({"threshold": 1.0}, r"threshold must be in \(0, 1\), not 1.0"),
        ({"attend": "some"}, "attend must be 'active' or 'all', not 'some'"),
        ({"experts": 0}, "experts must be at least 1, not 0"),
        ({"routing": "top1"}, "routing must be 'softmax' or 'sigmoid', not 'top1'"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=f"dyt: {message}"):
        DyT(**settings)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(
        UnsupportedBackboneError, match="first_block is 4, but the backbone has 4 blocks; no token"
    ):
        vitune.apply(backbone("plain"), DyT(first_block=4))
    with pytest.raises(
        UnsupportedBackboneError, match=r"cannot skip the layer of a SwinTransformerBlock.*dispatch=mlp"
    ):
        vitune.apply(backbone("swin"), DyT(dispatch="layer"))
    with pytest.raises(UnsupportedBackboneError, match="cannot skip the mlp of a ConvNeXtBlock"):
        vitune.apply(backbone("convnext"), DyT())
    with pytest.raises(CompositionError, match="dyt brings the same adapter with its gates"):
        vitune.apply(backbone("plain"), [DyT(), vitune.AdaptFormer()])
    with pytest.raises(ConfigError, match="the model has no gates; apply the method 'dyt'"):
        kept_tokens(vitune.apply(backbone("plain"), vitune.LoRA()), images("plain"))
    with pytest.raises(ConfigError, match="no images were given"):
        activation_rates(tuned_model(), [])


def test_gate_in_evaluation_is_strict_and_has_the_gradient_of_the_sigmoid():
    gate = Gate(3, 1, SETTINGS).eval()
    with torch.no_grad():
        gate.score.weight.copy_(torch.tensor([[1.0, 0.0, 0.0]]))
    stream = torch.tensor([[[9.0, 0, 0], [0.0, 0, 0], [2.0, 0, 0], [-1.0, 0, 0]]], requires_grad=True)
    decision = gate(stream)
    assert decision.logits.tolist() == [[0.0, 2.0, -1.0]]  # the prefix token is not scored
    assert decision.mask.tolist() == [[0.0, 1.0, 0.0]]  # a score of exactly 0 means: skip
    decision.mask.sum().backward()
    y = torch.tensor([0.0, 2.0, -1.0]).sigmoid()
    torch.testing.assert_close(stream.grad[0, 1:, 0], y * (1 - y))
    assert stream.grad[0, 0].abs().sum() == 0


def test_noise_in_training_keeps_with_the_probability_of_the_score_at_any_temperature():
    stream = torch.full((1, 20_000, 1), 0.8)
    kept = {}
    for temperature in (5.0, 0.1):
        gate = Gate(1, 0, SETTINGS)
        gate.temperature = temperature
        with torch.no_grad():
            gate.score.weight.fill_(1.0)
        torch.manual_seed(0)
        decision = gate(stream)
        kept[temperature] = decision.mask
        noise = torch.logit(decision.soft.double()) * temperature - 0.8
        slope = torch.autograd.grad(decision.mask.sum(), gate.score.bias)[0]
        y = decision.soft
        torch.testing.assert_close(slope, (y * (1 - y) / temperature).sum().view(1).detach())
        if temperature == 5.0:
            assert abs(noise.mean()) < 0.05
            assert abs(noise.std() - torch.pi / 3**0.5) < 0.05  # of the logistic distribution
    assert torch.equal(kept[5.0], kept[0.1])
    assert set(kept[5.0].unique().tolist()) == {0.0, 1.0}
    assert abs(kept[5.0].mean() - torch.tensor(0.8).sigmoid()) < 0.01


def test_noise_is_drawn_in_float32_under_autocast():
    gate = Gate(4, 1, SETTINGS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decision = gate(torch.randn(2, 9, 4))
    assert {tensor.dtype for tensor in decision} == {torch.float32}
    assert len(decision.soft.unique()) == 16  # in bfloat16 some of 16 values would be equal


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("family", ["plain", "layer_scale", "registers", "hf"])
def test_skipping_computes_what_masking_does(family, dispatch, monkeypatch):
    tuned = tuned_model(family, dispatch=dispatch)
    batch = images(family, batch=3)
    rates = activation_rates(tuned, [batch])
    assert 0 < sum(rates.values()) / len(rates) < 0.95
    with torch.no_grad():
        gathered = tuned(batch)
        alone = torch.cat([tuned(one[None]) for one in batch])
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        torch.testing.assert_close(gathered, tuned(batch), rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, gathered, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["plain", "swin", "siglip", "glu", "hf"])
def test_backward_through_active_rows_alone_gives_the_plain_gradients(family, monkeypatch):
    tuned = tuned_model(family)
    batch = images(family)
    lean = gradients(tuned, batch)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    plain = gradients(tuned, batch)
    assert lean.keys() == plain.keys() == tuned.trainable().keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(lean[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("family", ["plain", "siglip"])
def test_all_kept_is_the_complete_model_and_none_kept_leaves_the_adapter(family, dispatch):
    tuned = tuned_model(family, dispatch=dispatch)
    batch = images(family)
    with torch.no_grad():
        with nothing_skipped(gates(tuned)):
            complete = tuned(batch)
        for gate in gates(tuned):
            gate.score.bias.fill_(1e4)
        # A layer is x + (F(x) - x), which rounds; the last MLP runs for the class token, by another kernel.
        torch.testing.assert_close(tuned(batch), complete, rtol=0, atol=1e-5 * (dispatch != "attention"))
        for gate in gates(tuned):
            gate.score.bias.fill_(-1e4)
        assert tuned(batch).isfinite().all()
        assert set(activation_rates(tuned, [batch]).values()) == {0.0}
    assert all(gradient.isfinite().all() for gradient in gradients(tuned, batch).values())


@pytest.mark.parametrize(("sizes", "numbers"), [(3, {5, 10, 15}), (1, {15})])
def test_gathered_rows_come_in_few_numbers_which_changes_nothing(sizes: int, numbers: set[int], monkeypatch):
    tuned, batch = tuned_model(), images("plain", batch=3)  # 15 tokens
    with torch.no_grad():
        expected = tuned(batch)
    plain, seen = gradients(tuned, batch), set()
    for i in range(3):  # inference runs the last MLP for the head's tokens
        layer = tuned.model.get_submodule(f"blocks.{i}.mlp.fc1")
        layer.register_forward_pre_hook(lambda _, given: seen.add(given[0].shape[1]))
    monkeypatch.setattr(dispatch_file, "SIZES", sizes)
    with torch.no_grad():
        torch.testing.assert_close(tuned(batch), expected, rtol=0, atol=1e-5)
    for name, gradient in gradients(tuned, batch).items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-4, atol=1e-6, msg=name)
    assert seen - {0} <= numbers


def test_training_hides_skipped_keys_unless_the_papers_text_is_wanted():
    """With active keys alone a skipped token changes nothing for the others."""
    tuned = {attend: tuned_model(dispatch="attention", attend=attend) for attend in ("active", "all")}
    batch = images("plain")
    found = {}
    for attend, one in tuned.items():
        one.model.train()
        for gate in gates(one):
            gate.noise = torch.zeros_like  # type: ignore[method-assign]
        found[attend] = one(batch).detach()
        one.model.eval()
    with torch.no_grad():
        inference = tuned["active"](batch)
        assert torch.equal(tuned["all"](batch), inference)
    torch.testing.assert_close(found["active"], inference, rtol=0, atol=1e-5)
    assert not torch.allclose(found["all"], inference, atol=1e-4)


def without_norms(tuned: vitune.Tuned, cost: int) -> int:
    """The closed form without its norms: per block two of the stream, and the last one, 5 each."""
    tokens = 1 + tuned.anatomy.grid[0] * tuned.anatomy.grid[1]
    return cost - 5 * tokens * tuned.anatomy.width * (2 * len(tuned.anatomy.blocks) + 1)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_closed_form_is_what_runs(dispatch):
    tuned = tuned_model(dispatch=dispatch)
    for block in tuned.model.blocks:
        block.attn.fused_attn = False  # whose kernel on a CPU torch does not count
    batch = images("plain", batch=1)
    cost = macs(tuned.anatomy, tuned.methods[0], kept_tokens(tuned, batch))
    tokens, width = 5, tuned.anatomy.width
    with torch.no_grad():
        ran = count_flops(lambda: tuned(batch), convention="MAC")
    assert cost.every_token - cost.plain == 4 * 2 * tokens * width * 4 * (1 + (dispatch == "attention-mlp"))
    *_, last = kept_tokens(tuned, batch).values()
    skipped = sum(int((~kept).sum()) for kept in kept_tokens(tuned, batch).values())
    unread = int(last.sum()) if "mlp" in dispatch else 0
    assert cost.unread[0] == unread * (2 * 4 * width + 5) * width
    # Those of tokens for which nothing is computed are in neither number.
    norms = 5 * width * (skipped * (2 if dispatch == "layer" else 1) + unread)
    gate = tokens * width * len(gates(tuned))
    assert skipped > 0
    assert ran == without_norms(tuned, int(cost.images[0] - cost.unread[0])) + norms + gate
    assert cost.images[0] < cost.every_token


def test_the_closed_form_refuses_what_it_does_not_know():
    tuned = tuned_model("swin")
    with pytest.raises(
        UnsupportedBackboneError, match="plain vision transformers, not a timm-swin with stages"
    ):
        macs(tuned.anatomy, tuned.methods[0], kept_tokens(tuned, images("swin")))


def test_inference_is_dense_where_skipping_would_not_pay(monkeypatch):
    tuned = tuned_model()
    with torch.no_grad():
        for gate in gates(tuned):
            gate.score.bias.fill_(1e4)

    def never(*arguments: object) -> None:
        raise AssertionError("rows were gathered")

    with torch.no_grad():
        monkeypatch.setattr(Tensor, "index_select", never)
        tuned(images("plain"))
        monkeypatch.setattr(dispatch_file, "DENSE_SHARE", 1.0)
        with pytest.raises(AssertionError, match="rows were gathered"):
            tuned(images("plain"))


def test_activations_kept_for_the_backward_pass_are_those_of_active_rows():
    tuned = tuned_model(bottleneck=4)
    for gate in gates(tuned):
        gate.score.bias.data.fill_(1e4)
    batch = images("plain", batch=4)

    def loss(model: nn.Module) -> Tensor:
        return F.cross_entropy(model(batch), labels(4))

    every = saved_activation_bytes(tuned.model, loss).bytes
    for gate in gates(tuned):
        gate.score.bias.data.fill_(-1e4)
    fewest = saved_activation_bytes(tuned.model, loss).bytes
    skipped_rows, width = 4 * 4, tuned.anatomy.width
    # Of a skipped token the MLP keeps no norm input (1), no GELU input (4), none of the norm's two statistics.
    # Nothing trains below the first block's MLP, so that it keeps nothing at all.
    per_row = 4 * (5 * width + 2)
    assert every - fewest == (len(tuned.anatomy.blocks) - 1) * skipped_rows * per_row


def test_behind_the_last_block_only_the_head_is_served():
    """The MLP there runs for class tokens; features, and what a model of transformers hands out, are whole."""
    seen: list[tuple[int, ...]] = []
    tuned, batch = tuned_model(), images("plain")
    tuned.model.blocks[-1].mlp.register_forward_pre_hook(
        lambda _, inputs: seen.append(tuple(inputs[0].shape))
    )
    with torch.no_grad():
        scores = tuned(batch)
        features = tuned.model.forward_features(batch)
        torch.testing.assert_close(tuned.model.forward_head(features), scores, rtol=0, atol=1e-5)
        kept = kept_tokens(tuned, batch)
    rows = 2 + int([*kept.values()][-1].sum())
    assert seen == [(2, 1, 32), (1, rows, 32), (2, 1, 32)]
    assert [*kept.values()][-1].shape == (2, 4)  # the gate decides about patches all the same

    tuned, batch = tuned_model("hf"), images("hf")
    with torch.no_grad():
        *_, last = tuned.model(pixel_values=batch, output_hidden_states=True).hidden_states
        (whole, *_) = tuned.model.vit(pixel_values=batch, output_hidden_states=True).hidden_states[-1:]
    torch.testing.assert_close(last, whole)


def test_first_blocks_may_have_no_gate():
    tuned = tuned_model(first_block=2)
    assert list(decisions(tuned, images("plain"))) == ["blocks.2.mlp.around", "blocks.3.mlp.around"]
    assert len([step for step in tuned.costs().edits if step.role.endswith("beside")]) == 4


def test_pictures_tell_what_was_kept():
    tuned = tuned_model(dispatch="attention-mlp")
    batch = images("plain")
    record = picture_record(tuned, batch)
    kept = kept_tokens(tuned, batch)
    assert record["grid"] == [2, 2]
    assert [layer["role"] for layer in record["layers"]] == list(kept)
    assert list(kept)[:3] == ["blocks.0.attn.around", "blocks.0.mlp.around", "blocks.1.attn.around"]
    for layer in record["layers"]:
        assert all(re.fullmatch("[01]{4}", text) for text in layer["kept"])
        rows = [[digit == "1" for digit in text] for text in layer["kept"]]
        assert torch.equal(torch.tensor(rows), kept[layer["role"]])


def test_modes_come_back_after_looking():
    tuned = tuned_model()
    tuned.model.train()
    tuned.model.blocks[0].eval()
    before = [module.training for module in tuned.model.modules()]
    activation_rates(tuned, [images("plain")])
    assert [module.training for module in tuned.model.modules()] == before
    assert all(gate.record is None for gate in gates(tuned))
