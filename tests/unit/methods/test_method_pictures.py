"""What methods give the report: it outlives a resumed run, and is what was decided."""

from __future__ import annotations

import pytest
import torch
from tests.contract.cases import labels
from tests.contract.families import backbone, images

import vitune
from vitune.methods import Run
from vitune.methods.hst.pictures import map_record, principal_component


def resumed(tuned: vitune.Tuned, text: str) -> vitune.Tuned:
    """A model as it is after a checkpoint was read: the state, and what the policies remember."""
    from vitune.methods import parse

    other = vitune.apply(backbone("plain"), parse(text))
    other.load_state(tuned.state())
    for policy, old in zip(other.policies, tuned.policies, strict=True):
        policy.load_state_dict(old.state_dict())
    return other


def test_channel_scores_are_those_that_chose():
    tuned = vitune.apply(backbone("plain"), vitune.SCT(channels=4))
    batch = images("plain")
    assert tuned.methods[0].pictures(tuned, batch) == {}, "nothing was measured yet"
    tuned.policies[0].prepare([(batch, labels(len(batch)))])
    found = tuned.methods[0].pictures(tuned, batch)
    sites = found["channel_scores"]["sites"]
    assert [site["role"] for site in sites] == [f"blocks.{i}.middle" for i in range(4)]
    for site in sites:
        best = sorted(range(32), key=lambda channel: -site["scores"][channel])[:4]
        assert sorted(best) == site["chosen"]
    again = resumed(tuned, "sct(channels=4)")
    assert again.methods[0].pictures(again, batch) == found


def test_pruned_prompts_are_the_lowest():
    text = "e2vpt(prompts=4,segments=8,prune_tokens=50,prune_segments=50)"
    from vitune.methods import parse

    tuned = vitune.apply(backbone("plain"), parse(text))
    batch = images("plain")
    data = [(batch, labels(len(batch)))]
    (policy,) = tuned.policies
    policy.begin(Run(0, 1e-3, 2, data))
    policy.prepare(data)
    assert tuned.methods[0].pictures(tuned, batch) == {}, "nothing is pruned yet"
    assert policy.next_stage()
    found = tuned.methods[0].pictures(tuned, batch)
    values = found["pruned_prompts"]
    order = sorted(range(4), key=lambda i: values["tokens"][i])
    assert [values["kept_tokens"][i] for i in order] == [0, 0, 1, 1]
    for scores, kept in zip(values["segments"], values["kept_segments"], strict=True):
        assert sum(kept) == 4
        lowest_kept = min(score for score, stays in zip(scores, kept, strict=True) if stays)
        assert all(score <= lowest_kept for score, stays in zip(scores, kept, strict=True) if not stays)
    again = resumed(tuned, text)
    assert again.methods[0].pictures(again, batch) == found


def test_the_first_component_is_the_direction_of_most_variance():
    torch.manual_seed(0)
    values = torch.randn(2, 5, 6)
    maps = torch.stack([values, -2 * values, torch.zeros_like(values)], 1) + 3.0
    component, share = principal_component(maps)
    assert share == pytest.approx(1.0, abs=1e-6)
    wanted = -(values - values.mean()) * 5**0.5  # the largest loading, of the second channel, is positive
    torch.testing.assert_close(component.float(), wanted, rtol=1e-4, atol=1e-5)
    flat, nothing = principal_component(torch.ones(1, 3, 2, 2))
    assert nothing == 0.0
    assert flat.abs().max() < 1e-9


def test_maps_become_levels_and_large_ones_shrink():
    ramp = torch.arange(4.0).view(1, 1, 2, 2)
    record = map_record([ramp, torch.rand(1, 2, 130, 100)], (8, 8))
    first, second = record["stages"]
    assert (first["stride"], first["channels"], first["size"]) == (4, 1, [2, 2])
    assert list(bytes.fromhex(first["maps"][0])) == [0, 85, 170, 255]
    assert second["size"] == [44, 34]
    assert len(second["maps"][0]) == 2 * 44 * 34
