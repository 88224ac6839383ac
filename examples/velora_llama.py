"""Pre-train and fine-tune a small LLaMA in the Trainer of transformers: VeLoRA beside what it competes with.

    python examples/velora_llama.py pretrain     # random weights; reads this project's own documents, byte by byte
    python examples/velora_llama.py finetune     # goes on from there with its source code
    python examples/velora_llama.py count        # no training: the bytes of LLaMA 60M, as the paper pre-trains it

Each takes minutes on a CPU. Of every way to train it prints the activations that autograd keeps for the backward pass
(exact), CPU time of a step, and the loss on text that was not trained on. What to see: VeLoRA keeps less than plain
autograd, at an approximate gradient; computing again what is cheap (`memory`) keeps less still, at the exact one.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments

import vitune
from vitune.measure import saved_activation_bytes, weightless_copy
from vitune.methods import parse
from vitune.methods.velora import compress_linears
from vitune.recipes import load_recipe

ROOT = Path(__file__).parents[1]
PUBLISHED = load_recipe("text/velora_c4_60m")
LORA = "lora(rank=8,roles=all-linear)"
ALPACA = "lora(rank=8,roles=all-linear),velora(roles=attn.v+mlp.out,num_groups=32,scale=0.1)"


@dataclass(frozen=True)
class Way:
    """One way to train.

    Attributes:
        name: What the table calls it.
        method: Of vitune; empty: LoRA of the peft library, with VeLoRA.
        memory: Level of exact recomputation, or `checkpointing`: transformers' own, of whole layers.
    """

    name: str
    method: str
    memory: str = "stock"


PRETRAINING = [
    Way("full", "full"),
    Way("full + VeLoRA", PUBLISHED.method),
    Way("full, exact: fast", "full", "fast"),
    Way("full, exact: leaner", "full", "leaner"),
    Way("full + checkpointing", "full", "checkpointing"),
]
FINE_TUNING = [
    Way("LoRA", LORA),
    Way("LoRA + VeLoRA", f"{LORA},velora(num_groups=32,scale=0.1)"),
    Way("LoRA + VeLoRA on v, down", ALPACA),
    Way("LoRA of peft + VeLoRA", ""),
    Way("LoRA, exact: fast", LORA, "fast"),
    Way("LoRA, exact: leaner", LORA, "leaner"),
    Way("LoRA + checkpointing", LORA, "checkpointing"),
    Way("full", "full"),
]


class Bytes(Dataset):
    """A text as sentences of so many bytes; every ninth is held out.

    Args:
        text: The text.
        length: Bytes of a sentence.
        held_out: Whether these are the sentences that are not trained on.
    """

    def __init__(self, text: bytes, length: int, held_out: bool = False) -> None:
        sentences = torch.frombuffer(bytearray(text), dtype=torch.uint8)[: len(text) // length * length]
        numbers = torch.arange(len(sentences) // length)
        self.sentences = sentences.view(-1, length)[(numbers % 9 == 8) == held_out]

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        ids = self.sentences[i].long()
        return {"input_ids": ids, "labels": ids}

    def batch(self, size: int) -> Tensor:
        """The first sentences, (size, length)."""
        return self.sentences[:size].long()


def read(*patterns: str) -> bytes:
    """Files of this project, one after the other."""
    return b"\n".join(path.read_bytes() for pattern in patterns for path in sorted(ROOT.glob(pattern)))


def loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next byte."""
    return model(input_ids=ids, labels=ids).loss


def prepared(way: Way, model: LlamaForCausalLM) -> nn.Module:
    """The model, made ready to train this way."""
    if not way.method:
        from peft import LoraConfig, get_peft_model

        names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        wrapped = get_peft_model(model, LoraConfig(r=8, lora_alpha=8, target_modules=names))  # type: ignore[arg-type]
        compress_linears(wrapped, ["*.lora_A.default"], vitune.VeLoRA(num_groups=32, scale=0.1))
        return wrapped
    tuned = vitune.apply(model, parse(way.method))
    if way.memory == "checkpointing":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    else:
        tuned.memory = way.memory  # type: ignore[assignment]
    return tuned.model


