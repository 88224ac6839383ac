"""VeLoRA: exact but for the compressed weights' gradients, bytes saved as the formula says, vectors learnt once."""

from __future__ import annotations

import copy
import warnings

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import vitune
from vitune.anatomy import anatomy
from vitune.errors import (
    CompositionError,
    ConfigError,
    NothingMatchedError,
    SurgeryError,
    UnsupportedBackboneError,
)
from vitune.measure import saved_activation_bytes
from vitune.methods import parse
from vitune.methods.velora import Compression, compress_linears, restore_linears, saved_elements
from vitune.methods.velora.compression import linear
from vitune.methods.velora.direction import Direction
from vitune.methods.velora.edits import VeloraLinearEdit
from vitune.surgery import AttachAtPoint, attach


def vit(**arguments) -> nn.Module:
    small = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", **(small | arguments))


def tune(text: str, **arguments) -> vitune.Tuned:
    tuned = vitune.apply(vit(**arguments), parse(text))
    tuned.model.train()
    with torch.no_grad():
        for name, parameter in tuned.trainable().items():
            generator = torch.Generator().manual_seed(len(name))
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return tuned


def images(batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def gradients(tuned: vitune.Tuned, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    tuned.model.zero_grad(set_to_none=True)
    logits = tuned(batch)
    F.cross_entropy(logits, torch.arange(len(batch)) % 3).backward()
    return logits.detach(), {n: p.grad.clone() for n, p in tuned.trainable().items() if p.grad is not None}


def layer(features: int = 12, outputs: int = 5, **settings) -> tuple[nn.Linear, Direction]:
    torch.manual_seed(0)
    module = nn.Linear(features, outputs)
    direction = Direction(vitune.VeLoRA(**settings).compression(features))
    attach(module, VeloraLinearEdit, direction)
    return module, direction


HOSTS = [
    ("", "velora(sub_token_size=8)", r"blocks\.\d\.mlp\.fc2\.weight"),
    ("", "velora(roles=attn.qkv+mlp.in,num_groups=4)", r"blocks\.\d\.(attn\.qkv|mlp\.fc1)\.weight"),
    ("lora(rank=2),", "velora(num_groups=4)", r".*vitune\.lora\.[qv]\.down"),
    ("ssf,", "velora(num_groups=4)", r".*(qkv|fc1)\.vitune\.ssf\.scale"),
    ("adapter(bottleneck=4),", "velora(num_groups=4)", r".*\.down\.weight"),
]


@pytest.mark.parametrize(("host", "velora", "pattern"), HOSTS)
def test_all_but_the_compressed_gradients_are_exact(host, velora, pattern):
    import re

    plain, tuned = tune(host.rstrip(",") or "full"), tune(host + velora)
    tuned.model.load_state_dict(plain.model.state_dict(), strict=False)
    expected, found = gradients(plain, images()), gradients(tuned, images())
    assert torch.equal(found[0], expected[0])
    compressed = {name for name in found[1] if re.fullmatch(pattern, name)}
    assert compressed
    for name, gradient in found[1].items():
        if name in compressed:
            assert not torch.allclose(gradient, expected[1][name], rtol=1e-3, atol=1e-7), name
        else:
            torch.testing.assert_close(gradient, expected[1][name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(("features", "groups"), [(12, 3), (10, 4), (12, 1), (7, 5)])
def test_the_weight_gradient_is_the_exact_one_projected_slice_by_slice(features, groups):
    module, direction = layer(features, num_groups=groups, scale=0.5)
    x, grad = torch.randn(2, 6, features), torch.randn(2, 6, 5)
    module(x).backward(grad)
    size = -(-features // groups)
    exact = grad.flatten(0, 1).t() @ x.flatten(0, 1)
    padded = F.pad(exact, (0, groups * size - features)).view(5, groups, size)
    v = direction.v
    wanted = ((padded @ v)[..., None] * v).flatten(1)[:, :features]
    torch.testing.assert_close(module.weight.grad, 0.5 * wanted)
    torch.testing.assert_close(module.bias.grad, grad.sum((0, 1)))


def test_sub_tokens_of_one_number_are_exact():
    module, _ = layer(sub_token_size=1)
    x, grad = torch.randn(3, 12), torch.randn(3, 5)
    module(x).backward(grad)
    torch.testing.assert_close(module.weight.grad, grad.t() @ x)


@pytest.mark.parametrize(
    ("host", "roles", "features", "layers"),
    [("", "mlp.out", 128, 2), ("", "mlp.in", 32, 2), ("", "attn.qkv", 32, 2), ("", "mlp.in+mlp.out", 160, 2)],
)
def test_saved_bytes_are_those_of_the_formula(host, roles, features, layers):
    loss = lambda net: net(images()).sum()  # noqa: E731
    plain = saved_activation_bytes(tune("full").model, loss).bytes
    tuned = tune(f"velora(roles={roles},sub_token_size=8)")
    tuned.model(images()).sum().backward()  # learns the vectors
    found = saved_activation_bytes(tuned.model, loss).bytes
    sizes = [128, 32] if features == 160 else [features]
    saved = sum(saved_elements(size, Compression(groups=size // 8, size=8)) for size in sizes)
    assert saved == features - features // 8
    assert plain - found == 4 * 2 * 17 * layers * saved


def test_lora_keeps_no_input():
    loss = lambda net: net(images()).sum()  # noqa: E731
    plain = tune("lora(rank=2)")
    tuned = tune("lora(rank=2),velora(num_groups=4)")
    tuned.model(images()).sum().backward()
    difference = (
        saved_activation_bytes(plain.model, loss).bytes - saved_activation_bytes(tuned.model, loss).bytes
    )
    assert difference == 4 * 2 * 17 * 2 * (32 - 4)


def test_frozen_layers_keep_nothing():
    module, direction = layer()
    module.requires_grad_(False)
    saved = saved_activation_bytes(module, lambda net: net(torch.randn(2, 12, requires_grad=True)).sum())
    assert saved.bytes == 0
    assert not direction.initialised


def test_the_vector_is_the_mean_of_the_first_training_batch_and_stays():
    module, direction = layer(num_groups=3)
    first, second = torch.randn(2, 4, 12), torch.randn(2, 4, 12)
    with torch.no_grad():
        module(second)
    module.eval()
    module(second)
    assert not direction.initialised
    module.train()
    module(first)
    mean = first.reshape(-1, 4).mean(0)
    torch.testing.assert_close(direction.v, mean / mean.norm())
    before = direction.v.clone()
    module(second)
    assert torch.equal(direction.v, before)


def test_running_and_batch_averages():
    first, second = torch.randn(2, 4, 12), torch.randn(2, 4, 12)
    means = [x.reshape(-1, 4).mean(0) for x in (first, second)]
    start = means[0] / means[0].norm()
    module, direction = layer(num_groups=3, init="ema", ema_decay=0.75)
    module(first)
    torch.testing.assert_close(direction.v, start)
    module(second)
    mixed = 0.75 * start + 0.25 * means[1]
    torch.testing.assert_close(direction.v, mixed / mixed.norm())
    module, direction = layer(num_groups=3, init="batch_average")
    module(first)
    module(second)
    torch.testing.assert_close(direction.v, means[1] / means[1].norm())


@pytest.mark.parametrize("init", ["uniform", "random"])
def test_drawn_vectors_never_change(init):
    module, direction = layer(num_groups=3, init=init)
    before = direction.v.clone()
    module(torch.randn(2, 12))
    assert direction.initialised
    assert torch.equal(direction.v, before)
    torch.testing.assert_close(direction.v.norm(), torch.tensor(1.0))
    assert (direction.v >= 0).all() or init == "random"


@pytest.mark.parametrize("init", ["batch_average", "ema"])
def test_two_forwards_before_the_backward_have_a_vector_each(init):
    module, _ = layer(num_groups=3, init=init)
    xs, grads = torch.randn(2, 6, 12), torch.randn(2, 6, 5)
    wanted = []
    alone = copy.deepcopy(module)
    for x, grad in zip(xs, grads, strict=True):
        alone.zero_grad()
        alone(x).backward(grad)
        wanted.append(alone.weight.grad.clone())
    outputs = [module(x) for x in xs]
    torch.autograd.backward(outputs, list(grads))
    torch.testing.assert_close(module.weight.grad, sum(wanted))


def test_a_zero_mean_gives_the_constant_vector_and_a_warning():
    module, direction = layer(num_groups=3)
    with pytest.warns(
        UserWarning, match=r"the mean sub-token .* is zero or not finite; the constant vector is used"
    ):
        module(torch.zeros(2, 12))
    assert direction.v.tolist() == [0.5] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module(torch.zeros(2, 12))
        layer(num_groups=3)[0](torch.randn(2, 12))


def test_averaged_weights_leave_a_vector_of_length_one():
    module, direction = layer(num_groups=3)
    direction.v.copy_(torch.tensor([0.3, 0.0, 0.4, 0.0]))
    direction.initialised.fill_(True)
    module(torch.randn(2, 12))
    torch.testing.assert_close(direction.v, torch.tensor([0.6, 0.0, 0.8, 0.0]))


@pytest.mark.parametrize("init", ["batch_average_once", "batch_average", "ema"])
def test_gradient_checkpointing_learns_nothing_twice(init):
    found = []
    for checkpointed in (False, True):
        tuned = tune(f"velora(sub_token_size=8,init={init})")
        tuned.model.set_grad_checkpointing(checkpointed)
        for seed in range(2):
            result = gradients(tuned, images(seed=seed))[1]
        vectors = {n: b.clone() for n, b in tuned.model.named_buffers() if n.endswith(".v")}
        found.append(result | vectors)
    assert found[0].keys() == found[1].keys()
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-5, atol=1e-7, msg=name)


def test_under_autocast_projections_have_its_type_and_gradients_that_of_the_weights():
    module, _ = layer(num_groups=3)
    x = torch.randn(4, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        saved = saved_activation_bytes(module, lambda net: net(x).float().sum())
        y = module(x)
        assert torch.equal(y, F.linear(x, module.weight, module.bias))
    y.float().sum().backward()
    assert saved.bytes == 2 * 4 * 3 + 2 * 4  # z, and v in bfloat16
    assert (y.dtype, module.weight.grad.dtype, x.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert torch.isfinite(module.weight.grad).all()


def test_compiled_in_training_it_computes_the_same():
    torch._dynamo.reset()
    module, _ = layer(num_groups=3)
    other = copy.deepcopy(module)
    other.compile(fullgraph=True, backend="aot_eager")
    for seed in range(2):
        x = torch.randn(4, 12, generator=torch.Generator().manual_seed(seed))
        for each in (module, other):
            each.zero_grad()
            each(x).square().sum().backward()
        torch.testing.assert_close(other.weight.grad, module.weight.grad)
    torch.testing.assert_close(other.get_buffer("vitune.velora.v"), module.get_buffer("vitune.velora.v"))
    torch._dynamo.reset()


def test_the_gradient_of_the_function_without_compression_is_exact_by_differences():
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    weight = torch.randn(2, 4, dtype=torch.double, requires_grad=True)
    bias = torch.randn(2, dtype=torch.double, requires_grad=True)
    one = torch.ones(1, dtype=torch.double)
    torch.autograd.gradcheck(lambda x, w, b: linear(x, w, b, one, 4, 1.0), (x, weight, bias))


def test_adapters_carry_the_vectors(tmp_path):
    tuned = tune("lora(rank=2),velora(num_groups=4)")
    gradients(tuned, images())
    tuned.save(tmp_path)
    loaded = vitune.load(tmp_path, model=vit())
    loaded.model.train()
    for name, tensor in tuned.state().items():
        assert torch.equal(loaded.state()[name], tensor), name
    found, wanted = gradients(loaded, images(seed=2))[1], gradients(tuned, images(seed=2))[1]
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize("host", ["", "lora(rank=2),", "ssf(init_std=0.0),"])
def test_merging_and_detaching_leave_a_plain_model(host):
    plain = vit()
    for finish in (vitune.Tuned.merge, vitune.Tuned.detach):
        tuned = tune(f"{host}velora(num_groups=4)")
        gradients(tuned, images())
        assert [type(module) for module in finish(tuned).modules()] == [type(m) for m in plain.modules()]


def test_linear_layers_of_any_model_by_name():
    model = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 4), nn.Linear(4, 4))
    assert compress_linears(model, ["0", "[23]"], vitune.VeLoRA(sub_token_size=4)) == ["0", "2", "3"]
    expected = copy.deepcopy(model)
    model(torch.randn(5, 64)).sum().backward()
    saved = saved_activation_bytes(model, lambda net: net(torch.randn(5, 64)).sum())
    assert saved.bytes == 4 * 5 * (16 + 2 + 1 + 8)  # z of three layers, and what Tanh keeps
    restore_linears(model)
    assert [type(module) for module in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Linear]
    restore_linears(expected)
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias", "3.weight", "3.bias"]
    with pytest.raises(NothingMatchedError, match=r"velora: no module '7'"):
        compress_linears(model, ["7"], vitune.VeLoRA())
    with pytest.raises(SurgeryError, match=r"velora: '1' is a Tanh and no plain nn.Linear"):
        compress_linears(model, ["*"], vitune.VeLoRA())
    assert [type(module) for module in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Linear]


def test_lora_of_the_peft_library():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(vit(), peft.LoraConfig(r=4, target_modules=["qkv"]))
    names = compress_linears(model, ["*.lora_A.default"], vitune.VeLoRA(num_groups=8))
    assert len(names) == 2
    model.train()
    for parameter in (p for n, p in model.named_parameters() if "lora_B" in n):
        nn.init.normal_(parameter)
    model(images()).sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "lora_" in n)


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return transformers.LlamaForCausalLM(config).train()


def test_value_and_down_projections_of_a_llama_by_role():
    model, tokens = llama(), torch.arange(12).view(2, 6)
    loss = lambda net: net(input_ids=tokens, labels=tokens).loss  # noqa: E731
    loss(model).backward()
    exact = {name: p.grad.clone() for name, p in model.named_parameters()}
    plain = saved_activation_bytes(model, loss, ignore=[tokens]).bytes
    chosen = compress_linears(model, ["attn.v", "blocks.1.mlp.out"], vitune.VeLoRA(num_groups=8))
    assert chosen == [
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.self_attn.v_proj",
        "model.layers.1.mlp.down_proj",
    ]
    model.zero_grad()
    loss(model).backward()
    for name, parameter in model.named_parameters():
        same = torch.allclose(parameter.grad, exact[name], rtol=1e-4, atol=1e-7)
        assert same == (name.removesuffix(".weight") not in chosen), name
    # q and k keep the input of v anyway; the product in front of the down projection is kept by it alone.
    assert plain - saved_activation_bytes(model, loss, ignore=[tokens]).bytes == 4 * 12 * (80 - 8 - 2 * 8)


def test_a_role_stands_for_a_where_the_peft_library_wraps_the_layer():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(llama(), peft.LoraConfig(r=2, target_modules=["v_proj"]))
    assert compress_linears(model, ["attn.v"], vitune.VeLoRA()) == [
        f"base_model.model.model.layers.{i}.self_attn.v_proj.lora_A.default" for i in range(2)
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sub_token_size": 0}, r"velora: sub_token_size must be at least 1, not 0"),
        ({"num_groups": 0}, r"num_groups must be at least 1"),
        ({"init": "svd"}, r"init must be one of batch_average_once, batch_average, ema, uniform, random"),
        ({"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\)"),
        ({"scale": float("nan")}, r"scale must be a finite number"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        vitune.VeLoRA(**setting)


def test_what_it_cannot_do_is_refused_by_name():
    with pytest.raises(CompositionError, match=r"trains no layer whose input could be compressed"):
        tune("linear,velora")
    with pytest.raises(CompositionError, match=r"the gradient of a bias needs no input"):
        tune("bitfit,velora")
    with pytest.raises(UnsupportedBackboneError, match=r"velora: nothing that trains at 'blocks.0.mlp.out'"):
        tune("lora(rank=2),velora(roles=mlp.out)")
    with pytest.raises(UnsupportedBackboneError, match=r"velora: nothing that trains at 'blocks.0.norm1'"):
        tune("velora(roles=norm1)")
    with pytest.raises(CompositionError, match=r"salient channels are few"):
        tune("sct(channels=8),velora")
    with pytest.raises(
        UnsupportedBackboneError, match=r"velora: found no input to compress beside adapter2; it acts on"
    ):
        vitune.VeLoRA().further(
            anatomy(vit()), [AttachAtPoint("r", "blocks.0", "middle", "adapter2", nn.Identity)]
        )


def test_an_adapter_beside_the_mlp_reads_what_is_kept_anyway():
    with pytest.warns(
        UserWarning, match=r"beside the MLP read the residual stream, which the norm keeps anyway"
    ):
        tune("adaptformer(bottleneck=4),velora")
    plain = tune("adaptformer(bottleneck=4,placement=sequential)")
    tuned = tune("adaptformer(bottleneck=4,placement=sequential),velora(num_groups=4)")
    gradients(tuned, images())
    loss = lambda net: net(images()).sum()  # noqa: E731
    kept = [saved_activation_bytes(handle.model, loss).bytes for handle in (plain, tuned)]
    assert kept[0] - kept[1] == 4 * 2 * 17 * 2 * (32 - 4)


def test_ssf_keeps_less_alone_and_says_so():
    plain = tune("ssf")
    with pytest.warns(UserWarning, match=r"ssf keeps the inputs of its pairs once and nothing beside"):
        tuned = tune("ssf,velora(num_groups=4)")
    gradients(tuned, images())
    loss = lambda net: net(images()).sum()  # noqa: E731
    kept = [saved_activation_bytes(handle.model, loss).bytes for handle in (plain, tuned)]
    # Beside z twice: what attention gives, and its log-sum-exp.
    assert kept[1] - kept[0] == 4 * 2 * 17 * 2 * (4 + 4 + 32 + 2)


def test_compressing_what_attention_keeps_anyway_is_reported():
    with pytest.warns(UserWarning, match=r"attention keeps the input of 'attn.out' anyway"):
        tune("velora(roles=attn.out)")
