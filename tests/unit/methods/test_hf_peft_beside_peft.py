"""What PEFT computes outside of its layers, computed here another way: the same numbers as PEFT's own model."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.contract.families import backbone, images
from torch import Tensor, nn
from torch.nn import functional as F

import vitune
from vitune.adapters.low_bit import stored_bytes
from vitune.anatomy import logits
from vitune.errors import ConfigError
from vitune.methods import Run, parse
from vitune.methods.hf_peft.policies import RankBudget, SingularPenalty, peft_layers
from vitune.training import moments

peft: Any = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # of peft, about its own configs

STEPS = 8
LABELS = torch.tensor([0, 1])


class WithLoss(nn.Module):
    """A backbone that gives its loss, as PEFT's AdaLoRA expects of a model of transformers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Any:
        scores = logits(self.model, batch)
        return SimpleNamespace(loss=F.cross_entropy(scores, LABELS), scores=scores)


def theirs(model: nn.Module, **settings: Any) -> Any:
    """PEFT's own model round a backbone, all of which but the head is frozen."""
    kind = settings.pop("kind", "Lora")
    settings |= {"target_modules": ["attn.qkv"], "modules_to_save": ["head"]}
    config = getattr(peft, f"{kind}Config")(**settings)
    return peft.get_peft_model(WithLoss(model), config)


def ours_like(text: str, other: Any, **run: Any) -> vitune.Tuned:
    """Our model, its new layers filled with the numbers of PEFT's."""
    tuned = vitune.apply(backbone("plain"), parse(text))
    given = dict(other.named_parameters())
    with torch.no_grad():
        for name, parameter in tuned.trainable().items():
            their = f"base_model.model.model.{name.replace('.vitune.peft', '')}"
            head = their.replace("head.", "head.modules_to_save.default.")
            parameter.copy_(given[their] if their in given else given[head])
    moments.begin(tuned.policies, Run(0, 1e-2, STEPS, **run))
    return tuned


def step_ours(tuned: vitune.Tuned, optimizer: torch.optim.Optimizer, step: int) -> Tensor:
    """A step as our loop makes it; the loss."""
    moments.before_step(tuned.policies, step)
    loss = moments.loss(tuned.policies, tuned(images("plain")), LABELS, F.cross_entropy)
    loss.backward()
    moments.after_backward(tuned.policies)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    moments.after_step(tuned.policies)
    return loss.detach()


def ranks(model: nn.Module) -> list[list[bool]]:
    return [(p != 0).view(-1).tolist() for name, p in model.named_parameters() if "lora_E" in name]


@pytest.mark.parametrize(("delta", "tinit", "tfinal"), [(1, 0, 0), (2, 1, 3)])
def test_adalora_cuts_the_ranks_that_peft_cuts(delta, tinit, tfinal):
    schedule = {"init_r": 4, "target_r": 2, "tinit": tinit, "tfinal": tfinal, "deltaT": delta}
    other = theirs(backbone("plain"), kind="AdaLora", total_step=STEPS, **schedule)
    text = ",".join(f"{name}={value}" for name, value in schedule.items())
    tuned = ours_like(f"peft(type=ADALORA,{text},target_modules=attn.qkv)", other)
    own = torch.optim.AdamW(tuned.parameters(), 1e-2)
    their = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], 1e-2)
    for step in range(STEPS):
        loss = other.base_model(images("plain")).loss  # PEFT's bare wrapper leaves the penalty out
        loss.backward()
        their.step()
        other.base_model.update_and_allocate(step)
        their.zero_grad()
        assert torch.allclose(step_ours(tuned, own, step), loss, atol=1e-5)
        assert ranks(tuned.model) == ranks(other)
    left = sum(map(sum, ranks(tuned.model)))
    assert 2 * 4 <= left < 4 * 4  # two of four on average, in four layers
    assert moments.log(tuned.policies)["ranks"] == left
    with torch.no_grad():
        assert torch.allclose(tuned(images("plain")), other(images("plain")).scores, atol=1e-5)
    kept = tuned.policies[0].state_dict()
    assert not any(isinstance(value, Tensor) for value in kept.values())  # nothing is scored any more


