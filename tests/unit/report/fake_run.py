"""Makes run directories with the files a training leaves, with made-up but realistic contents."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from vitune.measure import wilson

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FLOWERS = (
    *("pink primrose", "hard-leaved pocket orchid", "canterbury bells", "sweet pea", "english marigold"),
    *(
        "tiger lily",
        "moon orchid",
        "bird of paradise",
        "monkshood",
        "globe thistle",
        "snapdragon",
        "colt's foot",
    ),
    *("king protea", "spear thistle", "yellow iris", "globe-flower", "purple coneflower", "peruvian lily"),
    *("balloon flower", "giant white arum lily with an unusually long name that nobody would ever shorten"),
)
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"settings": {}, "accuracy": 0.842, "edits": lambda i: []},
    "ssf": {
        "settings": {"scale_std": 0.02, "shift_std": 0.02},
        "accuracy": 0.913,
        "edits": lambda i: [
            (f"blocks.{i}.norm1", "ssf", 384),
            (f"blocks.{i}.attn.qkv", "ssf", 1152),
            (f"blocks.{i}.attn.out", "ssf", 384),
            (f"blocks.{i}.norm2", "ssf", 384),
            (f"blocks.{i}.mlp.in", "ssf", 1536),
            (f"blocks.{i}.mlp.out", "ssf", 384),
        ],
    },
    "lora(rank=4)": {
        "settings": {"rank": 4, "alpha": 8.0, "roles": ["attn.q", "attn.v"], "dropout": 0.0},
        "accuracy": 0.905,
        "edits": lambda i: [(f"blocks.{i}.attn.q", "lora", 1536), (f"blocks.{i}.attn.v", "lora", 1536)],
    },
    "adaptformer": {
        "settings": {"bottleneck": 8, "scale": 0.1},
        "accuracy": 0.897,
        "edits": lambda i: [(f"blocks.{i}.mlp.beside", "adaptformer", 3272)],
    },
    "full": {
        "settings": {},
        "accuracy": 0.921,
        "edits": lambda i: [
            (f"blocks.{i}.{part}.{tensor}", "train", count)
            for part, weight, bias in (
                ("norm1", 192, 192),
                ("attn.qkv", 110592, 576),
                ("attn.out", 36864, 192),
                ("norm2", 192, 192),
                ("mlp.in", 147456, 768),
                ("mlp.out", 147456, 192),
            )
            for tensor, count in (("weight", weight), ("bias", bias))
        ],
    },
}


def class_names(classes: int) -> list[str]:
    """Ten or 102 realistic names."""
    if classes <= 10:
        return list(CIFAR[:classes])
    return [FLOWERS[i] if i < len(FLOWERS) else f"{FLOWERS[i % 19]} variety {i}" for i in range(classes)]


def make_run(
    directory: Path,
    *,
    method: str = "ssf",
    classes: int = 10,
    epochs: int = 20,
    blocks: int = 12,
    images: int = 1000,
    seed: int = 0,
    name: str | None = None,
    names: list[str] | None = None,
    files: tuple[str, ...] | None = None,
    changes: dict[str, Any] | None = None,
) -> Path:
    """Write a run directory.

    Args:
        directory: Where; made if missing.
        method: A key of METHODS.
        classes: Number of classes.
        epochs: Number of epochs in the log.
        blocks: Number of transformer blocks.
        images: Rows of the predictions.
        seed: Seed of everything that is made up.
        name: Name of the run.
        names: Class names; realistic ones by default.
        files: File names of the images, used over and over; realistic ones by default.
        changes: Keys of result.json to replace.
    """
    random = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    names = names or class_names(classes)
    result = _result(method, classes, blocks, images, seed, name or directory.name)
    _write(directory / "result.json", result | (changes or {}))
    _write(directory / "adapter_config.json", {"class_names": names})
    _write(directory / "config.json", _config(result, epochs))
    lines = _log(random, METHODS[method]["accuracy"], epochs, seed)
    (directory / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.savez(
        directory / "predictions.npz",
        **_predictions(random, METHODS[method]["accuracy"], names, images, files),
    )
    return directory


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1))


def _result(method: str, classes: int, blocks: int, images: int, seed: int, name: str) -> dict[str, Any]:
    spec = METHODS[method]
    edits = [
        {"role": role, "edit": edit, "parameters": parameters}
        for block in range(blocks)
        for role, edit, parameters in spec["edits"](block)
    ]
    if method in ("ssf", "full"):
        edit, size = ("ssf", 384) if method == "ssf" else ("train", 37056)
        edits.insert(0, {"role": "patch_embed", "edit": edit, "parameters": size})
        edits.append({"role": "norm", "edit": edit, "parameters": 384})
    head, total = 193 * classes, 5_375_808 + 193 * classes
    trained = sum(edit["parameters"] for edit in edits) + head
    accuracy = spec["accuracy"]
    low, high = wilson(round(accuracy * images), images)
    share = {"linear": 0.02, "lora(rank=4)": 0.78, "ssf": 1.05, "adaptformer": 0.8, "full": 1.0}[method]
    return {
        "format": 1,
        "name": name,
        "method": method,
        "methods": [{"name": method.split("(")[0], "settings": spec["settings"]}],
        "model": {"name": "vitune_vit_nano_patch8_64", "family": "timm-vit", "input_size": [3, 64, 64]},
        "data": {
            "path": "data/cifar10",
            "kind": "vtab",
            "classes": classes,
            "train": 800,
            "val": 200,
            "test": 10000,
        },
        "protocol": "train800val200, last epoch, test opened once",
        "metrics": {
            "val": None,
            "test": {
                "accuracy": accuracy,
                "low": low,
                "high": high,
                "n": images,
                "loss": 0.3124,
                "interval": "wilson95",
            },
        },
        "costs": {
            "trained_parameters": trained,
            "head_parameters": head,
            "total_parameters": total,
            "adapter_bytes": trained * 4 + 2300,
            "saved_activation_bytes": int(229e6 * share),
            "flops_per_image": 2.1e9 * (1 if method == "full" else 0.7),
            "step_seconds": 0.412 * (0.3 + 0.7 * share),
            "inference_seconds": 0.0131,
        },
        "full_finetuning": {
            "trained_parameters": total,
            "adapter_bytes": total * 4,
            "saved_activation_bytes": 229_000_000,
            "flops_per_image": 2.1e9,
        },
        "memory_forecast_bytes": {
            "weights": total * 4,
            "gradients": trained * 4,
            "optimizer": trained * 8,
            "saved_activations": int(229e6 * share),
        },
        "edits": edits,
        "blocks": blocks,
        "best_epoch": None,
        "seed": seed,
        "command": f"vitune train data/cifar10 --method '{method}' --epochs 20 --seed {seed}",
        "environment": {
            "python": "3.11.9",
            "torch": "2.9.0",
            "timm": "1.0.20",
            "vitune": "0.1.0",
            "machine": "2 x Intel Xeon, 8 GB, no GPU",
        },
    }


def _config(result: dict[str, Any], epochs: int) -> dict[str, Any]:
    return {
        "data": {"path": result["data"]["path"], "train_split": "train800val200", "on_bad_image": "error"},
        "model": {"name": result["model"]["name"], "weights": None},
        "methods": result["methods"],
        "training": {
            "epochs": epochs,
            "lr": 0.003,
            "batch_size": 64,
            "optimizer": "adamw",
            "weight_decay": 0.05,
            "schedule": "cosine",
            "warmup_epochs": 2,
            "betas": [0.9, 0.999],
            "ema": None,
            "mixup": 0.0,
        },
        "versions": result["environment"],
        "command": result["command"],
    }


def _log(random: np.random.Generator, accuracy: float, epochs: int, seed: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"event": "start", "time": 0.0}]
    steps = 13
    for epoch in range(1, epochs + 1):
        progress = epoch / epochs
        for step in range((epoch - 1) * steps + 1, epoch * steps + 1, 4):
            lr = 0.003 * min(step / (2 * steps), 0.5 + 0.5 * math.cos(math.pi * step / (steps * epochs)))
            lines.append({"event": "step", "step": step, "epoch": epoch, "loss": 2.0 - progress, "lr": lr})
        decay = math.exp(-3.5 * progress)
        lines.append(
            {
                "event": "epoch",
                "epoch": epoch,
                "step": epoch * steps,
                "lr": 0.003 * (0.5 + 0.5 * math.cos(math.pi * progress)),
                "train_loss": round(0.12 + 2.1 * decay + 0.02 * random.standard_normal(), 4),
                "val_loss": round(0.34 + 1.9 * decay + 0.03 * random.standard_normal(), 4),
                "val_accuracy": round(
                    min(0.99, accuracy - 0.7 * decay + 0.006 * random.standard_normal()), 4
                ),
                "seconds": 4.2 + 0.1 * seed,
            }
        )
    lines.append({"event": "warning", "message": "mixup=0.0 has no effect together with cutmix=0.0"})
    lines.append({"event": "final", "time": 90.0})
    return lines


def _predictions(
    random: np.random.Generator, accuracy: float, names: list[str], images: int, files: tuple[str, ...] | None
) -> dict[str, np.ndarray]:
    classes = len(names)
    label = random.integers(0, classes, images)
    # Mistakes fall on a neighbour more often than elsewhere, as cats are taken for dogs.
    near = (label + random.choice([1, 2, -1], images)) % classes
    anywhere = random.integers(0, classes, images)
    wrong = np.where(random.random(images) < 0.7, near, anywhere)
    predicted = np.where(random.random(images) < accuracy, label, wrong)
    confidence = np.clip(random.beta(8, 2, images), 0.1, 0.999).astype(np.float32)
    mistakes = np.flatnonzero(label != predicted)
    worst = mistakes[np.argsort(-confidence[mistakes])][:36]
    name = [
        files[i % len(files)] if files else f"test/{names[label[i]].replace(' ', '_')}/img_{i:05d}.jpg"
        for i in range(images)
    ]
    return {
        "index": np.arange(images, dtype=np.int64),
        "label": label,
        "predicted": predicted,
        "confidence": confidence,
        "split": np.array("test"),
        "name": np.array(name),
        "thumbnails": np.stack([_picture(random) for _ in worst])
        if len(worst)
        else np.zeros((0, 64, 64, 3), np.uint8),
        "thumbnail_index": worst,
    }


def _picture(random: np.random.Generator) -> np.ndarray:
    """A soft blob before a sky-to-ground gradient, as a photo of 64 pixels looks from afar."""
    y, x = np.mgrid[0:64, 0:64] / 64
    top, bottom, colour = random.uniform(60, 230, 3), random.uniform(20, 160, 3), random.uniform(0, 255, 3)
    picture = top + (bottom - top) * y[..., None]
    centre, radius = random.uniform(0.3, 0.7, 2), random.uniform(0.12, 0.3, 2)
    distance = ((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2
    blob = 1 / (1 + np.exp(8 * (distance - 1)))[..., None]
    picture = picture * (1 - blob) + colour * blob + random.normal(0, 6, (64, 64, 1))
    return np.clip(picture, 0, 255).astype(np.uint8)
