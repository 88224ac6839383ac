from __future__ import annotations

import dataclasses

import timm

import vitune
from vitune.tasks.costs import exact_costs, full_costs
from vitune.training import TrainConfig, make_accelerator

SIZE = (3, 32, 32)
CONFIG = TrainConfig(batch_size=8, device="cpu")


def test_a_method_costs_less_than_full_fine_tuning_of_the_same_model() -> None:
    model = timm.create_model("test_vit", num_classes=3, img_size=32)
    accelerator = make_accelerator("cpu", "fp32")
    plain = exact_costs(model, SIZE, CONFIG, accelerator)
    full = full_costs(model, plain)
    count = sum(p.numel() for p in model.parameters())
    assert full["trained_parameters"] == count
    assert full["adapter_bytes"] == 4 * count
    assert plain.memory.optimizer == 2 * plain.memory.gradients == 8 * count
    tuned = vitune.apply(model, vitune.LinearProbe())
    probe = exact_costs(tuned.model, SIZE, CONFIG, accelerator)
    assert probe.memory.weights == plain.memory.weights
    assert probe.memory.saved_activations < full["saved_activation_bytes"] / 10
    assert probe.flops_per_image < full["flops_per_image"] / 2


def test_parts_of_a_batch_need_less_memory() -> None:
    model = timm.create_model("test_vit", num_classes=3, img_size=32)
    accelerator = make_accelerator("cpu", "fp32")
    whole = exact_costs(model, SIZE, CONFIG, accelerator)
    parts = exact_costs(model, SIZE, dataclasses.replace(CONFIG, accumulate=4), accelerator)
    assert parts.memory.saved_activations < whole.memory.saved_activations / 3
    assert parts.flops_per_image == whole.flops_per_image


def test_several_passes_cost_the_memory_of_the_largest_and_the_operations_of_all() -> None:
    model = timm.create_model("test_vit", num_classes=3, img_size=32)
    accelerator = make_accelerator("cpu", "fp32")
    tuned = vitune.apply(model, vitune.DyT(bottleneck=2))
    dynamic = exact_costs(tuned.model, SIZE, CONFIG, accelerator)
    with tuned.policies[0].pass_settings()[0]:
        complete = exact_costs(tuned.model, SIZE, CONFIG, accelerator)
    both = exact_costs(tuned.model, SIZE, CONFIG, accelerator, tuned.policies)
    assert both.flops_per_image == dynamic.flops_per_image + complete.flops_per_image
    assert complete.memory.saved_activations != dynamic.memory.saved_activations
    assert both.memory == max(complete.memory, dynamic.memory, key=lambda memory: memory.total)
