"""Starts of LoRA that look at data: what PEFT's documented calls give on the same batches, kept as all else is."""

from __future__ import annotations

import dataclasses
import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.contract.families import backbone, images
from torch import Tensor, nn
from torch.nn import functional as F

import vitune
from vitune.anatomy import logits
from vitune.errors import ConfigError, DataError, NothingMatchedError, TrainingError, UnsupportedBackboneError
from vitune.measure import saved_activation_bytes, weightless_copy
from vitune.methods import DataNeeds, method_text, parse
from vitune.methods.hf_peft import Peft, looking
from vitune.methods.hf_peft.policies import peft_layers

peft: Any = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about its own configs

EVA = [
    "init_lora_weights=eva,target_modules=attn.qkv+mlp.in+mlp.out",
    "init_lora_weights=eva,eva_config=rho:3+tau:0.9+whiten:true,use_rslora=true,target_modules=attn.qkv+mlp.out",
    "init_lora_weights=eva,eva_config=rho:1.5+adjust_scaling_factors:false,rank_pattern=mlp.in:4,"
    "target_modules=attn.qkv+mlp.in",
    "init_lora_weights=eva,use_dora=true,target_modules=attn.qkv+mlp.out",
]
CORDA = [
    "init_lora_weights=corda,target_modules=attn.qkv+mlp.out",
    "init_lora_weights=corda,corda_config=corda_method:kpm,rank_pattern=mlp.out:3,target_modules=attn.qkv+mlp.out",
    "init_lora_weights=corda,use_dora=true",
]
LORA_GA = [
    "init_lora_weights=lora_ga,target_modules=attn.qkv+mlp.out",
    "init_lora_weights=lora_ga,lora_ga_config=direction:random+scale:unit",
    "init_lora_weights=lora_ga,lora_ga_config=direction:ArBr+scale:weight_svd,use_rslora=true",
    "init_lora_weights=lora_ga,lora_ga_config=direction:A2rBr+scale:gd_scale,lora_alpha=3",
]
# Some layers get no rank, others several.
UNEVEN = "peft(r=1,init_lora_weights=eva,eva_config=rho:4,target_modules=attn.qkv+mlp.in+mlp.out)"
TEXTS = [f"peft(r=2,{start})" for start in EVA + CORDA + LORA_GA] + [UNEVEN]
ONE_EACH = [f"peft(r=2,{starts[0]})" for starts in (EVA, CORDA, LORA_GA)]
DRAWN = f"peft(r=2,{LORA_GA[1]})"
SEED = 5