def test_adamss_lets_the_subspaces_rest_that_peft_lets_rest():
    schedule = {"init_warmup": 1, "final_warmup": 6, "mask_interval": 2, "asa_target_subspaces": 5}
    other = theirs(backbone("plain"), kind="Adamss", r=8, num_subspaces=3, use_asa=True, **schedule)
    text = ",".join(f"{name}={value}" for name, value in schedule.items())
    tuned = ours_like(
        f"peft(type=ADAMSS,r=8,num_subspaces=3,use_asa=true,{text},target_modules=attn.qkv)", other
    )
    own = torch.optim.AdamW(tuned.parameters(), 1e-2)
    their = torch.optim.AdamW([p for p in other.parameters() if p.requires_grad], 1e-2)
    counts = set()
    for step in range(STEPS):
        loss = other(images("plain")).loss
        loss.backward()
        their.step()
        other.base_model.update_and_allocate(step)
        their.zero_grad()
        assert torch.allclose(step_ours(tuned, own, step), loss, atol=1e-5)
        active = [p.requires_grad for n, p in tuned.model.named_parameters() if "adamss_" in n]
        assert active == [p.requires_grad for n, p in other.named_parameters() if "adamss_" in n]
        counts.add(sum(active))
    assert min(counts) == 2 * 4  # A and B of those that score above the fifth, as PEFT cuts
    assert len(counts) > 1
    assert moments.log(tuned.policies) == {"active": 2 * 4}


CUTTING = [
    "peft(type=ADALORA,init_r=4,target_r=1,target_modules=attn.qkv)",
    "peft(type=ADAMSS,r=8,num_subspaces=3,use_asa=true,init_warmup=1,final_warmup=6,mask_interval=3,"
    "asa_target_subspaces=5,target_modules=attn.qkv)",
]


@pytest.mark.parametrize("text", CUTTING)
def test_cutting_resumes_bit_equally(text):
    def started() -> tuple[vitune.Tuned, torch.optim.Optimizer]:
        tuned = vitune.apply(backbone("plain"), parse(text), seed=1)
        moments.begin(tuned.policies, Run(0, 1e-2, STEPS))
        return tuned, torch.optim.SGD(tuned.parameters(), 1e-1)

    whole, optimizer = started()
    for step in range(STEPS):
        step_ours(whole, optimizer, step)
    first, optimizer = started()
    for step in range(5):
        step_ours(first, optimizer, step)
    states = moments.state_dicts(first.policies)
    assert any(isinstance(value, Tensor) for value in states[0].values())
    again, optimizer = started()
    moments.load_state_dicts(again.policies, states)
    again.load_state(first.state())
    for step in range(5, STEPS):
        step_ours(again, optimizer, step)
    assert all(torch.equal(tensor, again.state()[name]) for name, tensor in whole.state().items())
    assert ranks(again.model) == ranks(whole.model)
    resting = [name for name, p in whole.model.named_parameters() if not p.requires_grad]
    assert resting == [name for name, p in again.model.named_parameters() if not p.requires_grad]


def test_adalora_says_when_a_run_is_too_short_for_its_schedule():
    tuned = vitune.apply(backbone("plain"), parse("peft(type=ADALORA,tinit=5,tfinal=3)"))
    with pytest.raises(ConfigError) as caught:
        moments.begin(tuned.policies, Run(0, 1e-2, STEPS))
    assert str(caught.value) == (
        "peft: ADALORA with tinit=5 and tfinal=3 leaves none of 8 steps for cutting ranks; make them smaller, or "
        "train for more epochs."
    )


def test_adalora_of_a_file_begins_anew(tmp_path: Path):
    other = theirs(backbone("plain"), kind="AdaLora", total_step=STEPS, init_r=3, target_r=1)
    other.save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    config["rank_pattern"] = {"model.blocks.0.attn.qkv.lora_E": [True, False, False]}
    file.write_text(json.dumps(config))
    (method,) = parse(f"peft(config={tmp_path},target_modules=attn.qkv)")
    tuned = vitune.apply(backbone("plain"), method)
    assert ranks(tuned.model) == [[False] * 3] * 4
    assert isinstance(tuned.policies[0], RankBudget)