def kept(model: nn.Module, ids: Tensor) -> float:
    """MiB that autograd keeps of a batch of tokens (B, N)."""
    return saved_activation_bytes(model.train(), lambda net: loss(net, ids), ignore=[ids]).mebibytes


def train(model: nn.Module, data: Bytes, options: argparse.Namespace, lr: float) -> float:
    """Train in the Trainer.

    Returns:
        CPU seconds of a step.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=options.steps,
            per_device_train_batch_size=options.batch_size,
            learning_rate=lr,
            weight_decay=0.0,
            lr_scheduler_type=PUBLISHED.trainer["lr_scheduler_type"],
            lr_scheduler_kwargs=dict(PUBLISHED.trainer["lr_scheduler_kwargs"]),
            warmup_steps=options.steps // 10,  # as published
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=data)
        trainer.remove_callback(PrinterCallback)
        start = time.process_time()
        trainer.train()
        return (time.process_time() - start) / options.steps


def compare(
    ways: Sequence[Way],
    start: Callable[[], LlamaForCausalLM],
    text: bytes,
    options: argparse.Namespace,
    lr: float,
) -> dict[str, float]:
    """Train all ways from the same start and print a line of each; MiB kept by name."""
    data, held_out = (Bytes(text, options.length, held_out=part) for part in (False, True))
    probe, found = held_out.batch(64), {}
    print(f"{'':26}{'trains':>10}{'kept, MiB':>12}{'CPU s a step':>14}{'loss':>8}{'after':>8}")
    for way in ways:
        model = prepared(way, start())
        numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
        before = evaluated(model, probe)
        seconds = train(model, data, options, lr)
        found[way.name] = kept(model, data.batch(options.batch_size))
        print(
            f"{way.name:26}{numbers:10,}{found[way.name]:12.2f}{seconds:14.3f}"
            f"{before:8.3f}{evaluated(model, probe):8.3f}",
            flush=True,
        )
    return found


def evaluated(model: nn.Module, ids: Tensor) -> float:
    """The loss on tokens (B, N), in evaluation."""
    with torch.no_grad():
        return float(loss(model.eval(), ids))


def small_llama(options: argparse.Namespace) -> LlamaForCausalLM:
    """A LLaMA that reads bytes, from random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=options.width,
        intermediate_size=-(-options.width * 8 // 3 // 32) * 32,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        max_position_embeddings=options.length,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


def count(options: argparse.Namespace) -> dict[str, float]:
    """What LLaMA 60M keeps of 16 sentences of 256 tokens, counted without computing; MiB by name."""
    model, found = LlamaForCausalLM(LlamaConfig(**PUBLISHED.model, use_cache=False)).train(), {}
    for way in [*PRETRAINING, *(way for way in FINE_TUNING[:-1] if way.method)]:
        alone = copy.deepcopy(model)
        with weightless_copy(prepared(way, alone)) as twin:
            found[way.name] = kept(twin, torch.zeros(16, 256, dtype=torch.long))
        print(f"{way.name:26}{found[way.name]:10.1f} MiB")
    print("Of these 500 MiB are the scores of 32,000 words, which no way here makes smaller.")
    return found


def main(words: Sequence[str] | None = None) -> dict[str, float]:
    """Do what the words say; MiB that each way keeps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["pretrain", "finetune", "count"])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args(words)
    if options.what == "count":
        return count(options)
    documents = read("README.md", "CHANGELOG.md", "docs/**/*.md")
    if options.what == "pretrain":
        return compare(PRETRAINING, lambda: small_llama(options), documents, options, lr=5e-3)
    model = small_llama(options)
    train(model, Bytes(documents, options.length), options, lr=5e-3)
    return compare(FINE_TUNING, lambda: copy.deepcopy(model), read("src/vitune/**/*.py"), options, lr=3e-3)


if __name__ == "__main__":
    main()