def batches(family: str = "plain", count: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Batches whose images have structure, so that components settle."""
    generator = torch.Generator().manual_seed(1)
    shape = (6, *images(family).shape[1:])
    if not images(family).is_floating_point():
        return [(torch.randint(1, 32, shape, generator=generator), torch.arange(6) % 3) for _ in range(count)]
    patterns = torch.randn(3, *shape[1:], generator=generator)
    labels = torch.arange(6) % 3
    return [(patterns[labels] + torch.randn(shape, generator=generator), labels) for _ in range(count)]


def scores(model: Any, family: str = "plain") -> Tensor:
    with torch.no_grad():
        return logits(model.eval(), images(family))


def resolved(text: str, model: nn.Module, family: str = "plain") -> Peft:
    (method,) = parse(text)
    assert isinstance(method, Peft)
    return method.resolved(model, batches(family), seed=SEED)


class Scored(nn.Module):
    """A model whose loss PEFT's documentation calls `model(**batch).loss`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, shown: Tensor, labels: Tensor | None = None) -> Any:
        made = logits(self.model, shown)
        return SimpleNamespace(logits=made, loss=None if labels is None else F.cross_entropy(made, labels))


def by_hand(text: str) -> Any:
    """PEFT's model after the calls that its documentation asks for."""
    (method,) = parse(text)
    assert isinstance(method, Peft)
    options = dict(method.options)
    start, names = options["init_lora_weights"], options.pop("target_modules", ["attn.qkv"])
    known = {"attn.qkv": "qkv", "mlp.in": "fc1", "mlp.out": "fc2"}
    patterns = {known[role]: rank for role, rank in options.pop("rank_pattern", {}).items()}
    config = peft.LoraConfig(**options, target_modules=[known[name] for name in names], rank_pattern=patterns)
    model = Scored(backbone("plain"))
    torch.manual_seed(SEED)
    if start == "eva":
        made = peft.get_peft_model(model, config)
        peft.initialize_lora_eva_weights(
            made,
            [{"shown": shown} for shown, _ in batches()],
            prepare_model_inputs_fn=None,
            prepare_layer_inputs_fn=None,
            show_progress_bar=False,
        )
        return made
    if start == "corda":
        from peft.tuners.lora.corda import preprocess_corda

        @torch.no_grad()
        def run_model() -> None:
            for shown, _ in batches():
                for image in shown:
                    model(image[None])

        preprocess_corda(model, config, run_model)
    else:
        from peft.tuners.lora.loraga import preprocess_loraga

        def train_step() -> None:
            for shown, labels in batches():
                model(shown, labels).loss.backward()

        preprocess_loraga(model, config, train_step)
        torch.manual_seed(SEED)
    return peft.get_peft_model(model, config)


def theirs(other: Any) -> dict[str, Any]:
    found = {name: m for name, m in other.named_modules() if hasattr(m, "lora_A")}
    return {name.removeprefix("base_model.model.model."): layer for name, layer in found.items()}


@pytest.mark.parametrize("text", TEXTS)
def test_a_start_is_what_the_documented_calls_of_peft_give(text):
    other = by_hand(text)
    model = backbone("plain")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tuned = vitune.apply(model, resolved(text, model), seed=9)
    expected = theirs(other)
    layers = dict(zip((s.path for s in tuned._steps), peft_layers(tuned), strict=True))  # type: ignore[union-attr]
    assert layers.keys() == expected.keys()
    for path, layer in layers.items():
        their = expected[path]
        assert layer.r == their.r
        assert layer.scaling == their.scaling
        for name, parameter in layer.named_parameters():
            wanted = their.get_parameter(name)
            assert torch.allclose(parameter, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())), name
    with torch.no_grad():
        assert torch.allclose(scores(tuned.model), other(images("plain")).logits, atol=1e-4)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    own = torch.optim.SGD(tuned.parameters(), 1e-2)
    their = torch.optim.SGD(
        [p for n, p in other.named_parameters() if p.requires_grad or ".head." in n], 1e-2
    )
    for parameter in other.base_model.model.model.head.parameters():
        parameter.requires_grad_(True)
    for shown, labels in batches():
        F.cross_entropy(tuned(shown), labels).backward()
        own.step()
        own.zero_grad()
        other(shown, labels).loss.backward()
        their.step()
        their.zero_grad()
    with torch.no_grad():
        assert torch.allclose(scores(tuned.model), other(images("plain")).logits, atol=1e-3)


@pytest.mark.parametrize("family", ["plain", "hf", "swin", "beit", "swinv2", "mixer", "hf_llama"])
@pytest.mark.parametrize("text", ONE_EACH)
def test_a_start_is_kept_in_files_and_merges(text, family, tmp_path):
    if family in ("hf", "hf_llama"):
        text = text.replace("attn.qkv", "attn.q+attn.v")
    if family == "mixer":  # which transposes what some of its layers read
        text = text.replace("attn.qkv", "tokens.in")
    model = backbone(family)
    before, plain = {n: t.clone() for n, t in model.state_dict().items()}, scores(model, family)
    modes = [module.training for module in model.modules()]
    asked = [parameter.requires_grad for parameter in model.parameters()]
    state = torch.get_rng_state()
    method = resolved(text, model, family)
    assert torch.equal(torch.get_rng_state(), state)
    assert modes == [module.training for module in model.modules()]
    assert asked == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())

    tuned = vitune.apply(model, method)
    assert torch.equal(scores(model, family), plain) == method.starts_at_identity
    assert torch.allclose(scores(model, family), plain, atol=1e-4)  # the same function, in other words
    optimizer = torch.optim.SGD(tuned.parameters(), 1e-2)
    for shown, labels in batches(family, 2):
        F.cross_entropy(tuned(shown), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    trained = tuned.trainable()
    assert all(torch.equal(after[n], t) for n, t in before.items() if n not in trained)
    expected = scores(model, family)
    assert not torch.allclose(expected, plain, atol=1e-4)
    tuned.save(tmp_path)
    loaded = vitune.load(tmp_path, model=backbone(family))
    assert torch.equal(scores(loaded.model, family), expected)
    assert loaded.methods == tuned.methods
    assert loaded.methods[0].needs_data is None
    assert torch.allclose(scores(loaded.merge(), family), expected, atol=1e-4)


@pytest.mark.parametrize("text", [*ONE_EACH, UNEVEN, DRAWN])
def test_a_start_is_a_function_of_seed_and_data(text):
    one, other = (resolved(text, backbone("plain")) for _ in range(2))
    assert one == other
    assert one != parse(text)[0]
    first, second = (
        vitune.apply(backbone("plain"), m, seed=seed).state() for seed, m in enumerate((one, other))
    )
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    again = vitune.apply(backbone("plain"), pickle.loads(pickle.dumps(one))).state()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.items())


