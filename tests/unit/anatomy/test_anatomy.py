from __future__ import annotations

import sys

import pytest
import timm
import torch
from tests.contract.cases import randomise
from tests.contract.families import FAMILIES, SMALL, backbone, images
from torch import nn

import vitune
from vitune.anatomy import anatomy, hf_vit, logits, short_name
from vitune.errors import NothingMatchedError, UnsupportedBackboneError


class Strange(nn.Module):
    """A block of no known kind."""

    def __init__(self, dim: int, **kwargs: object) -> None:
        super().__init__()


def short_names(family: str) -> list[str]:
    return list(dict.fromkeys(short_name(operator.role) for operator in anatomy(backbone(family)).operators))


PLAIN = ["patch_embed", "norm1", "attn.qkv", "attn.out", "norm2", "mlp.in", "mlp.out", "norm"]
POOL = ["pool.q", "pool.kv", "pool.out", "pool.norm", "pool.mlp.in", "pool.mlp.out"]
EXPECTED = {
    "plain": PLAIN,
    "distilled": PLAIN,
    "clip": ["patch_embed", "norm_pre", *PLAIN[1:]],
    "registers": PLAIN,
    "siglip": [*PLAIN, *POOL],
    "gap": PLAIN,
    "fc_norm": [*PLAIN, "fc_norm"],
    "layer_scale": PLAIN,
    "no_qkv_bias": PLAIN,
    "qk_norm": [*PLAIN[:3], "attn.q_norm", "attn.k_norm", *PLAIN[3:]],
    "glu": [*PLAIN[:5], "mlp.in_gate", "mlp.out", "norm"],
    "inner_norms": [*PLAIN[:3], "attn.norm", *PLAIN[3:6], "mlp.norm", "mlp.out", "norm", "fc_norm"],
    "rms_swiglu": ["patch_embed", "patch_embed.norm", *PLAIN[1:5], "mlp.gate", "mlp.in", "mlp.out", "norm"],
    "hf": [
        "patch_embed",
        "norm1",
        "attn.q",
        "attn.k",
        "attn.v",
        "attn.out",
        "norm2",
        "mlp.in",
        "mlp.out",
        "norm",
    ],
}
EXPECTED["hf_features"] = [*EXPECTED["hf"], "pool.out"]
SWIN_BLOCK = PLAIN[1:-1]
EXPECTED |= {
    "swin": [
        "patch_embed",
        "patch_embed.norm",
        *SWIN_BLOCK,
        "downsample.1.norm",
        "downsample.1.reduction",
        "norm",
    ],
    "swinv2": [
        "patch_embed",
        "patch_embed.norm",
        *("attn.qkv", "attn.out", "norm1", "mlp.in", "mlp.out", "norm2"),
        "downsample.1.reduction",
        "downsample.1.norm",
        "norm",
    ],
    "convnext": [
        *("patch_embed", "patch_embed.norm", "dwconv", "norm", "mlp.in", "mlp.out"),
        *(f"downsample.{stage}.{name}" for stage in (1, 2, 3) for name in ("norm", "conv")),
        "head.norm",
    ],
    "mixer": ["patch_embed", "norm1", "tokens.in", "tokens.out", "norm2", "mlp.in", "mlp.out", "norm"],
    "resnet": [
        *("stem.conv1", "stem.norm1", "conv1", "norm1", "conv2", "norm2", "shortcut.conv1", "shortcut.norm1"),
    ],
    "as_mlp": [
        *(
            "patch_embed",
            "patch_embed.norm",
            "norm1",
            "shift.in",
            "shift.norm1",
            "shift.width",
            "shift.height",
        ),
        *("shift.norm2", "shift.out", "norm2", "mlp.in", "mlp.out"),
        *("downsample.1.norm", "downsample.1.reduction", "norm"),
    ],
}
EXPECTED |= dict.fromkeys(("dinov3", "beit", "hf_timm"), PLAIN)
EXPECTED["naflex"] = [*PLAIN, *POOL]
EXPECTED |= dict.fromkeys(("hf_deit", "hf_dinov2", "hf_dinov3", "hf_beit", "hf_siglip"), EXPECTED["hf"])
EXPECTED["hf_clip"] = ["patch_embed", "norm_pre", *EXPECTED["hf"][1:-1]]
EXPECTED["hf_swin"] = ["patch_embed", "patch_embed.norm", *EXPECTED["hf"][1:-1]]
EXPECTED["hf_swin"] += ["downsample.1.norm", "downsample.1.reduction", "norm"]
EXPECTED["hf_convnext"] = EXPECTED["convnext"][:-1]  # the norm behind the pooling is a `norm` as well
EXPECTED["hf_llama"] = [*EXPECTED["hf"][1:7], "mlp.gate", "mlp.in", "mlp.out", "norm"]
EXPECTED["eva02"] = [*EXPECTED["hf"][:7], "mlp.gate", "mlp.in", "mlp.norm", "mlp.out", "norm"]


