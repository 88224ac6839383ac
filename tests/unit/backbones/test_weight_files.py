from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from vitune.backbones.weight_files import load_weights, read_state_dict
from vitune.errors import ConfigError

SHAPE: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def small(num_classes: int = 5, **changes: Any) -> Any:
    return timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **{**SHAPE, **changes})


def write(state: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def same(a: nn.Module, b: nn.Module, but: tuple[str, ...] = ()) -> bool:
    other = b.state_dict()
    return all(
        torch.equal(t, other[name]) for name, t in a.state_dict().items() if not name.startswith(but or "?")
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_every_kind_of_state_dict_loads(tmp_path: Path, suffix: str):
    origin, model = small(), small()
    load_weights(model, write(origin.state_dict(), tmp_path / f"weights{suffix}"))
    assert same(model, origin)


def test_the_model_of_a_training_checkpoint_loads(tmp_path: Path):
    origin, model = small(), small()
    state = {f"module.{name}": tensor for name, tensor in origin.state_dict().items()}
    load_weights(model, write({"state_dict": state, "epoch": 3}, tmp_path / "checkpoint.pth"))
    assert same(model, origin)


def test_a_classifier_of_another_size_is_dropped(tmp_path: Path):
    origin, model = small(9), small(5)
    before = model.head.weight.clone()
    load_weights(model, write(origin.state_dict(), tmp_path / "weights.pth"))
    assert same(model, origin, but=("head.",))
    assert torch.equal(model.head.weight, before)


@pytest.mark.parametrize("num_classes", [0, 5])
def test_a_file_or_a_model_may_have_no_classifier(tmp_path: Path, num_classes: int):
    origin, model = small(5 - num_classes), small(num_classes)
    load_weights(model, write(origin.state_dict(), tmp_path / "weights.safetensors"))
    assert same(model, origin, but=("head.",))


def test_embeddings_are_resized(tmp_path: Path):
    path = write(small().state_dict(), tmp_path / "weights.safetensors")
    model = small(img_size=64, patch_size=4)
    load_weights(model, path)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
    assert torch.equal(model.pos_embed[:, 0], read_state_dict(path)["pos_embed"][:, 0])


def test_half_precision_is_loaded_as_the_models_own(tmp_path: Path):
    state = {name: tensor.half() for name, tensor in small().state_dict().items()}
    model = small()
    load_weights(model, write(state, tmp_path / "weights.safetensors"))
    assert model.cls_token.dtype == torch.float32
    assert torch.equal(model.cls_token, state["cls_token"].float())


def npz(model: Any) -> dict[str, np.ndarray]:
    """The arrays of a model as Google's ViT checkpoints have them."""
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    width, heads = 16, 2
    arrays = {
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
    }
    for i in range(2):
        block, attention = (
            f"Transformer/encoderblock_{i}/",
            f"Transformer/encoderblock_{i}/MultiHeadDotProductAttention_1/",
        )
        arrays[f"{block}LayerNorm_0/scale"] = state[f"blocks.{i}.norm1.weight"]
        arrays[f"{block}LayerNorm_0/bias"] = state[f"blocks.{i}.norm1.bias"]
        arrays[f"{block}LayerNorm_2/scale"] = state[f"blocks.{i}.norm2.weight"]
        arrays[f"{block}LayerNorm_2/bias"] = state[f"blocks.{i}.norm2.bias"]
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * width, (part + 1) * width)
            weight = state[f"blocks.{i}.attn.qkv.weight"][rows]
            arrays[f"{attention}{name}/kernel"] = weight.T.reshape(width, heads, width // heads)
            arrays[f"{attention}{name}/bias"] = state[f"blocks.{i}.attn.qkv.bias"][rows].reshape(heads, -1)
        out = state[f"blocks.{i}.attn.proj.weight"].T
        arrays[f"{attention}out/kernel"] = out.reshape(heads, width // heads, width)
        arrays[f"{attention}out/bias"] = state[f"blocks.{i}.attn.proj.bias"]
        for j, name in enumerate(("fc1", "fc2")):
            arrays[f"{block}MlpBlock_3/Dense_{j}/kernel"] = state[f"blocks.{i}.mlp.{name}.weight"].T
            arrays[f"{block}MlpBlock_3/Dense_{j}/bias"] = state[f"blocks.{i}.mlp.{name}.bias"]
    return arrays


def test_googles_npz_loads(tmp_path: Path):
    origin, model = small(), small()
    np.savez(tmp_path / "weights.npz", **npz(origin))  # pyright: ignore[reportArgumentType]
    load_weights(model, tmp_path / "weights.npz")
    assert same(model, origin)


def test_an_npz_of_something_else(tmp_path: Path):
    np.savez(tmp_path / "weights.npz", a=np.zeros(3))
    with pytest.raises(ConfigError, match=r"weights\.npz does not fit VisionTransformer \(ValueError"):
        load_weights(small(), tmp_path / "weights.npz")
    with pytest.raises(ConfigError, match=r"Linear cannot load the \.npz file"):
        load_weights(nn.Linear(1, 1), tmp_path / "weights.npz")


def test_weights_that_do_not_fit_name_the_first_keys(tmp_path: Path):
    path = write(small(depth=2).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(
        ConfigError, match=r"does not fit the model: it lacks 'blocks\.2\.norm1\.weight', .* and 9 more"
    ):
        load_weights(small(depth=3), path)
    with pytest.raises(ConfigError, match=r"it has 'blocks\.1\.norm1\.weight', .* that the model lacks\."):
        load_weights(small(depth=1), path)
    with pytest.raises(
        ConfigError, match=r"'norm\.weight' has shape \(16,\) in it and \(4,\) in the model"
    ) as caught:
        load_weights(
            nn.ModuleDict({"norm": nn.LayerNorm(4)}),
            write({"norm.weight": torch.ones(16), "norm.bias": torch.ones(4)}, path),
        )
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["absent.safetensors", "weights.h5", "broken.safetensors", "broken.pth", "code.pth"]
)
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str):
    messages = {
        "absent.safetensors": "There is no weight file",
        "weights.h5": "of an unknown kind '.h5'; known: .safetensors",
        "broken.safetensors": "cannot be read (",
        "broken.pth": "cannot be read (",
        "code.pth": "requires non-allowlisted pickle globals",
    }
    path = tmp_path / name
    if name == "code.pth":
        torch.save({"a": Path("a pickled object that is no tensor")}, path)
    elif name != "absent.safetensors":
        path.write_bytes(b"no weights at all")
    with pytest.raises(ConfigError) as caught:
        load_weights(small(), path)
    assert messages[name] in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_of_other_things_than_tensors(tmp_path: Path):
    torch.save({"lr": 0.1}, tmp_path / "settings.pth")
    with pytest.raises(ConfigError, match=r"holds 'lr', which is not a tensor"):
        load_weights(small(), tmp_path / "settings.pth")