def test_eva_gives_ranks_and_leaves_layers_out():
    method = resolved(UNEVEN, backbone("plain"))
    ranks = [int(each.rpartition(":")[2]) for each in method.ranks]
    assert sum(ranks) == 12  # one for each layer, distributed anew
    assert max(ranks) > 1
    assert 0 < len(ranks) < 12
    assert min(ranks) == 1
    tuned = vitune.apply(backbone("plain"), method)
    assert len(peft_layers(tuned)) == len(ranks)
    for layer, rank in zip(peft_layers(tuned), ranks, strict=True):
        assert layer.r == {"default": rank}
        assert layer.scaling == {"default": 8}  # lora_alpha grew with the rank


@pytest.mark.parametrize("text", [*ONE_EACH, UNEVEN, "peft(r=2,init_lora_weights=corda,use_dora=true)"])
def test_weightless_costs_are_those_of_the_real_model(text):
    method = resolved(text, backbone("plain"))
    real = vitune.apply(backbone("plain"), method, check=False)
    light = vitune.apply(backbone("plain").to("meta"), method, check=False)
    assert light.costs() == real.costs()
    assert all(tensor.is_meta for tensor in light.state().values())
    assert kept_bytes(light.model) == kept_bytes(real.model) > 0
    even = vitune.apply(backbone("plain").to("meta"), parse(text)[0].countable(), check=False)
    assert {name.partition("vitune")[0] for name in real.state()} <= {
        name.partition("vitune")[0] for name in even.state()
    }
    if "eva" not in text:
        assert even.costs() == real.costs()
        assert {n: t.shape for n, t in even.state().items()} == {n: t.shape for n, t in real.state().items()}


def kept_bytes(model: nn.Module) -> int:
    with weightless_copy(model) as twin:
        return saved_activation_bytes(twin, lambda made: made(torch.zeros(2, 3, 32, 32)).sum()).bytes


@pytest.mark.parametrize("text", TEXTS)
def test_text_and_settings_make_the_same_method(text):
    (method,) = parse(text)
    assert isinstance(method, Peft)
    assert parse(method_text(method)) == (method,)
    found = dataclasses.replace(method, ranks=("blocks.0.attn.qkv:3", "blocks.2.attn.qkv:1"))
    assert method_text(found) == method_text(method)  # what was found is looked for anew
    for one in (method, found):
        assert Peft.from_settings(json.loads(json.dumps(one.settings()))) == one
    start = method.options["init_lora_weights"]
    details = method.settings()[f"{start}_config"]
    assert len(details) == len(method.options[f"{start}_config"]) >= 3  # defaults too


