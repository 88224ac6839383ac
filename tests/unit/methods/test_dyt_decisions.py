"""DyT: what gates decide by, everything computed and masked, and programs of torch.export that skip."""

from __future__ import annotations

import pytest
import torch
from tests.contract.cases import labels
from tests.contract.families import backbone, images
from tests.unit.methods.test_dyt import DISPATCHES, gates, tuned_model
from torch.nn import functional as F

import vitune
from vitune.errors import ConfigError
from vitune.measure import count_flops
from vitune.methods.dyt import DyT, decisions, kept_tokens
from vitune.methods.dyt.dispatch import computing_all
from vitune.methods.dyt.gate import Gate, scattered


def test_an_unknown_way_to_decide():
    with pytest.raises(ConfigError, match="dyt: decide_by must be 'token', 'image' or 'random', not 'head'"):
        DyT(decide_by="head")  # type: ignore[arg-type]


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_patches_of_an_image_are_kept_or_skipped_together(dispatch):
    tuned, alone = tuned_model(dispatch=dispatch, decide_by="image"), tuned_model(dispatch=dispatch)
    alone.load_state(tuned.state())
    batch = torch.cat([images("plain"), -images("plain"), 3 * images("plain").roll(5, 2)])
    together = decisions(tuned, batch)
    shares = torch.stack([decision.mask.mean(1) for decision in together.values()])
    assert set(shares.unique().tolist()) == {0.0, 1.0}, "both happen, and nothing between"
    first = next(iter(together))  # whose input no other gate has changed yet
    mean = decisions(alone, batch)[first].logits.mean(1, keepdim=True)
    torch.testing.assert_close(together[first].logits, mean.expand_as(together[first].logits))
    with torch.no_grad(), computing_all(gates(tuned)):
        masked = tuned(batch)
    with torch.no_grad():
        torch.testing.assert_close(tuned(batch), masked, rtol=0, atol=1e-5)


def test_gates_of_whole_images_learn():
    tuned = tuned_model(decide_by="image")
    tuned.model.train()
    batch = images("plain")
    F.cross_entropy(tuned(batch), labels(len(batch))).backward()
    found = [gate.score.weight.grad for gate in gates(tuned)[:-1]]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in found)


def test_random_gates_keep_the_target_rate_and_know_nothing():
    tuned = tuned_random(0.3)
    assert not [name for name in tuned.state() if ".score." in name]
    batch = images("plain")
    kept = kept_tokens(tuned, batch)
    for tokens in kept.values():
        assert torch.equal(tokens, tokens[:1].expand_as(tokens)), "a pattern of places, whatever the image"
    assert len({tuple(tokens[0].tolist()) for tokens in kept.values()}) > 1, "each gate has its own"
    tuned.model.train()
    torch.manual_seed(0)
    gate = gates(tuned)[0]
    drawn = torch.cat([Gate.forward(gate, torch.zeros(64, 5, 32)).mask for _ in range(40)])
    assert drawn.mean().item() == pytest.approx(0.3, abs=0.02)
    assert not torch.equal(drawn[0], drawn[1])


def tuned_random(rate: float) -> vitune.Tuned:
    tuned = vitune.apply(backbone("plain"), DyT(bottleneck=4, decide_by="random", target_rate=rate))
    tuned.model.eval()
    return tuned


def test_scattered_numbers_fill_the_interval_evenly():
    for pattern in range(6):
        found = scattered(torch.arange(4000), pattern)
        assert 0 <= found.min() < found.max() < 1
        counts = torch.histc(found.float(), 10, 0, 1)
        assert (counts - 400).abs().max() < 80
        neighbours = torch.corrcoef(torch.stack([found[:-1], found[1:]]))[0, 1]
        assert abs(neighbours) < 0.06


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_all_computed_and_masked_is_the_same_and_costs_more(dispatch):
    tuned, batch = tuned_model(dispatch=dispatch), images("plain")
    with torch.no_grad():
        skipped = tuned(batch)
        fewer = count_flops(lambda: tuned(batch))
        with computing_all(gates(tuned)):
            torch.testing.assert_close(tuned(batch), skipped, rtol=0, atol=1e-5)
            assert count_flops(lambda: tuned(batch)) > 1.05 * fewer
        assert count_flops(lambda: tuned(batch)) == fewer


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("plain", {"dispatch": "attention-mlp"}),
        ("hf", {}),
        ("swin", {}),
        ("plain", {"decide_by": "random"}),
        pytest.param("plain", {"dispatch": "layer"}, marks=pytest.mark.slow),
        pytest.param("clip", {"dispatch": "attention"}, marks=pytest.mark.slow),
        pytest.param("plain", {"decide_by": "image"}, marks=pytest.mark.slow),
    ],
)
def test_an_exported_program_skips(family, settings):
    random = settings.get("decide_by") == "random"
    tuned = tuned_random(0.5) if random else tuned_model(family, **settings)
    dynamic = ({0: torch.export.Dim("batch", min=1)},)
    example = torch.cat([images(family), images(family)])[:2]
    with torch.no_grad():
        program = torch.export.export(tuned.model, (example,), dynamic_shapes=dynamic).module()
        with computing_all(gates(tuned)):
            everything = count_flops(lambda: tuned(example))
        executed = count_flops(lambda: program(example))
        for batch in (images(family)[:1], 2 * torch.cat([images(family), -images(family)])):
            found = program(batch)
            found = found.logits if hasattr(found, "logits") else found
            torch.testing.assert_close(found, tuned(batch), rtol=1e-5, atol=1e-5)
    assert executed < everything
    if family == "swin":
        for gate in gates(tuned):
            gate.score.weight.data.zero_()
            gate.score.bias.data.fill_(-1.0)  # nothing but prefix tokens, and in a Swin not even these
        with torch.no_grad():
            empty = torch.export.export(tuned.model, (example,), dynamic_shapes=dynamic).module()(example)
            empty = empty.logits if hasattr(empty, "logits") else empty
            torch.testing.assert_close(empty, tuned(example), rtol=1e-5, atol=1e-5)
