"""A source and a function under trial that cost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitune.bench import Trial, TrialData


class FakeSource:
    class_names = ("a", "b")
    kind = "folder"
    has_test = True

    def split(self, name: str) -> list[str]:
        return [f"{name}-1", f"{name}-2"]

    def open_test(self, reason: str) -> list[str]:
        return ["test-1"]

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}


def open_fake(trial: Trial) -> TrialData:
    return FakeSource()


def accuracy(trial: Trial) -> float:
    """Best at lr 3; a little of it from the seed, so that seeds differ."""
    return 0.9 - abs(trial.settings["lr"] - 3) / 10 + trial.seed / 100


def run_fake(trial: Trial, folder: Path, data: TrialData) -> dict[str, Any]:
    """What a training would give: validation metrics, and test metrics only in the final stage."""
    if trial.settings.get("diverges"):
        raise FloatingPointError(f"the loss is not finite at lr {trial.settings['lr']}")
    if trial.stage == "select":
        return {"metrics": {"val": {"accuracy": accuracy(trial), "loss": 0.5}, "test": None}}
    assert data.open_test("final") == ["test-1"]
    return {
        "metrics": {"val": None, "test": {"accuracy": accuracy(trial) - 0.1}},
        "costs": {"trained_parameters": 1234, "step_seconds": None},
    }


def trial(lr: float = 1, seed: int = 0, stage: Any = "select", **settings: Any) -> Trial:
    return Trial(
        data="digits",
        model="tiny",
        methods="lora(rank=4)",
        settings={"lr": lr, **settings},
        seed=seed,
        protocol="small",
        stage=stage,
    )
