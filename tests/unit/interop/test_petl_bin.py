"""The published files: decoded bit for bit, written byte for byte, refused where they do not fit."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from tests.contract.cases import randomise, tune
from tests.contract.families import backbone, images
from timm.models.vision_transformer import VisionTransformer

import vitune
from vitune.errors import AdapterError, UnsupportedBackboneError
from vitune.interop.petl_bin import export_bin, import_bin, readings
from vitune.ops.quantiser import quantisers

PUBLISHED = Path(__file__).parent / "published"
ADAPTFORMER = PUBLISHED / "adaptformer-bihead-patch_camelyon-bit1-dim1.bin"
LORA = PUBLISHED / "lora-patch_camelyon-bit1-dim1.bin"


def vit_base(classes: int = 2) -> VisionTransformer:
    """Of ViT-B's widths and depth where these files look."""
    return VisionTransformer(img_size=32, mlp_ratio=0.01, num_classes=classes)


def decoded_by_hand(data: bytes, count: int) -> tuple[torch.Tensor, bytes]:
    """One record of 1-bit weights, number by number, and what is left."""
    mean, std = struct.unpack_from("<ff", data, count // 8)
    bits = torch.tensor([data[i // 8] >> i % 8 & 1 for i in range(count)])
    level = torch.tensor([-0.6744897365570068, 0.6744897365570068])
    return level[bits] * torch.tensor(std) + torch.tensor(mean), data[count // 8 + 8 :]


def test_bi_adaptformer_with_a_bit_head(tmp_path):
    tuned = import_bin(ADAPTFORMER, vit_base(), scale=10.0)
    assert tuned.methods == (vitune.BiAdaptFormer(bottleneck=1, scale=10.0, binary_head=True),)
    data, model = ADAPTFORMER.read_bytes(), tuned.model
    for block in range(12):
        for part in ("down", "up"):
            layer = model.get_submodule(f"blocks.{block}.vitune.points.mlp_beside.bi_adaptformer.{part}")
            expected, data = decoded_by_hand(data, 768)
            with torch.no_grad():
                assert torch.equal(layer().reshape(-1), expected)
    expected, data = decoded_by_hand(data, 2 * 768)
    with torch.no_grad():
        x = torch.randn(3, 768)
        assert torch.equal(model.head(x), x @ expected.view(2, 768).T)
    assert data == b""
    assert export_bin(tuned, tmp_path / "again.bin").read_bytes() == ADAPTFORMER.read_bytes()


def test_bi_lora_with_a_float_head(tmp_path):
    tuned = import_bin(LORA, vit_base(), scale=10.0)
    assert tuned.methods == (vitune.BiLoRA(rank=1, scale=10.0),)
    data = LORA.read_bytes()
    for block in range(12):
        for role in ("q", "v"):
            for part in ("down", "up"):
                layer = tuned.model.get_submodule(f"blocks.{block}.attn.qkv.vitune.bi_lora.{role}.{part}")
                expected, data = decoded_by_hand(data, 768)
                with torch.no_grad():
                    assert torch.equal(layer().reshape(-1), expected)
    floats = torch.tensor(struct.unpack(f"<{2 * 769}f", data))
    assert torch.equal(tuned.model.head.weight.reshape(-1), floats[: 2 * 768])
    assert torch.equal(tuned.model.head.bias, floats[2 * 768 :])
    assert export_bin(tuned, tmp_path / "again.bin").read_bytes() == LORA.read_bytes()


def test_through_an_adapter_directory_it_is_the_same_file(tmp_path):
    model = vit_base()
    tuned = import_bin(LORA, model, scale=10.0)
    tuned.save(tmp_path / "adapter")
    tuned.detach()
    loaded = vitune.load(tmp_path / "adapter", model=model)
    assert export_bin(loaded, tmp_path / "again.bin").read_bytes() == LORA.read_bytes()


@pytest.mark.parametrize("family", ["plain", "hf"])
@pytest.mark.parametrize(
    "text", ["bi_adaptformer(bottleneck=4,bits=2)", "bi_lora(rank=2,bits=4,binary_head=true)"]
)
def test_what_was_exported_computes_the_same(text, family, tmp_path):
    tuned = randomise(tune(text, family))
    tuned.model.eval()
    method = tuned.methods[0]
    path = export_bin(tuned, tmp_path / "model.bin")
    again = import_bin(path, backbone(family), scale=method.scale, bits=method.bits, method=method)
    with torch.no_grad():
        assert torch.equal(again(images(family)), tuned(images(family)))


def test_published_lengths():
    for text, size in (("adaptformer", 73920), ("lora", 147840)):
        for binary_head, head in ((False, 4 * 102 * 769), (True, 102 * 96 + 8)):
            found = readings(size + head, width=768, depth=12, classes=102)
            kind = vitune.BiLoRA(binary_head=binary_head) if text == "lora" else None
            assert (kind or vitune.BiAdaptFormer(binary_head=binary_head)) in found


def refused(call, message: str, error: type[Exception] = AdapterError) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_a_length_that_nothing_explains():
    model = vit_base(classes=3)
    refused(
        lambda: import_bin(LORA, model, scale=10.0),
        f"no Bi-AdaptFormer or Bi-LoRA with 1 bits, 12 blocks of width 768 and 3 classes makes a file of 11144 bytes "
        f"like '{LORA}'; is the number of classes right?",
    )
    assert type(model.blocks[0]).__name__ == "Block"
    assert not any(".vitune." in name for name in model.state_dict())


def test_a_length_that_two_explain(tmp_path):
    # Of width 32 with 2 blocks: 4 matrices of 4 h + 8 bytes, or 8 of them, and a head of 4 * 33 * 3.
    size = 8 * (4 * 2 + 8) + 4 * 33 * 3
    path = tmp_path / "two.bin"
    path.write_bytes(bytes(size))
    model = VisionTransformer(img_size=32, embed_dim=32, depth=2, num_heads=2, num_classes=3)
    refused(
        lambda: import_bin(path, model, scale=1.0),
        f"'{path}' with 1 bits, 2 blocks of width 32 and 3 classes could be Bi-AdaptFormer of size 6 with a float head "
        f"or Bi-LoRA of size 2 with a float head; say which, as method=.",
    )
    tuned = import_bin(path, model, scale=1.0, method=vitune.BiLoRA(rank=2))
    assert len(quantisers(tuned.model)) == 8


def test_settings_of_another_length(tmp_path):
    model = vit_base()
    refused(
        lambda: import_bin(LORA, model, scale=10.0, method=vitune.BiLoRA(rank=2)),
        f"'{LORA}' has 11144 bytes, and a Bi-LoRA of size 2 with a float head makes 15752 on this backbone; choose "
        f"other settings.",
    )
    assert not any(".vitune." in name for name in model.state_dict())


def test_no_file(tmp_path):
    path = tmp_path / "none.bin"
    refused(
        lambda: import_bin(path, vit_base(), scale=1.0), f"cannot read '{path}': No such file or directory."
    )


def test_an_empty_file(tmp_path):
    (tmp_path / "empty.bin").touch()
    with pytest.raises(AdapterError, match="makes a file of 0 bytes"):
        import_bin(tmp_path / "empty.bin", vit_base(), scale=1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora", "a .bin file holds bi_adaptformer or bi_lora alone, and this is 'lora'."),
        ("bi_lora,ssf", "a .bin file holds bi_adaptformer or bi_lora alone, and this is 'bi_lora, ssf'."),
        (
            "bi_lora(roles=attn.q)",
            "a .bin file holds the updates of q and v, and this bi_lora has roles attn.q.",
        ),
        ("bi_lora(bits=32)", "a .bin file holds weights of 1, 2, 4 or 8 bits, and these have 32."),
    ],
)
def test_what_no_file_can_hold(text, message, tmp_path):
    refused(lambda: export_bin(tune(text, "plain"), tmp_path / "model.bin"), message)
    assert not list(tmp_path.iterdir())


def test_weights_that_do_not_fill_whole_bytes(tmp_path):
    model = VisionTransformer(img_size=32, embed_dim=36, depth=1, num_heads=2, num_classes=3)
    tuned = vitune.apply(model, vitune.BiLoRA(rank=1))
    refused(
        lambda: export_bin(tuned, tmp_path / "model.bin"),
        "'blocks.0.attn.qkv.vitune.bi_lora.q.down.weight' has 36 weights of 1 bits, which do not fill whole bytes; a "
        ".bin file cannot hold it (an adapter directory can).",
    )
    tuned.save(tmp_path / "adapter")
    loaded = vitune.load(tmp_path / "adapter", model=tuned.detach())
    assert len(quantisers(loaded.model)) == 4


def test_a_folder_that_is_not_there(tmp_path):
    path = tmp_path / "none" / "model.bin"
    refused(
        lambda: export_bin(tune("bi_lora", "plain"), path),
        f"cannot write '{path}': No such file or directory.",
    )


def test_two_heads_are_refused(tmp_path):
    refused(
        lambda: export_bin(tune("bi_lora", "distilled"), tmp_path / "model.bin"),
        "a .bin file goes with one linear head with bias, and this timm-vit has 2 heads.",
        UnsupportedBackboneError,
    )
