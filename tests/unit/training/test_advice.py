from __future__ import annotations

from types import SimpleNamespace

import pytest

from vitune.training.advice import learning_rate, settings_without_effect
from vitune.training.config import TrainConfig


def test_the_users_learning_rate_comes_first_then_the_most_careful_of_the_methods() -> None:
    methods = [SimpleNamespace(default_lr=1e-2), SimpleNamespace(default_lr=5e-5), SimpleNamespace()]
    assert learning_rate(TrainConfig(lr=0.5), methods) == 0.5
    assert learning_rate(TrainConfig(), methods) == 5e-5
    assert learning_rate(TrainConfig(), methods[2:]) == 1e-3
    assert learning_rate(TrainConfig(), []) == 1e-3


@pytest.mark.parametrize(
    ("config", "has_validation", "names"),
    [
        (TrainConfig(), False, []),
        (TrainConfig(momentum=0.5), True, ["momentum"]),
        (TrainConfig(optimizer="sgd", momentum=0.5), True, []),
        (TrainConfig(optimizer="sgd", betas=(0.5, 0.5)), True, ["betas"]),
        (TrainConfig(schedule="constant", min_lr=1e-6), True, ["min_lr"]),
        (TrainConfig(schedule="constant", cosine_from="start"), True, ["cosine_from"]),
        (TrainConfig(warmup_epochs=0, warmup_lr=0.0), True, ["warmup_lr"]),
        (TrainConfig(weight_decay=0, decay_vectors=True), True, ["decay_vectors"]),
        (TrainConfig(layer_decay=0.9, decay_vectors=True), True, ["decay_vectors"]),
        (TrainConfig(early_stop=3, eval_every=2), False, ["early_stop", "eval_every"]),
        (TrainConfig(early_stop=3, eval_every=2), True, []),
        (TrainConfig(batch_size=1, mixup=0.2, cutmix=0.2), True, ["mixup", "cutmix"]),
    ],
)
def test_says_what_has_no_effect(config: TrainConfig, has_validation: bool, names: list[str]) -> None:
    found = settings_without_effect(config, has_validation=has_validation)
    assert [text.split()[2] for text in found] == names
    assert all("has no effect: " in text for text in found)
