"""Train a small LLaMA with VeLoRA in the Trainer of transformers: value and down projections, or LoRA of peft.

    python examples/velora_llama.py [--lora] [--steps 60] [--layers attn.v mlp.out]

Random weights and a made-up language (each token is a function of the two before it), so that it runs on a CPU in
a minute. Prints the bytes that autograd keeps with and without VeLoRA, and the loss of both.
"""

from __future__ import annotations

import argparse
import copy
import tempfile

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from vitune import VeLoRA
from vitune.measure import saved_activation_bytes
from vitune.methods.velora import compress_linears

WORDS, LENGTH = 64, 48


class Sentences(Dataset):
    """Sentence i is a function of i."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        words = torch.randint(WORDS, (2,), generator=torch.Generator().manual_seed(i)).tolist()
        while len(words) < LENGTH:
            words.append((3 * words[-1] + 5 * words[-2] + 1) % WORDS)
        ids = torch.tensor(words)
        return {"input_ids": ids, "labels": ids}


def small_llama(lora: bool) -> torch.nn.Module:
    """A LLaMA of three layers, or LoRA of peft on it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
    )
    model = LlamaForCausalLM(config)
    if not lora:
        return model
    from peft import LoraConfig, get_peft_model

    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=targets))  # type: ignore[return-value]


def kept_mib(model: torch.nn.Module, sentences: Sentences) -> float:
    """What autograd keeps of a batch of 16 sentences."""
    ids = torch.stack([sentences[i]["input_ids"] for i in range(16)])
    saved = saved_activation_bytes(
        model.train(), lambda net: net(input_ids=ids, labels=ids).loss, ignore=[ids]
    )
    return saved.mebibytes


def train(model: torch.nn.Module, steps: int, lr: float) -> float:
    """Mean loss of the last ten steps."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=16,
            learning_rate=lr,
            logging_steps=10,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            seed=0,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=Sentences(2000))
        trainer.train()
        return [line["loss"] for line in trainer.state.log_history if "loss" in line][-1]


def main() -> None:
    """Train both and compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lora", action="store_true", help="train LoRA of the peft library in place of all weights"
    )
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument(
        "--layers", nargs="+", default=["attn.v", "mlp.out"], help="roles of the layers to compress"
    )
    parser.add_argument("--groups", type=int, default=32)
    options = parser.parse_args()
    sentences = Sentences(16)
    exact = small_llama(options.lora)
    compressed = copy.deepcopy(exact)
    places = compress_linears(compressed, options.layers, VeLoRA(num_groups=options.groups))
    print(f"{len(places)} layers keep {options.groups} numbers per token in place of their input")
    for name, model in (("exact", exact), ("velora", compressed)):
        lr = 3e-3
        loss = train(model, options.steps, lr)
        print(
            f"{name:7} {kept_mib(model, sentences):7.2f} MiB kept, loss {loss:.3f} after {options.steps} steps"
        )


if __name__ == "__main__":
    main()
