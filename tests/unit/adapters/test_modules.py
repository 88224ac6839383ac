"""Pre-trained modules: what moves from one model to another, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.contract.cases import randomise
from tests.contract.families import backbone, images

import vitune
from vitune.adapters import load_modules, read_modules, save_modules, save_modules_of_adapter
from vitune.errors import AdapterError

METHODS = [
    vitune.VPT(prompts=3),
    vitune.VPT(prompts=3, mode="shallow"),
    vitune.VPT(prompts=3, project=4),
    vitune.LoRA(rank=2),
    vitune.Adapter(bottleneck=3),
    vitune.AdaptFormer(bottleneck=3),
    vitune.SSF(),
]
NAMES = [f"{method.name}-{i}" for i, method in enumerate(METHODS)]


def model(classes: int | None = None, family: str = "plain") -> torch.nn.Module:
    plain = backbone(family)
    if classes is not None:
        plain.reset_classifier(classes)  # type: ignore[operator]
    return plain


def trained(method: vitune.Method, classes: int | None = 5, seed: int = 5) -> vitune.Tuned:
    tuned = randomise(vitune.apply(model(classes), method), seed=seed)
    tuned.model.eval()
    return tuned


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    return save_modules(trained(vitune.LoRA(rank=2)), tmp_path / "lora.safetensors", data="digits")


def state(tuned: vitune.Tuned) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_modules_move_and_the_head_stays(method, tmp_path):
    first = trained(method)
    path = save_modules(first, tmp_path / "modules.safetensors")
    second = vitune.apply(model(), method, seed=1)
    before = state(second)
    assert load_modules(second, path) == []
    assert not any(name.startswith("head") for name in read_modules(path).tensors)
    for name, tensor in state(second).items():
        if ".vitune." in name:
            assert torch.equal(tensor, first.model.state_dict()[name]), name
        else:
            assert torch.equal(tensor, before[name]), name
    second.model.eval()
    with torch.no_grad():
        features = [
            tuned.model.forward_head(tuned.model.forward_features(images("plain")), pre_logits=True)
            for tuned in (first, second)
        ]
    assert torch.equal(*features)


def test_the_header_says_where_the_modules_come_from(tmp_path):
    method = vitune.VPT(prompts=3)
    tuned = trained(method)
    pixels = {"mean": (0.5, 0.5, 0.5)}
    path = save_modules(
        tuned, tmp_path / "new" / "m.safetensors", data="digits", accuracy=0.75, preprocessing=pixels
    )
    header = read_modules(path).header
    assert header["method"] == {"name": "vpt", "settings": method.settings()}
    assert header["backbone"]["name"].startswith("vit_tiny_patch16_224")
    assert (header["family"], header["data"], header["accuracy"]) == ("timm-vit", "digits", 0.75)
    assert header["preprocessing"] == {"mean": [0.5, 0.5, 0.5]}
    norms = [t.norm(dim=-1).mean() for n, t in tuned.state().items() if n.endswith("prompts")]
    assert header["prompt_norm"] == pytest.approx(torch.stack(norms).mean().item(), rel=1e-5)
    assert read_modules(save_modules(trained(vitune.SSF()), tmp_path / "s")).header["prompt_norm"] is None


def test_from_a_saved_adapter_without_its_backbone(tmp_path):
    tuned = trained(vitune.Adapter(bottleneck=3))
    tuned.save(tmp_path / "adapter")
    one = save_modules(tuned, tmp_path / "one", data="d", accuracy=0.5)
    other = save_modules_of_adapter(tmp_path / "adapter", tmp_path / "other", data="d", accuracy=0.5)
    one, other = read_modules(one), read_modules(other)
    assert one.header == other.header
    assert one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())
    randomise(vitune.apply(model(), [vitune.LoRA(rank=1), vitune.SSF()])).save(tmp_path / "two")
    with pytest.raises(AdapterError, match="has the methods lora, ssf; modules are those of one method"):
        save_modules_of_adapter(tmp_path / "two", tmp_path / "never")


def test_fewer_prompts_take_the_first_and_more_keep_their_start(tmp_path):
    first = trained(vitune.VPT(prompts=3))
    path = save_modules(first, tmp_path / "m.safetensors")
    name = next(name for name in first.state() if name.endswith("prompts"))
    short = vitune.apply(model(), vitune.VPT(prompts=2))
    assert load_modules(short, path) == []
    assert torch.equal(short.state()[name], first.state()[name][:2])
    long = vitune.apply(model(), vitune.VPT(prompts=5), seed=1)
    start = long.state()[name].clone()
    (note,) = load_modules(long, path)
    assert note.endswith("have 3 prompts and this run 5; the other 2 start as usual.")
    assert torch.equal(long.state()[name][:3], first.state()[name])
    assert torch.equal(long.state()[name][3:], start[3:])
    assert start[3:].any()


def test_settings_that_change_no_module_may_differ(lora):
    tuned = vitune.apply(model(), vitune.LoRA(rank=2, dropout=0.3, dropout_at="input"))
    assert load_modules(tuned, lora) == []


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            vitune.LoRA(rank=3),
            r"were trained with rank 2 and this run asks for 3, which are other modules; use rank 2",
        ),
        (vitune.LoRA(rank=2, scale=2.0), r"were trained with scale 1.0 and this run asks for 2.0"),
        (
            vitune.LoRA(rank=2, roles=("attn.q",)),
            r"were trained with roles \['attn.q', 'attn.v'\] and this run asks",
        ),
        (vitune.Adapter(), r"are of 'lora' and this run trains 'adapter'; use --method lora"),
        (
            vitune.BitFit(),
            r"the modules of 'bitfit' cannot be pre-trained: .* vpt, lora, adapter, adaptformer, ssf",
        ),
    ],
)
def test_another_method_or_other_settings_are_refused(lora, method, message):
    tuned = vitune.apply(model(), method)
    before = state(tuned)
    with pytest.raises(AdapterError, match=message):
        load_modules(tuned, lora)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(tuned).items())


def test_several_methods_are_refused(lora):
    tuned = vitune.apply(model(), [vitune.LoRA(rank=2), vitune.SSF()])
    with pytest.raises(
        AdapterError, match="modules of one method can be loaded, and the model has lora, ssf"
    ):
        load_modules(tuned, lora)
    with pytest.raises(AdapterError, match="modules of one method can be saved, and the model has lora, ssf"):
        save_modules(tuned, lora)


def test_another_backbone_is_refused(lora):
    other = model()
    other.blocks[1].mlp.fc1.weight.data[0, 0] += 1e-3
    tuned = vitune.apply(other, vitune.LoRA(rank=2))
    with pytest.raises(
        AdapterError, match=r"were trained on vit_tiny_patch16_224.* and this backbone's weights are not"
    ):
        load_modules(tuned, lora)
    with pytest.raises(AdapterError, match="this backbone's weights are not the same"):
        load_modules(vitune.apply(backbone("hf"), vitune.LoRA(rank=2)), lora)


@pytest.mark.parametrize(
    ("method", "part"),
    [
        (vitune.LoRA(rank=2), "all up-projections are 0"),
        (vitune.Adapter(bottleneck=3), "all up-projections are 0"),
        (vitune.AdaptFormer(bottleneck=3), "all up-projections are 0"),
        (vitune.SSF(init_std=0.0), "all scales are 1 and all shifts 0"),
    ],
)
def test_modules_that_learnt_nothing_are_refused(method, part, tmp_path):
    fresh = vitune.apply(model(), method)
    message = f"of '{method.name}' hold nothing that was learnt: {part}; train them first"
    with pytest.raises(AdapterError, match=message):
        save_modules(fresh, tmp_path / "m.safetensors")
    path = save_modules(randomise(fresh), tmp_path / "m.safetensors")
    found = read_modules(path)
    empty = {
        n: torch.ones_like(t) if n.endswith("scale") else torch.zeros_like(t)
        for n, t in found.tensors.items()
    }
    save_file(empty, path, metadata={"vitune_modules": json.dumps(found.header)})
    with pytest.raises(AdapterError, match=message):
        load_modules(vitune.apply(model(), method), path)


def test_missing_unknown_and_misshapen_tensors_are_refused(lora):
    found = read_modules(lora)
    name = "blocks.1.attn.qkv.vitune.lora.q.up"
    fresh = vitune.apply(model(), vitune.LoRA(rank=2))
    before = state(fresh)
    for change, message in (
        (lambda t: t.pop(name), rf"the tensor '{name}' is missing in "),
        (
            lambda t: t.update({"blocks.9.x": torch.ones(1)}),
            r"'blocks.9.x' has no place in the model, but is in",
        ),
        (
            lambda t: t.update({name: torch.ones(32, 1)}),
            rf"'{name}' has shape \(32, 1\) in .*, expected \(32, 2\)",
        ),
    ):
        tensors = dict(found.tensors)
        change(tensors)
        save_file(tensors, lora, metadata={"vitune_modules": json.dumps(found.header)})
        with pytest.raises(AdapterError, match=message):
            load_modules(fresh, lora)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(fresh).items())


def test_what_is_no_file_of_modules_is_refused(lora, tmp_path):
    found = read_modules(lora)
    with pytest.raises(
        AdapterError, match=r"there is no file of modules '.*none'; make one with vitune pretrain-modules"
    ):
        read_modules(tmp_path / "none")
    text = tmp_path / "text"
    text.write_text("text")
    with pytest.raises(AdapterError, match="is not a safetensors file"):
        read_modules(text)
    for header, message in (
        (None, "holds no pre-trained modules: it has no header 'vitune_modules'"),
        ("{", "the header of .* is not valid JSON"),
        (json.dumps({**found.header, "format": 9}), "has format 9 and this vitune reads format 1"),
        (
            json.dumps({k: v for k, v in found.header.items() if k != "family"}),
            "has no key 'family', so it was changed",
        ),
    ):
        save_file(found.tensors, lora, metadata=None if header is None else {"vitune_modules": header})
        with pytest.raises(AdapterError, match=message):
            read_modules(lora)


def test_other_pixels_are_told(tmp_path):
    path = save_modules(
        trained(vitune.LoRA(rank=2)), tmp_path / "m", preprocessing={"mean": [0.5] * 3, "std": [0.5] * 3}
    )
    tuned = vitune.apply(model(), vitune.LoRA(rank=2))
    assert load_modules(tuned, path, preprocessing={"mean": (0.5,) * 3, "std": (0.5,) * 3}) == []
    (note,) = load_modules(tuned, path, preprocessing={"mean": (0.5,) * 3, "std": (0.2,) * 3})
    assert "saw images normalised with std [0.5, 0.5, 0.5], and this run uses [0.2, 0.2, 0.2]." in note
