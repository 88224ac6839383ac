"""E2VPT: masks, scores, and a training of two stages."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file
from tests.contract.families import backbone, images
from tests.unit.training.small import SmallImages, small_config, small_data, small_model, small_tuned
from torch import Tensor, nn
from torch.nn import functional as F

import vitune
from vitune.errors import CompositionError, ConfigError, TrainingError, UnsupportedBackboneError
from vitune.measure import saved_activation_bytes, weightless_copy
from vitune.methods import Run
from vitune.methods.e2vpt import importance, lowest, pruning_counts
from vitune.methods.e2vpt.layers import KeyValuePrompts, MaskedPrompts, Masks
from vitune.methods.e2vpt.scores import masks_of
from vitune.training import Event, fit

WIDTH = 16  # of the small model


def tuned(**settings) -> vitune.Tuned:
    return small_tuned(vitune.E2VPT(**{"prompts": 4, "kv_prompts": 2, "segments": 8, **settings}))


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    data = SmallImages(4 * count)
    items = [data[(0, i)] for i in range(len(data))]
    images, labels = torch.stack([item[0] for item in items]), torch.tensor([item[1] for item in items])
    return list(zip(images.split(4), labels.split(4), strict=True))


@pytest.mark.parametrize(("layout", "channels"), [("strided", [1, 5, 9, 13]), ("contiguous", [4, 5, 6, 7])])
def test_a_segment_is_where_the_layout_says(layout, channels):
    masks = Masks(3, 4, layout, True)
    with torch.no_grad():
        masks.segment[2, 1] = 0.0
        masks.token[0] = 0.5
    factors = masks(16)
    assert (factors[2] == 0).nonzero().flatten().tolist() == channels
    assert (factors[0] == 0.5).all()
    assert (factors[1] == 1).all()


def test_masks_are_one_pair_for_all_blocks_whatever_dropout_does():
    model = tuned().model
    layers = [m for m in model.modules() if isinstance(m, MaskedPrompts)]
    assert len(layers) == 2
    assert layers[0].masks is layers[1].masks
    with torch.no_grad():
        layers[0].masks.token[1] = 0.0
    rows = layers[0].train()(torch.zeros(3, 5, WIDTH))
    assert rows.shape == (3, 4, WIDTH)
    assert (rows[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("start", "bound"), [("kaiming", math.sqrt(6 / (5 * 64))), ("uniform", math.sqrt(6 / (3 * 256 + 16)))]
)
def test_start_of_key_value_prompts(start, bound):
    torch.manual_seed(0)
    layer = KeyValuePrompts(12, 5, 64, shared=False, start=start, patch=256)
    assert layer.values is not None
    values = torch.stack([layer.keys, layer.values])
    assert 0.98 * bound < values.abs().max() <= bound
    normal = KeyValuePrompts(12, 5, 64, shared=True, start="normal", patch=256)
    assert normal.values is None
    assert abs(normal.keys.std().item() - 0.02) < 0.001
    keys, same = normal(torch.zeros(1))
    assert keys.shape == (1, 12, 5, 64)
    assert torch.equal(keys, same)


@pytest.mark.parametrize(
    ("number", "kept", "counts"),
    [
        (10, 1, [1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (5, 1, [0, 1, 2, 3, 4]),
        (1, 1, [0]),
        (16, 4, [1, 3, 4, 6, 8, 9, 11, 12]),
    ],
)
def test_counts_rise_and_leave_enough(number, kept, counts):
    assert pruning_counts(number, kept) == counts


def test_of_equal_scores_the_first_are_pruned():
    assert lowest(torch.tensor([2.0, 1.0, 1.0, 3.0, 1.0]), 2).tolist() == [1, 0, 0, 1, 1]
    assert lowest(torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 1).tolist() == [[1, 0], [0, 1]]


def test_scores_are_the_gradients_of_the_masks_and_change_nothing():
    model = tuned(dropout=0.5)
    model.model.train()
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    masks = masks_of(model.model)
    found = {
        kind: importance(model, batches(), sign=sign, per=per, tokens="gradient")
        for kind, sign, per in (
            ("abs", "abs", "batch"),
            ("signed", "signed", "batch"),
            ("image", "abs", "image"),
        )
    }
    assert model.model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state().items())
    model.model.eval()
    images, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))

    def gradient(*rows: slice) -> list[Tensor]:
        loss = [F.cross_entropy(model(images[row]), labels[row]) for row in rows]
        return [torch.autograd.grad(one, masks.segment)[0].double() for one in loss]

    halves = torch.stack(gradient(slice(0, 4), slice(4, 8)))
    torch.testing.assert_close(found["signed"].segments, halves.mean(0), atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(found["abs"].segments, halves.abs().mean(0), atol=1e-7, rtol=1e-4)
    each = torch.stack(gradient(*(slice(i, i + 1) for i in range(8))))
    torch.testing.assert_close(found["image"].segments, each.abs().mean(0), atol=1e-7, rtol=1e-4)
    assert found["abs"].tokens.dtype == torch.float64


def test_tokens_are_scored_by_what_their_removal_does():
    model = tuned()
    model.model.eval()
    masks, data = masks_of(model.model), batches()
    removal = importance(model, data).tokens
    segments = importance(model, data, tokens="segments")
    torch.testing.assert_close(segments.tokens, segments.segments.abs().sum(1))
    with torch.no_grad():
        before = sum(F.cross_entropy(model(x), y) for x, y in data) / 2
        masks.token[2] = 0.0
        after = sum(F.cross_entropy(model(x), y) for x, y in data) / 2
    assert removal[2].item() == pytest.approx((after - before).item(), abs=1e-6)


@pytest.mark.parametrize("rewind", ["init", "reinit"])
def test_training_prunes_rewinds_and_trains_again(rewind, tmp_path):
    model = tuned(rewind=rewind, prune_tokens=50, prune_segments=25)
    start = {name: tensor.clone() for name, tensor in model.state().items()}
    at_stages: list[dict[str, Tensor]] = []
    steps: list[dict] = []

    def on_event(event: Event) -> None:
        if event.kind == "stage":
            at_stages.append({name: tensor.clone() for name, tensor in model.state().items()})
        if event.kind == "step":
            steps.append(dict(event.values))

    result = fit(model, small_data(), small_config(epochs=2), directory=tmp_path, on_event=on_event)
    assert result.status == "finished"
    assert [line["step"] for line in steps] == list(range(1, 13))
    assert [line.get("prompts") for line in steps] == [None] * 6 + [2] * 6
    assert [line.get("segments") for line in steps] == [None] * 6 + [6] * 6
    (rewound,) = at_stages
    masks = masks_of(model.model)
    assert masks.token.sum() == 2
    assert masks.segment.sum(1).tolist() == [6] * 4
    others = [name for name in start if ".masks." not in name]
    same = [torch.equal(rewound[name], start[name]) for name in others]
    assert all(same) if rewind == "init" else not any(same)
    # The second stage leaves the masks alone and trains everything else but pruned prompts.
    end = model.state()
    assert all(torch.equal(end[name], rewound[name]) for name in start if ".masks." in name)
    assert not any(torch.equal(end[name], rewound[name]) for name in others)
    assert not any(p.requires_grad for p in masks.parameters())


def test_a_resumed_run_prunes_the_same(tmp_path):
    whole, parts = tuned(), tuned()
    config = small_config(epochs=2, checkpoint_steps=1)
    (tmp_path / "whole").mkdir(), (tmp_path / "parts").mkdir()
    fit(whole, small_data(), config, directory=tmp_path / "whole")
    for stop in (4, 9):  # once in each stage
        with pytest.raises(_StopError):
            fit(
                parts,
                small_data(),
                config,
                directory=tmp_path / "parts",
                resume=True,
                on_event=_Stop(stop),
            )
        parts = tuned()
    fit(parts, small_data(), config, directory=tmp_path / "parts", resume=True)
    assert all(torch.equal(tensor, whole.state()[name]) for name, tensor in parts.state().items())


class _StopError(Exception):
    pass


class _Stop:
    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: Event) -> None:
        if event.kind == "step" and event.values["step"] == self.step:
            raise _StopError


def test_pruned_masks_rest_in_a_loaded_adapter_too(tmp_path):
    model = tuned()
    fit(model, small_data(), small_config(epochs=1))
    again = tuned()
    again.load_state(model.state())
    kept = masks_of(model.model).segment.clone()
    stages: list[str] = []
    fit(again, small_data(), small_config(epochs=1), on_event=lambda event: stages.append(event.kind))
    assert "stage" not in stages
    assert torch.equal(masks_of(again.model).segment, kept)


@pytest.mark.parametrize("settings", [{}, {"project": 4}, {"mode": "shallow"}], ids=str)
def test_a_file_holds_what_survives_and_gives_the_same_model(settings, tmp_path):
    model = tuned(prune_tokens=50, prune_segments=50, **settings)
    fit(model, small_data(), small_config(epochs=1))
    model.model.eval()
    model.save(tmp_path / "adapter")
    held = {
        name: t
        for name, t in load_file(tmp_path / "adapter" / "adapter_model.safetensors").items()
        if "prompts" in name
    }
    blocks = 1 if settings.get("mode") == "shallow" else 2
    values = 2 * 4 if "project" in settings else 2 * WIDTH // 2  # two tokens, of half their segments
    assert [tuple(t.shape) for t in held.values()] == [(values,)] * blocks
    again = vitune.load(tmp_path / "adapter", model=small_model())
    again.model.eval()
    images = batches()[0][0]
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


def test_key_value_prompts_cost_their_rows_and_nothing_else():
    def kept(**settings) -> int:
        method = vitune.E2VPT(**{"prompts": 4, "kv_prompts": 2, "masks": "none", "dropout": 0.0, **settings})
        with weightless_copy(small_tuned(method).model) as twin:
            return saved_activation_bytes(twin.train(), lambda m: m(torch.zeros(8, 3, 16, 16)).sum()).bytes

    # Two blocks; one row of queries, keys and values for each of 8 images.
    assert kept(kv_prompts=3) - kept() == 2 * 4 * 8 * 3 * WIDTH
    # A visual prompt's norm keeps its two statistics besides.
    assert kept(prompts=5) - kept() == 2 * 4 * (8 * 3 * WIDTH + 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": -1}, "e2vpt: prompts must be at least 0, not -1."),
        ({"kv_prompts": -1}, "e2vpt: kv_prompts must be at least 0, not -1."),
        ({"prompts": 0, "kv_prompts": 0}, "e2vpt: prompts must be at least 1 where kv_prompts is 0, not 0."),
        ({"mode": "x"}, "e2vpt: mode must be 'deep' or 'shallow', not 'x'."),
        ({"project": 0}, "e2vpt: project must be at least 1 or none, not 0."),
        ({"dropout": 1.0}, "e2vpt: dropout must be in [0, 1), not 1.0."),
        ({"masks": "x"}, "e2vpt: masks must be 'trained', 'fixed' or 'none', not 'x'."),
        ({"segments": 0}, "e2vpt: segments must be at least 1, not 0."),
        ({"segment_layout": "x"}, "e2vpt: segment_layout must be 'strided' or 'contiguous', not 'x'."),
        ({"prune_tokens": 100}, "e2vpt: prune_tokens must be a percentage in [0, 100), not 100."),
        ({"prune_segments": -1}, "e2vpt: prune_segments must be a percentage in [0, 100), not -1."),
        ({"score": "x"}, "e2vpt: score must be 'abs' or 'signed', not 'x'."),
        ({"score_per": "x"}, "e2vpt: score_per must be 'batch' or 'image', not 'x'."),
        ({"token_score": "x"}, "e2vpt: token_score must be 'removal', 'segments' or 'gradient', not 'x'."),
        ({"rewind": "x"}, "e2vpt: rewind must be 'init' or 'reinit', not 'x'."),
        ({"kv_start": "x"}, "e2vpt: kv_start must be 'kaiming', 'uniform' or 'normal', not 'x'."),
    ],
)
def test_out_of_range(settings, message):
    with pytest.raises(ConfigError) as caught:
        vitune.E2VPT(**settings)
    assert str(caught.value) == message


def test_what_it_cannot_do_is_refused():
    with pytest.raises(UnsupportedBackboneError, match="segments=5 does not divide the width 32"):
        vitune.apply(backbone("plain"), vitune.E2VPT(segments=5))
    with pytest.raises(
        UnsupportedBackboneError, match="e2vpt: pool_prompts belongs to a timm ViT that averages"
    ):
        vitune.apply(backbone("plain"), vitune.E2VPT(pool_prompts=True))
    with pytest.raises(UnsupportedBackboneError, match="project is not defined for a Swin"):
        vitune.apply(backbone("swin"), vitune.E2VPT(project=4))
    with pytest.raises(UnsupportedBackboneError, match="takes no further keys and values; with kv_prompts=0"):
        vitune.apply(backbone("swinv2"), vitune.E2VPT(prompts=0))
    with pytest.raises(CompositionError, match="both put prompts of their own in front of the tokens"):
        vitune.apply(backbone("plain"), [vitune.VPT(), vitune.E2VPT()])
    with pytest.raises(ConfigError, match="e2vpt: the model has no masks; apply e2vpt with masks=trained"):
        importance(tuned(masks="none"), batches())
    with pytest.raises(ConfigError, match="e2vpt: there are no batches to score the prompts on"):
        importance(tuned(), [])


def test_pruning_without_the_batches_is_an_error():
    (policy,) = tuned().policies
    policy.begin(Run(0, 1e-3, 4))
    policy.prepare(batches())
    with pytest.raises(TrainingError, match="pruning needs the training batches to score the prompts on"):
        policy.next_stage()


@pytest.mark.parametrize("family", ["plain", "hf", "swin", "qk_norm"])
def test_in_half_precision(family):
    model = vitune.apply(backbone(family), vitune.E2VPT(prompts=3, kv_prompts=2, segments=4), seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        scores = model(images(family))
        scores.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_fixed_masks_do_not_train():
    model = tuned(masks="fixed")
    assert not any(".masks." in name for name in model.trainable())
    assert any(name.endswith("masks.segment") for name in model.state())
    assert model.policies == ()
    assert isinstance(masks_of(model.model).token, nn.Buffer | Tensor)


def prune(model: vitune.Tuned, gone: tuple[int, ...]) -> Masks:
    masks = masks_of(model.model)
    with torch.no_grad():
        masks.token[list(gone)] = 0.0
        masks.segment[:, 1] = 0.0
        masks.pruned.fill_(True)
    return masks


@pytest.mark.parametrize("family", ["plain", "registers", "hf", "dinov3", "beit"])
@pytest.mark.parametrize("gone", [(0, 2, 3), (1,)])
def test_one_row_stands_for_all_pruned_prompts(family, gone):
    method = vitune.E2VPT(prompts=5, kv_prompts=2, segments=4, dropout=0.0)
    model = vitune.apply(backbone(family), method)
    model.model.eval()
    masks = prune(model, gone)
    batch = images(family)
    with torch.no_grad():
        expected = model(batch)
    masks.settle()
    layers = [m for m in model.model.modules() if isinstance(m, MaskedPrompts)]
    # One is one: nothing to put together.
    assert {layer.values().shape[0] for layer in layers} == {3 if len(gone) == 3 else 5}
    with torch.no_grad():
        torch.testing.assert_close(model(batch), expected, rtol=1e-5, atol=2e-6)
    F.cross_entropy(model(batch), torch.tensor([0, 1])).backward()
    for layer in layers:
        assert (layer.prompts.grad[list(gone)] == 0).all()
        assert layer.prompts.grad.abs().sum() > 0
    # Other values unfold them by themselves.
    with torch.no_grad():
        masks.token.fill_(1.0)
    assert layers[0].values().shape[0] == 5


def test_pruned_tokens_can_be_scored_all_the_same():
    model = tuned(prompts=5)
    masks = prune(model, (0, 2))
    expected = importance(model, batches())
    masks.settle()
    found = importance(model, batches())
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.segments, expected.segments)
    assert masks.folds()


def test_prompts_that_pass_through_blocks_are_never_folded():
    model = tuned(mode="shallow", prompts=5)
    prune(model, (0, 1)).settle()
    (layer,) = [m for m in model.model.modules() if isinstance(m, MaskedPrompts)]
    assert layer.values().shape[0] == 5
    assert layer.score_bias() is None


def test_pruned_prompts_of_a_loaded_adapter_are_gone(tmp_path):
    model = tuned(prompts=5)
    prune(model, (0, 2))
    path = model.save(tmp_path / "adapter")
    loaded = vitune.load(path, model=small_model())
    layer = next(m for m in loaded.model.modules() if isinstance(m, MaskedPrompts))
    assert layer.values().shape[0] == 4
    data, _ = batches()[0]
    with torch.no_grad(), weightless_copy(loaded.model) as twin:  # a copy knows it too
        assert next(m for m in twin.modules() if isinstance(m, MaskedPrompts)).values().shape[0] == 4
    model.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(data), model(data), rtol=1e-5, atol=2e-6)
