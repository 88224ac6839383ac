"""Models of text: roles, what is refused and why, files, tied embeddings; the contract suite holds a classifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import vitune
from vitune.adapters import write_merged
from vitune.anatomy import anatomy, example, short_name, tree
from vitune.errors import UnsupportedBackboneError
from vitune.methods import all_methods, get_method, parse

transformers: Any = pytest.importorskip("transformers")

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
BLOCK = ["norm1", "attn.q", "attn.k", "attn.v", "attn.out", "norm2", "mlp.gate", "mlp.in", "mlp.out"]
NORMED = [*BLOCK[:2], "attn.q_norm", "attn.k", "attn.k_norm", *BLOCK[3:]]
TOKENS = torch.randint(1, 40, (2, 6), generator=torch.Generator().manual_seed(0))


def language_model(kind: str = "Llama", task: str = "ForCausalLM", **settings: Any) -> nn.Module:
    made = getattr(transformers, kind + task)
    torch.manual_seed(0)
    return made(made.config_class(**(SMALL | settings))).train()


def train(tuned: vitune.Tuned) -> Tensor:
    """A large step; what the model computes afterwards."""
    tuned.model.train()
    tuned(TOKENS).square().sum().backward()
    with torch.no_grad():
        for parameter in tuned.parameters():
            assert parameter.grad is not None
            parameter -= 0.05 * parameter.grad.sign()
        return tuned.model.eval()(TOKENS).logits


@pytest.mark.parametrize(
    ("kind", "block"), [("Llama", BLOCK), ("Mistral", BLOCK), ("Qwen2", BLOCK), ("Qwen3", NORMED)]
)
def test_roles(kind, block):
    found = anatomy(language_model(kind))
    assert list(dict.fromkeys(short_name(o.role) for o in found.operators)) == [*block, "norm"]
    assert (found.family, found.vocabulary, found.head, found.width) == ("hf-llama", 40, (), 32)
    assert tree(found).startswith("hf-llama: text of 40 different tokens, width 32, 2 blocks")
    assert example(found).dtype == torch.long
    assert vitune.apply(found.model, vitune.LoRA())(TOKENS).shape == (2, 6, 40)


def test_the_head_of_a_classifier_is_its_score():
    found = anatomy(language_model(task="ForSequenceClassification", num_labels=3))
    assert found.head == ("score",)


def test_methods_for_images_are_refused_by_name():
    on_text = {name for name, method in all_methods().items() if method.reads_text}
    assert on_text == {"lora", "bi_lora", "bitfit", "full", "linear", "ssf", "suffix", "velora"}
    for name in sorted(all_methods().keys() - on_text):
        with pytest.raises(
            UnsupportedBackboneError, match=rf"'{name}' is defined on images and LlamaForCausalLM"
        ):
            vitune.apply(language_model(), get_method(name)())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "linear",
            "linear: the model has no head to train; of a language model take ForSequenceClassification",
        ),
        ("bitfit", "bitfit: no layer of this backbone has a bias"),
        ("adaptformer", "'adaptformer' is defined on images and .* on text work lora, bi_lora, bitfit, full"),
    ],
)
def test_what_does_not_fit_a_language_model_is_refused_with_the_reason(text, message):
    model = language_model()
    before = list(model.state_dict())
    with pytest.raises(UnsupportedBackboneError, match=message):
        vitune.apply(model, parse(text))
    assert list(model.state_dict()) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_other_models_of_text_are_of_no_family():
    with pytest.raises(UnsupportedBackboneError, match="no known backbone family matches GemmaForCausalLM"):
        vitune.apply(language_model("Gemma"), vitune.LoRA())


@pytest.mark.parametrize(
    "text", ["lora(rank=2,roles=all-linear),velora(num_groups=4)", "velora(num_groups=4)"]
)
@pytest.mark.parametrize("tied", [False, True])
def test_adapters_of_a_language_model_come_back(text, tied, tmp_path):
    settings = {"tie_word_embeddings": tied}
    tuned = vitune.apply(language_model(**settings), parse(text))
    scores = train(tuned)
    tuned.save(tmp_path)
    loaded = vitune.load(tmp_path, model=language_model(**settings))
    with torch.no_grad():
        assert torch.equal(loaded(TOKENS), scores)
        merged = loaded.merge()
        torch.testing.assert_close(merged(TOKENS).logits, scores, rtol=1e-5, atol=1e-5)
    assert [type(m) for m in merged.modules()] == [type(m) for m in language_model(**settings).modules()]


def test_a_merged_language_model_loads_without_vitune(tmp_path):
    tuned = vitune.apply(language_model(use_cache=False), parse("lora(rank=2)"))
    scores = train(tuned)
    source = write_merged(tuned, tmp_path / "merged.safetensors")
    plain = language_model(**{name: source.kwargs[name] for name in SMALL})
    plain.load_state_dict(load_file(tmp_path / "merged.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(TOKENS).logits, scores, rtol=1e-5, atol=1e-5)


def test_velora_with_our_lora_keeps_projections_of_value_and_down_projections_alone():
    from vitune.measure import saved_activation_bytes

    def kept(text: str) -> int:
        tuned = vitune.apply(language_model(), parse(text))
        train(tuned)
        tuned.model.train()
        return saved_activation_bytes(
            tuned.model, lambda net: net(TOKENS).logits.sum(), ignore=[TOKENS]
        ).bytes

    host = "lora(rank=2,roles=attn.v+mlp.out)"
    # Of two blocks: norm1's output and the gated product go, 4 and 10 numbers of a token stay.
    assert kept(host) - kept(f"{host},velora(sub_token_size=8)") == 4 * 12 * 2 * (32 - 4 + 80 - 10)