def test_our_own_settings_say_what_is_looked_at():
    (method,) = parse("peft(init_lora_weights=corda,batches=2,batch_size=5,shuffled=false)")
    assert method.needs_data == DataNeeds(2, 5, shuffled=False)
    assert method_text(method) == "peft(init_lora_weights=corda,batches=2,batch_size=5,shuffled=false)"
    config = peft.LoraConfig(init_lora_weights="eva", eva_config=peft.EvaConfig(rho=1.5))
    assert Peft(config=config) == parse("peft(init_lora_weights=eva,eva_config=rho:1.5)")[0]
    assert Peft(config=config).needs_data == DataNeeds(16, 32, shuffled=True)
    assert parse("peft")[0].needs_data is None
    few = method.resolved(backbone("plain"), batches(count=3))  # type: ignore[attr-defined]
    same = method.resolved(backbone("plain"), batches(count=2))  # type: ignore[attr-defined]
    one, other = (vitune.apply(backbone("plain"), m).state() for m in (few, same))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            "eva_config=rho:2",
            ConfigError,
            "peft: eva_config belongs to init_lora_weights=eva; set that, or leave",
        ),
        (
            "init_lora_weights=eva,eva_config=roh:2",
            ConfigError,
            "eva_config has no setting 'roh'. Did you mean 'rho'?",
        ),
        (
            "init_lora_weights=eva,eva_config=rho:x",
            ConfigError,
            "rho of eva_config must be a number, not 'x'.",
        ),
        (
            "init_lora_weights=lora_ga,lora_ga_config=direction:AB",
            ConfigError,
            "direction of lora_ga_config must be 'ArBr' or 'A2rBr' or 'ArB2r' or 'random', not 'AB'.",
        ),
        (
            "init_lora_weights=eva,eva_config=use_label_mask:false",
            ConfigError,
            "eva_config with use_label_mask cannot be used here: it is about the tokens of a text; leave it out.",
        ),
        (
            "init_lora_weights=corda,corda_config=cache_file:a",
            ConfigError,
            "corda_config with cache_file cannot be used here: it keeps files of its own",
        ),
        ("batches=3", ConfigError, "batches must be left out but for starts that look at data"),
        ("init_lora_weights=eva,batches=x", ConfigError, "batches must be a whole number, not 'x'."),
        ("init_lora_weights=eva,batches=0", ConfigError, "batches must be at least 1, not 0."),
        ("init_lora_weights=eva,ranks=a:1", ConfigError, "LORA has no setting 'ranks'."),
        (
            "init_lora_weights=eva",
            ConfigError,
            "init_lora_weights=eva looks at data first; `vitune train` does so, and in Python method.resolved",
        ),
        ("type=ADALORA,init_lora_weights=eva", ConfigError, "ADALORA has no start 'eva'"),
    ],
)
def test_what_cannot_be_done_is_said(settings, error, message):
    with pytest.raises(error) as caught:
        vitune.apply(backbone("plain"), parse(f"peft({settings})"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_data_do_not_permit_is_said(monkeypatch):
    model = backbone("plain")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def refused(settings: str, error: type[Exception], message: str, shown: Any = None) -> None:
        (method,) = parse(f"peft(r=2,{settings})")
        with pytest.raises(error) as caught:
            method.resolved(model, batches() if shown is None else shown)
        assert message in str(caught.value)
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())

    eva, corda, lora_ga = (f"init_lora_weights={start}" for start in ("eva", "corda", "lora_ga"))
    refused(corda, DataError, "there is no training image for init_lora_weights=corda to look at.", [])
    refused(
        f"{eva},target_modules=patch_embed",
        UnsupportedBackboneError,
        "init_lora_weights=eva is made for linear layers and 'patch_embed' is none",
    )
    nothing = [(shown * float("nan"), labels) for shown, labels in batches()]
    refused(lora_ga, TrainingError, "the loss of batch 1 of init_lora_weights=lora_ga is nan", nothing)
    refused(
        corda,
        ConfigError,
        "init_lora_weights=corda cannot look at these images: Invalid value found",
        nothing,
    )
    few = [(shown[:1], labels[:1]) for shown, labels in batches()]
    refused(
        f"{eva},eva_config=rho:3",
        ConfigError,
        "EVA looks for 6 components of what a layer reads, and a batch has 5 rows of it; set a larger batch_size",
        few,
    )
    monkeypatch.setattr(looking, "MOST_PASSES", 3)
    refused(f"{eva},eva_config=tau:1.0", ConfigError, "after 3 batches EVA's components have not settled")
    with torch.no_grad():
        model.head.weight.zero_()
    before["head.weight"].zero_()
    refused(lora_ga, TrainingError, "every gradient of init_lora_weights=lora_ga is zero")


def test_a_start_that_was_found_elsewhere_is_noticed():
    method = resolved(ONE_EACH[1], backbone("plain"))
    with pytest.raises(
        NothingMatchedError, match=r"ranks names 'blocks\.2\.attn\.qkv', which is none of the layers"
    ):
        vitune.apply(backbone("beit"), method)
    wider = vitune.backbones.create(
        "vit_tiny_patch16_224",
        num_classes=3,
        pretrained=False,
        img_size=32,
        embed_dim=48,
        depth=4,
        num_heads=2,
    )
    with pytest.raises(
        ConfigError, match=r"the start of 'blocks\.0\.attn\.qkv' was found on another backbone"
    ):
        vitune.apply(wider, method)


def test_lora_ga_passes_over_convolutions_as_peft_does():
    method = resolved(
        "peft(r=2,init_lora_weights=lora_ga,target_modules=patch_embed+attn.qkv)", backbone("plain")
    )
    tuned = vitune.apply(backbone("plain"), method)
    first, second, *_ = peft_layers(tuned)
    assert not first.get_parameter("lora_B.default.weight").any()
    assert second.get_parameter("lora_B.default.weight").any()
