"""Makes a `comparison.json` with made-up but realistic contents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

METHODS = {
    "linear": (0.842, 1_930, 140_000, 4.1),
    "lora(rank=4)": (0.905, 94_000, 178_000_000, 41.0),
    "ssf": (0.913, 121_000, 240_000_000, 52.0),
    "full": (0.921, 5_377_738, 229_000_000, 60.0),
}


def estimate(mean: float, half: float, over: str = "seeds", seeds: int = 3) -> dict[str, Any]:
    return {"mean": mean, "low": mean - half, "high": mean + half, "over": over, "seeds": seeds}


def trial(accuracy: float | None, error: str | None = None, **more: Any) -> dict[str, Any]:
    file = "trials/a-trial/result.json" if error is None else "trials/a-trial/attempts/0/error.json"
    best = accuracy or 0.1
    epochs = [
        {"epoch": n, "train_loss": 2.0 / n, "val_loss": 2.2 / n, "val_accuracy": best * (0.7 + 0.1 * n)}
        for n in (1, 2, 3)
    ]
    known = {"accuracy": accuracy, "loss": 0.3, "n": 10_000, "error": error, "file": file}
    return {**known, "epochs": epochs[: 1 if error else 3], **more}


def searched(method: dict[str, Any], candidates: int) -> dict[str, Any]:
    """The method, as if its learning rate, weight decay and rank had been searched for."""
    points = [(4 * 2 ** (k % 3), 0.001 * (k + 1), 10.0 ** -(k % 4 + 2)) for k in range(candidates)]
    tried = [
        trial(
            None if k == 1 else 0.8 + 0.01 * k,
            "TrainingError: the loss is not finite" if k == 1 else None,
            method=f"lora(rank={rank})",
            lr=rate,
            settings={"lr": rate, "weight_decay": decay},
            chosen=k == candidates - 1,
        )
        for k, (rank, rate, decay) in enumerate(points)
    ]
    rank, rate, decay = points[-1]
    chosen = {"lr": rate, "weight_decay": decay}
    return {
        **method,
        "chosen_method": f"lora(rank={rank})",
        "lr": rate,
        "chosen": chosen,
        "candidates": tried,
    }


def method(name: str, index: int) -> dict[str, Any]:
    accuracy, parameters, activations, seconds = METHODS[name]
    return {
        "method": name,
        "accuracy": estimate(accuracy, 0.006),
        "difference": None if name == "linear" else estimate(accuracy - 0.842, 0.004),
        "rank": 4.0 - index,
        "best": False,
        "lr": 10.0**-index,
        "costs": {
            "trained_parameters": parameters,
            "adapter_bytes": parameters * 4 + 2300,
            "saved_activation_bytes": activations,
            "peak_bytes": activations + 60_000_000,
            "train_seconds": seconds,
        },
        "candidates": [
            trial(accuracy - 0.01 * abs(k), lr=10.0**-index * 3.0**k, chosen=k == 0) for k in (-1, 0, 1)
        ],
        "seeds": [trial(accuracy + 0.002 * (seed - 1), seed=seed) for seed in range(3)],
    }


def failed_method() -> dict[str, Any]:
    error = "TrainingError: the loss is not finite at step 12 <b>with a tag</b>"
    return {
        "method": "velora",
        "accuracy": None,
        "difference": None,
        "rank": None,
        "best": False,
        "lr": None,
        "costs": {},
        "candidates": [trial(None, error, lr=0.001, chosen=False)],
        "seeds": [],
    }


def make_comparison(path: Path, *, best: str | None = None, more: list[dict[str, Any]] | None = None) -> Path:
    """Write a comparison.

    Args:
        path: The JSON file.
        best: Which method is marked.
        more: Further methods.
    """
    methods = [method(name, index) for index, name in enumerate(METHODS)] + (more or [])
    for entry in methods:
        entry["best"] = entry["method"] == best
    content = {
        "format": 1,
        "data": {
            "path": "data/flowers",
            "kind": "folder",
            "classes": 10,
            "sizes": {"train": 800, "val": 200, "test": 10_000},
            "shots": None,
        },
        "model": "vitune_vit_nano_patch8_64",
        "baseline": "linear",
        "protocol": {
            "name": "compare-12345678",
            "seeds": [0, 1, 2],
            "select_seed": 0,
            "search": "small",
            "refit": False,
        },
        "settings": {"epochs": 20, "batch_size": 64, "betas": [0.9, 0.999], "ema": None},
        "command": "vitune compare data/flowers --methods 'linear,lora(rank=4),ssf'",
        "folder": "runs/compare-flowers",
        "versions": {"python": "3.11.9", "torch": "2.9.0"},
        "machines": [{"cpu": "An Example CPU", "cores": 2, "gpus": []}],
        "methods": methods,
    }
    path.write_text(json.dumps(content))
    return path