def test_expectations_cover_all_families():
    assert EXPECTED.keys() == FAMILIES.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_roles(family):
    assert short_names(family) == EXPECTED[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_paths_and_roles_are_inverse(family):
    model = backbone(family)
    found = anatomy(model)
    names = list(model.state_dict())
    roles = [found.role_of(name) for name in names]
    assert [found.path_of(role) for role in roles] == names
    assert len(set(roles)) == len(names)
    operators = {operator.path: operator.role for operator in found.operators}
    assert {found.role_of(path) for path in operators} == set(operators.values())


@pytest.mark.parametrize("family", ["plain", "siglip", "hf"])
def test_paths_and_roles_are_inverse_below_edits(family):
    tuned = vitune.apply(backbone(family), vitune.methods.parse("lora,ssf,adaptformer(bottleneck=2)"))
    for name in tuned.model.state_dict():
        assert tuned.anatomy.path_of(tuned.anatomy.role_of(name)) == name


def test_roles_name_parts_alike_in_both_libraries():
    timm_names = [
        anatomy(backbone("plain")).role_of(n) for n in ("blocks.1.mlp.fc1.weight", "head.bias", "norm.bias")
    ]
    hf = anatomy(backbone("hf"))
    hf_names = [
        hf.role_of(n) for n in ("vit.layers.1.mlp.fc1.weight", "classifier.bias", "vit.layernorm.bias")
    ]
    assert timm_names == hf_names == ["blocks.1.mlp.in.weight", "head.bias", "norm.bias"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_operator_is_really_called_and_as_wide_as_said(family):
    model = backbone(family).eval()
    found = anatomy(model)
    shapes: dict[str, tuple[torch.Size, torch.Size]] = {}
    for operator in found.operators:
        model.get_submodule(operator.path).register_forward_hook(
            lambda module, inputs, output, role=operator.role: shapes.update(
                {role: (inputs[0].shape, output.shape)}
            )
        )
    with torch.no_grad():
        logits(model, images(family))
    assert {o.role for o in found.operators} - shapes.keys() == {o.role for o in found.operators if o.biases}
    assert list(shapes) == [operator.role for operator in found.operators if operator.role in shapes]
    for operator in found.operators:
        if operator.biases:  # its weight is read without a call until it is edited
            continue
        into, out = shapes[operator.role]
        axis = 1 if operator.layout == "NCHW" else -1
        assert (into[axis], out[axis]) == (operator.in_features, operator.out_features), operator.role


def test_rows_of_a_fused_layer_are_what_they_are_called():
    model = backbone("plain").eval()
    found = anatomy(model)
    x = torch.randn(1, 5, 32)
    block, slots = model.blocks[0], found.slots()
    seen = {}
    block.attn.q_norm.register_forward_hook(lambda m, i, o: seen.update(q=o))
    block.attn.k_norm.register_forward_hook(lambda m, i, o: seen.update(k=o))
    with torch.no_grad():
        block.attn(x)
        fused = block.attn.qkv(x)
    for name in "qk":
        rows = slots[f"blocks.0.attn.{name}"].rows
        assert torch.equal(fused[..., rows], seen[name].transpose(1, 2).reshape(1, 5, 32))
    assert slots["blocks.0.attn.v"].rows == slice(64, 96)
    assert slots["blocks.0.attn.v"].out_features == 32


def test_gate_and_value_of_a_gated_mlp_are_told_apart():
    model = backbone("glu").eval()
    slots, mlp = anatomy(model).slots(), model.blocks[0].mlp
    x = torch.randn(1, 5, 32)
    with torch.no_grad():
        fused = mlp.fc1(x)
        value, gate = (fused[..., slots[f"blocks.0.mlp.{name}"].rows] for name in ("in", "gate"))
        torch.testing.assert_close(mlp.fc2(nn.functional.silu(gate) * value), mlp(x))


@pytest.mark.parametrize(
    ("family", "prefix", "pooling", "heads"),
    [
        ("layer_scale", 1, "token", ("head",)),
        ("distilled", 2, "token", ("head", "head_dist")),
        ("registers", 5, "token", ("head",)),
        ("siglip", 0, "map", ("head",)),
        ("gap", 0, "avg", ("head",)),
        ("fc_norm", 1, "avg", ("head",)),
        ("hf", 1, "token", ("classifier",)),
        ("hf_features", 1, "token", ()),
    ],
)
def test_facts(family, prefix, pooling, heads):
    found = anatomy(backbone(family))
    assert (found.num_prefix_tokens, found.pooling, found.head) == (prefix, pooling, heads)
    assert (found.width, found.grid, len(found.blocks)) == (32, (2, 2), 2)
    assert found.input_size == (3, *images(family).shape[2:])
    assert [(block.index, block.width, block.num_heads) for block in found.blocks] == [(0, 32, 2), (1, 32, 2)]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_a_matrix(family):
    for model in (backbone(family).eval(), backbone(family).train()):
        scores = logits(model, images(family))
        assert scores.shape == (2, 3 if "head" in FAMILIES[family].features else 32)


def test_scores_without_pooler_are_the_class_token():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(**FAMILIES["hf"].arguments)
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    batch = images("hf")
    with torch.no_grad():
        assert torch.equal(logits(model, batch), model(batch).last_hidden_state[:, 0])


def roles(patterns: list[str], family: str = "layer_scale") -> list[str]:
    return [slot.role for slot in anatomy(backbone(family)).find(patterns)]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["attn.q"], ["blocks.0.attn.q", "blocks.1.attn.q"]),
        (["blocks.1.attn.q"], ["blocks.1.attn.q"]),
        (["mlp.out", "norm"], ["blocks.0.mlp.out", "blocks.1.mlp.out", "norm"]),
        (["norm", "mlp.out", "mlp.out"], ["blocks.0.mlp.out", "blocks.1.mlp.out", "norm"]),
        (["blocks.0.*"], [f"blocks.0.{name}" for name in PLAIN[1:-1]]),
        (["mlp.*"], [f"blocks.{i}.mlp.{name}" for i in (0, 1) for name in ("in", "out")]),
        (["blocks.[01].attn.out"], ["blocks.0.attn.out", "blocks.1.attn.out"]),
        (
            ["all-linear"],
            [f"blocks.{i}.{n}" for i in (0, 1) for n in ("attn.qkv", "attn.out", "mlp.in", "mlp.out")],
        ),
        (["blocks.*.attn.v"], ["blocks.0.attn.v", "blocks.1.attn.v"]),
    ],
)
def test_patterns(patterns, expected):
    assert roles(patterns) == expected