STARTS = ["init_lora_weights=pissa", "init_lora_weights=olora", "init_lora_weights=pissa,use_dora=true"]
STARTS += ["kasa_config=beta:0.01+gamma:0.1"]


@pytest.mark.parametrize("start", STARTS)
def test_starts_that_rewrite_weights_train_as_peft_does_and_leave_the_weights(start):
    text = f"peft(r=4,lora_alpha=6,{start},target_modules=attn.qkv)"
    (method,) = parse(text)
    other = theirs(backbone("plain"), **method.options)  # type: ignore[attr-defined]
    tuned = ours_like(text, other)
    weight = tuned.model.get_parameter("blocks.0.attn.qkv.weight")
    before = weight.detach().clone()
    rewritten = other.base_model.model.model.blocks[0].attn.qkv.base_layer.weight
    assert not torch.allclose(before, rewritten, atol=1e-3)
    own = torch.optim.SGD(tuned.parameters(), 1e-2)
    their = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], 1e-2)
    for step in range(3):
        loss = other(images("plain")).loss
        if "kasa" in start:
            assert isinstance(tuned.policies[0], SingularPenalty)
            loss = loss + other.base_model._get_kasa_loss()
        loss.backward()
        their.step()
        their.zero_grad()
        assert torch.allclose(step_ours(tuned, own, step), loss, atol=1e-5)
    with torch.no_grad():
        expected = other(images("plain")).scores
        assert torch.allclose(tuned(images("plain")), expected, atol=1e-4)
    assert torch.equal(weight, before)
    assert torch.allclose(logits(tuned.merge(), images("plain")), expected, atol=1e-4)


def test_a_start_that_changes_weights_in_another_way_is_refused(monkeypatch):
    from peft.tuners.lora.layer import LoraLayer

    def spoiled(self: Any, name: str) -> None:
        self.get_base_layer().weight.data = torch.randn_like(self.get_base_layer().weight)

    monkeypatch.setattr(LoraLayer, "olora_init", spoiled)
    with pytest.raises(ConfigError, match="changes the backbone's own weights"):
        vitune.apply(backbone("plain"), parse("peft(init_lora_weights=olora)"))


NOISY = "peft(r=3,lora_alpha=6,monteclora_config=num_samples:3+sample_scaler:0.3+kl_loss_weight:0.001+use_entropy:true"


def test_monteclora_trains_as_peft_does_with_the_same_noise():
    text = f"{NOISY},target_modules=attn.qkv)"
    (method,) = parse(text)
    other = theirs(backbone("plain"), **method.options)  # type: ignore[attr-defined]
    tuned = ours_like(text, other)
    own = torch.optim.SGD(tuned.parameters(), 1e-1)
    their = torch.optim.SGD([p for p in other.parameters() if p.requires_grad], 1e-1)
    stores = [m.sampler for n, m in other.named_modules() if n.endswith("lora_monteclora_sampler.default")]
    mine: list[Any] = [layer.get_submodule("lora_monteclora_sampler.default") for layer in peft_layers(tuned)]
    plain = None
    for step in range(4):
        loss = step_ours(tuned, own, step)
        for store, sampler in zip(stores, mine, strict=True):
            store.buffer, store.index = [sampler.get()], 0
            store.buffer_size = 1
        expected = other(images("plain")).loss + other.base_model._get_monteclora_loss()
        expected.backward()
        their.step()
        their.zero_grad()
        assert torch.allclose(loss, expected, atol=1e-5)
        if plain is None:
            plain = F.cross_entropy(tuned(images("plain")), LABELS)
    given = dict(other.named_parameters())
    for name, parameter in tuned.trainable().items():
        if "head" not in name:
            wanted = given[f"base_model.model.model.{name.replace('.vitune.peft', '')}"]
            assert torch.allclose(parameter, wanted, atol=1e-4), name
    # Noise is of training alone.
    other.eval(), tuned.model.eval()
    with torch.no_grad():
        expected = other(images("plain")).scores
        assert torch.allclose(tuned(images("plain")), expected, atol=1e-4)
    assert torch.allclose(logits(tuned.merge(), images("plain")), expected, atol=1e-4)


