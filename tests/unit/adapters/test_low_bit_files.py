"""Matrices in few bits on disk: how small, how exact, and for any method."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from tests.contract.cases import randomise, tune
from tests.contract.families import backbone, images
from tests.unit.adapters.saved import edit_config, edit_tensors, save_small

import vitune
from vitune.adapters import CONFIG, TENSORS, effect, read_config, round_weights
from vitune.errors import AdapterError, ConfigError

BI = [
    "bi_adaptformer(bottleneck=4)",
    "bi_adaptformer(bottleneck=3,bits=2,binary_head=true)",
    "bi_lora(rank=2,bits=4)",
    "bi_lora(rank=3,bits=8,codebook=converged)",
    "bi_lora(rank=1,binary_head=true),ssf",
]


def scores(tuned: vitune.Tuned) -> torch.Tensor:
    with torch.no_grad():
        return tuned(images("plain"))


def same_files(one, other) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in (TENSORS, CONFIG))


@pytest.mark.parametrize("text", BI)
def test_saved_loaded_and_saved_again_is_the_same_to_the_last_bit(text, tmp_path):
    tuned = save_small(tmp_path / "one", text)
    loaded = vitune.load(tmp_path / "one", model=backbone("plain"))
    assert torch.equal(scores(loaded), scores(tuned))
    loaded.save(tmp_path / "two")
    assert same_files(tmp_path / "one", tmp_path / "two")


# bi.md 5.3: bytes of the adapters alone at ViT-B/16
SIZES = {
    ("bi_adaptformer", 1, 1): 2496,
    ("bi_adaptformer", 1, 2): 4800,
    ("bi_adaptformer", 32, 1): 73920,
    ("bi_adaptformer", 8, 4): 73920,
    ("bi_lora", 1, 1): 4992,
    ("bi_lora", 8, 8): 295296,
    ("bi_lora", 32, 1): 147840,
}


@pytest.mark.parametrize(("name", "size", "bits"), SIZES)
def test_file_size_is_that_of_the_information(name, size, bits, tmp_path):
    from timm.models.vision_transformer import VisionTransformer

    # Of ViT-B's width and depth; the size of the rest does not matter.
    model = VisionTransformer(img_size=32, mlp_ratio=0.01, num_classes=4)
    setting = "rank" if name == "bi_lora" else "bottleneck"
    for binary_head in (False, True):
        method = vitune.methods.parse(f"{name}({setting}={size},bits={bits},binary_head={binary_head})")
        tuned = vitune.apply(model, method, check=False)
        tuned.save(tmp_path)
        tuned.detach()
        head = 768 * 4 / 8 + 8 if binary_head else 4 * 769 * 4
        expected = SIZES[name, size, bits] + head
        found = (tmp_path / TENSORS).stat().st_size
        assert expected < found <= 1.02 * expected + 2048, (expected, found)
        assert found - expected < 600  # no name per matrix


def test_checkpoints_of_training_keep_the_latent_weights():
    tuned = randomise(tune("bi_lora(rank=2)", "plain"))
    state = tuned.state()
    assert state.keys() == tuned.trainable().keys()
    latent = state["blocks.0.attn.qkv.vitune.bi_lora.q.down.weight"]
    assert latent.unique().numel() > 2
    other = tune("bi_lora(rank=2)", "plain")
    other.load_state(state)
    tuned.model.eval(), other.model.eval()
    assert torch.equal(scores(tuned), scores(other))


def test_training_goes_on_where_it_was(tmp_path):
    tuned = save_small(tmp_path, "bi_lora(rank=2)")
    loaded = vitune.load(tmp_path, model=backbone("plain"))
    before = scores(loaded)
    loaded.model.train()
    loaded.model.eval()
    torch.testing.assert_close(scores(loaded), scores(tuned), rtol=1e-4, atol=1e-5)
    optimizer = torch.optim.AdamW(loaded.parameters(), lr=1e-2)
    loaded(images("plain")).sum().backward()
    optimizer.step()
    assert not torch.equal(scores(loaded), before)


def test_a_loaded_model_that_trains_in_eval_mode_does_train(tmp_path):
    save_small(tmp_path, "bi_adaptformer(bottleneck=4)")
    loaded = vitune.load(tmp_path, model=backbone("plain"))
    matrices = {n: p for n, p in loaded.trainable().items() if ".vitune." in n}
    before, start = scores(loaded), {n: p.detach().clone() for n, p in matrices.items()}
    optimizer = torch.optim.AdamW(matrices.values(), lr=1e-1)
    loaded(images("plain")).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(p, start[n]) for n, p in matrices.items())
    assert (scores(loaded) - before).abs().max() > 1e-3


# Any method.


@pytest.mark.parametrize("text", ["lora(rank=2)", "adaptformer(bottleneck=4)", "lora(rank=2),ssf"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_matrices_of_any_method_can_be_stored_so(text, bits, tmp_path):
    tuned = save_small(tmp_path / "full", text)
    exact = scores(tuned)
    found = effect(tuned, bits)
    tuned.save(tmp_path / "one", store_bits=bits)
    assert torch.equal(scores(tuned), exact)  # saving changes no model
    assert read_config(tmp_path / "one")["store_bits"] == bits
    matrices = [p for n, p in tuned.trainable().items() if ".vitune." in n and p.dim() == 2]
    assert (found.tensors, found.weights) == (len(matrices), sum(p.numel() for p in matrices))
    assert found.bytes == sum(p.numel() * bits // 8 + 8 for p in matrices)
    assert found.float_bytes == 4 * found.weights
    saved = (tmp_path / "full" / TENSORS).stat().st_size - (tmp_path / "one" / TENSORS).stat().st_size
    assert saved >= found.float_bytes - found.bytes
    loaded = vitune.load(tmp_path / "one", model=backbone("plain"))
    torch.testing.assert_close(scores(loaded), exact, rtol=0, atol=1.0)
    assert not torch.equal(scores(loaded), exact)
    loaded.save(tmp_path / "two")
    assert same_files(tmp_path / "one", tmp_path / "two")


def test_matrices_that_would_gain_nothing_are_left_alone(tmp_path):
    tuned = tune("adaptformer(bottleneck=4)", "plain")
    layer = tuned.model.get_submodule("blocks.0.vitune.points.mlp_beside.adaptformer")
    layer.register_parameter("single", torch.nn.Parameter(torch.ones(1, 1)))
    tuned.save(tmp_path, store_bits=8)
    left = [name for name in load_file(tmp_path / TENSORS) if not name.startswith(("head", "low_bit"))]
    assert "blocks.0.vitune.points.mlp_beside.adaptformer.single" in left
    assert all(name.endswith(("single", "bias")) for name in left)


def test_equal_numbers_stay_as_they_are(tmp_path):
    tuned = tune("lora(rank=2)", "plain")  # whose B are zero
    assert effect(tuned, 1).relative_error > 0
    round_weights(tuned, 1)
    assert not tuned.model.get_parameter("blocks.0.attn.qkv.vitune.lora.q.up").any()


def test_more_bits_change_less():
    tuned = randomise(tune("lora(rank=4)", "plain"))
    errors = [effect(tuned, bits).relative_error for bits in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[3] < 0.05


def test_rounded_in_place_it_computes_what_the_file_will(tmp_path):
    tuned = randomise(tune("lora(rank=2)", "plain"))
    tuned.model.eval()
    exact, foreseen = scores(tuned), effect(tuned, 2)
    assert round_weights(tuned, 2) == foreseen
    assert not torch.equal(scores(tuned), exact)
    tuned.save(tmp_path / "one")
    assert torch.equal(scores(vitune.load(tmp_path / "one", model=backbone("plain"))), scores(tuned))
    tuned.save(tmp_path / "two", store_bits=2)  # rounding what is rounded changes nothing
    assert same_files(tmp_path / "one", tmp_path / "two")
    tuned.save(tmp_path / "full", store_bits=32)
    assert read_config(tmp_path / "full")["store_bits"] is None
    assert torch.equal(scores(vitune.load(tmp_path / "full", model=backbone("plain"))), scores(tuned))


def test_what_was_trained_since_is_stored_in_full(tmp_path):
    save_small(tmp_path / "full", "lora(rank=2)")
    loaded = vitune.load(tmp_path / "full", model=backbone("plain"))
    round_weights(loaded, 4)
    changed = "blocks.0.attn.qkv.vitune.lora.q.up"
    with torch.no_grad():
        loaded.model.get_parameter(changed).mul_(1.5)
    loaded.save(tmp_path / "one")
    tensors = load_file(tmp_path / "one" / TENSORS)
    assert [name for name in tensors if ".lora." in name] == [changed]
    again = vitune.load(tmp_path / "one", model=backbone("plain"))
    assert torch.equal(scores(again), scores(loaded))


@pytest.mark.parametrize(
    ("text", "bits", "message"),
    [
        ("lora", 3, "store_bits must be 1, 2, 4 or 8, not 3."),
        (
            "ssf",
            4,
            "store_bits=4 would change nothing in 'ssf': it has no matrices outside the head; leave it out.",
        ),
        (
            "bi_lora,bitfit",
            8,
            "store_bits=8 would change nothing in 'bi_lora, bitfit': its matrices have few bits already; leave it out.",
        ),
    ],
)
def test_refused(text, bits, message, tmp_path):
    tuned = tune(text, "plain")
    with pytest.raises(ConfigError) as caught:
        tuned.save(tmp_path / "run", store_bits=bits)
    assert str(caught.value) == message
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError):
        round_weights(tuned, bits)


LENGTH = r"'.*' does not fit this backbone: the \d+ bytes of 'low_bit' are not the \d+ matrices that have no"


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: edit_tensors(folder, lambda t: t.update(low_bit=t["low_bit"][:-1].clone())),
        lambda folder: edit_tensors(folder, lambda t: t.update(low_bit=t["low_bit"].float())),
        lambda folder: edit_tensors(folder, lambda t: t.pop("head.bias")),
        lambda folder: edit_config(folder, lambda c: c["methods"][0]["settings"].update(bits=2)),
    ],
)
def test_bytes_that_do_not_fit(change, tmp_path):
    save_small(tmp_path, "bi_lora(rank=2)")
    change(tmp_path)
    model = backbone("plain")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(AdapterError, match=LENGTH):
        vitune.load(tmp_path, model=model)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_low_bits_without_a_number(tmp_path):
    save_small(tmp_path, "lora(rank=2)", store_bits=4)
    edit_config(tmp_path, lambda config: config.update(store_bits=None))
    with pytest.raises(AdapterError, match=LENGTH):
        vitune.load(tmp_path, model=backbone("plain"))


def test_no_low_bits_at_all(tmp_path):
    save_small(tmp_path, "bi_lora(rank=2)")
    edit_tensors(tmp_path, lambda tensors: tensors.pop("low_bit"))
    with pytest.raises(AdapterError, match=r"the tensor '.*bi_lora.*' is missing"):
        vitune.load(tmp_path, model=backbone("plain"))