def test_all_linear_leaves_head_and_pooling_alone():
    assert not [role for role in roles(["all-linear"], "siglip") if not role.startswith("blocks.")]
    assert roles(["all-linear"], "hf")[:4] == [f"blocks.0.attn.{name}" for name in ("q", "k", "v", "out")]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("qvk", r"no role 'qvk' in this timm-vit backbone\. Known: attn.k, attn.out, .* patch_embed\."),
        ("attn.qkw", r"no role 'attn.qkw' in this timm-vit backbone\. Did you mean 'attn.qkv'\?"),
        ("head", "role 'head' cannot be adapted: the head always trains as it is; leave it out of the roles"),
        ("blocks.9.attn.q", "no role 'blocks.9.attn.q'"),
        ("head*", r"no role 'head\*'"),
    ],
)
def test_patterns_that_match_nothing(pattern, message):
    with pytest.raises(NothingMatchedError, match=message):
        roles(["attn.q", pattern])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(2, 2)),
            "no known backbone family matches Sequential; looked for: "
            "timm.models.vision_transformer.VisionTransformer; .*transformers ViTModel or ViTForImageClassification",
        ),
        (lambda: timm.create_model("ghostnet_050"), "no known backbone family matches GhostNet"),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", **SMALL, block_fn=Strange),
            "block 0 is a Strange; looked for timm's Block",
        ),
    ],
)
def test_models_of_no_known_family(make, message):
    with pytest.raises(UnsupportedBackboneError, match=message):
        anatomy(make())


def test_a_model_for_images_of_any_size():
    model = backbone("plain")
    model.patch_embed.img_size = model.patch_embed.grid_size = None  # as of timm's PatchEmbed(img_size=None)
    with pytest.raises(
        UnsupportedBackboneError, match="the model has no fixed image size; create it with img_size="
    ):
        anatomy(model)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("patch_embed", "the patch embedding is a Sequential; looked for timm's PatchEmbed"),
        ("blocks.1.attn", "the attention of block 1 is a Sequential; looked for timm's Attention"),
        ("blocks.1.mlp", r"the MLP of blocks.1 is a Sequential; looked for timm's Mlp, GluMlp or SwiGLU"),
        (
            "blocks.1.mlp.fc1",
            r"'blocks.1.mlp.fc1' \(blocks.1.mlp.in\) is a Sequential; looked for a linear layer",
        ),
        ("attn_pool", "the pooling is a Sequential; looked for timm's AttentionPoolLatent"),
    ],
)
def test_parts_that_were_replaced(path, message):
    model = backbone("siglip")
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.Sequential())
    with pytest.raises(UnsupportedBackboneError, match=message):
        anatomy(model)


def test_another_layout_of_transformers():
    model = backbone("hf")
    model.vit.layers[1].attention.k_proj = None
    with pytest.raises(
        UnsupportedBackboneError, match="ViTForImageClassification of this transformers release is laid"
    ):
        anatomy(model)


def test_transformers_is_not_imported_to_look(monkeypatch):
    monkeypatch.delitem(sys.modules, "transformers.models.vit.modeling_vit", raising=False)
    assert not hf_vit.matches(nn.Linear(1, 1))
    assert "transformers.models.vit.modeling_vit" not in sys.modules


def test_a_tuned_model_has_the_same_anatomy():
    model = backbone("plain")
    before = anatomy(model)
    randomise(vitune.apply(model, vitune.methods.parse("ssf,adaptformer(bottleneck=2)")))
    assert anatomy(model) == before