def test_noise_is_a_function_of_seed_and_step():
    def noise(seed: int, step: int) -> list[Tensor]:
        tuned = vitune.apply(backbone("plain"), parse(f"{NOISY})"), seed=seed)
        state = torch.get_rng_state()
        moments.begin(tuned.policies, Run(7, 1e-2, STEPS))
        for each in range(step % 2, step + 1):  # whatever was drawn before
            moments.before_step(tuned.policies, each)
        assert torch.equal(torch.get_rng_state(), state)
        return [b.clone() for n, b in tuned.model.named_buffers() if ".z_" in n]

    first, again, later = noise(0, 2), noise(1, 2), noise(0, 3)
    assert len(first) == 3 * 4
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, later))
    assert len({tuple(tensor.flatten().tolist()) for tensor in first}) == len(first)  # each layer has its own


def test_a_model_with_noise_can_be_copied_in_the_middle_of_a_step():
    tuned = vitune.apply(backbone("plain"), parse(f"{NOISY})"))
    moments.begin(tuned.policies, Run(0, 1e-2, STEPS))
    moments.before_step(tuned.policies, 0)
    tuned.model.train()
    loss = moments.loss(tuned.policies, tuned(images("plain")), LABELS, F.cross_entropy)
    for twin in (copy.deepcopy(tuned.model), pickle.loads(pickle.dumps(tuned.model))):
        assert torch.equal(logits(twin, images("plain")), logits(tuned.model, images("plain")))
    loss.backward()
    assert all(parameter.grad is not None for parameter in tuned.parameters())


@pytest.mark.parametrize("family", ["db1", "db3", "sym2", "coif1"])
@pytest.mark.parametrize("inverse", ["true", "false"])
def test_wavelet_updates_are_those_of_peft(family, inverse):
    from peft.tuners.waveft.layer import WaveFTLayer

    text = f"peft(type=WAVEFT,n_frequency=70,init_weights=false,wavelet_family={family},use_idwt={inverse})"
    tuned = vitune.apply(backbone("plain"), parse(text))
    for layer in peft_layers(tuned):
        expected = WaveFTLayer.get_delta_weight(layer, "default")  # type: ignore[arg-type]
        assert expected.abs().max() > 0
        assert torch.equal(layer.get_delta_weight("default"), expected)  # type: ignore[operator]


def test_frod_computes_what_peft_does_and_its_file_leaves_out_what_follows(tmp_path: Path, monkeypatch):
    from peft.tuners.frod import model as frod

    torch.manual_seed(0)
    other = theirs(backbone("plain"), kind="Frod", sparse_rate=0.1, init_weights=False)
    tuned = ours_like("peft(type=FROD,sparse_rate=0.1,target_modules=attn.qkv)", other)
    with torch.no_grad():
        expected = other(images("plain")).scores
        got = tuned(images("plain"))
        assert torch.allclose(got, expected, atol=1e-5)
        assert not torch.allclose(got, logits(backbone("plain"), images("plain")), atol=1e-2)
    assert sum("frod_U" in name for name in tuned.state()) == 4
    assert sum("frod_V" in name for name in tuned.state()) == 1  # one for all layers of a role
    tuned.save(tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        assert not any("frod_U" in name for name in file.keys())  # noqa: SIM118
        held = sum(file.get_tensor(name).nbytes for name in file.keys())  # noqa: SIM118
    assert held == stored_bytes(tuned)
    # On another machine the decomposition may differ by signs; what counts is the file's.
    decomposed = frod._projection_from_weights
    monkeypatch.setattr(frod, "_projection_from_weights", lambda *given: -decomposed(*given).flip(1))
    fresh = vitune.load(tmp_path, model=backbone("plain"))
    with torch.no_grad():
        assert torch.equal(fresh(images("plain")), got)
