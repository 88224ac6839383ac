"""The card of an adapter on the Hugging Face hub: `README.md` with the front matter that the hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData

from vitune.backbones import BUILT_IN
from vitune.methods import get_method
from vitune.report.units import count, flops, seconds, size

_SPLITS = {"val": "validation", "test": "test"}
_CLASSES = 50  # as many are named
_TRAINING = (
    "epochs",
    "batch_size",
    "optimizer",
    "weight_decay",
    "schedule",
    "precision",
    "augment",
    "select",
    "seed",
)
_COSTS = {
    "trained_parameters": ("parameters trained", count),
    "adapter_bytes": ("adapter file", size),
    "saved_activation_bytes": ("activations kept per training step", size),
    "flops_per_image": ("FLOPs of a training step per image", flops),
}


def model_card(
    repo: str,
    adapter: Mapping[str, Any],
    result: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None,
    licence: str | None,
) -> str:
    """The text of the card.

    Args:
        repo: `OWNER/NAME`.
        adapter: The adapter's configuration.
        result: `result.json` of its run; None where it was saved without a run.
        training: Settings of the training, from `config.json` of the run.
        licence: What the adapter is licensed under, as the hub spells it; None leaves it out.
    """
    source, title = adapter["backbone"], " + ".join(_titles(adapter))
    base = _base_model(source)
    name = repo.rpartition("/")[2]
    backbone = "an unknown backbone" if source is None else f"`{source['name']}`"
    parts = [
        f"# {name}",
        f"{title} on {backbone}, {_classes(adapter)}. Made with vitune {adapter['versions']['vitune']}; the file holds "
        f"what was trained, and the backbone {_whence(source)}.",
    ]
    if result is not None:
        parts += ["## Results", _results(result)]
    parts += ["## Use", _use(repo, source)]
    parts += ["## Data", _data(adapter, result)]
    parts += ["## Settings", _settings(adapter, result, training)]
    if result is not None:
        parts += ["## Costs", _costs(result)]
    return f"---\n{_front_matter(name, adapter, result, base, licence)}\n---\n\n" + "\n\n".join(parts) + "\n"


def _titles(adapter: Mapping[str, Any]) -> list[str]:
    return [get_method(entry["name"]).title for entry in adapter["methods"]]


def _whence(source: Mapping[str, Any] | None) -> str:
    if source is not None and source["name"] == BUILT_IN:
        return "comes with vitune"
    published = source is not None and source["weights"] in (None, "pretrained")
    return "is fetched from where it is published" if published else "is to be had apart from it"


def _base_model(source: Mapping[str, Any] | None) -> str | None:
    """The backbone's name on the hub, where it has one."""
    if source is None or source["name"] == BUILT_IN:
        return None
    if source["library"] == "timm":
        name = source["name"].removeprefix("hf-hub:").removeprefix("hf_hub:")
        if "/" in name:
            return name
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        return getattr(config, "hf_hub_id", None)
    return source["name"] if source["name"].count("/") == 1 else None


def _front_matter(
    name: str,
    adapter: Mapping[str, Any],
    result: Mapping[str, Any] | None,
    base: str | None,
    licence: str | None,
) -> str:
    source = adapter["backbone"]
    found = [] if result is None else [(s, result["metrics"].get(s)) for s in _SPLITS]
    data = None if result is None else Path(result["data"]["path"]).name
    evaluations = [
        EvalResult(
            task_type="image-classification",
            dataset_type=str(data),
            dataset_name=str(data),
            dataset_split=_SPLITS[split],
            metric_type="accuracy",
            metric_value=round(values["accuracy"], 6),
            metric_name=f"accuracy (95 % interval {values['low']:.4f} to {values['high']:.4f}, n = {values['n']})",
        )
        for split, values in found
        if values is not None
    ]
    relation: dict[str, Any] = {} if base is None else {"base_model_relation": "adapter"}
    card = ModelCardData(
        base_model=base,
        library_name="vitune",
        license=licence,
        pipeline_tag="image-classification",
        tags=[
            "vitune",
            *([] if source is None else [source["library"]]),
            *(m["name"] for m in adapter["methods"]),
        ],
        metrics=["accuracy"] if evaluations else None,
        model_name=name if evaluations else None,
        eval_results=evaluations or None,
        **relation,
    )
    return card.to_yaml().strip()


def _results(result: Mapping[str, Any]) -> str:
    rows = [
        (
            _SPLITS[split],
            f"{100 * values['accuracy']:.1f} %",
            f"{100 * values['low']:.1f} to {100 * values['high']:.1f} %",
            str(values["n"]),
            f"{values['loss']:.3f}",
        )
        for split, values in ((s, result["metrics"].get(s)) for s in _SPLITS)
        if values is not None
    ]
    if not rows:
        return "Nothing was evaluated."
    table = _table(("split", "accuracy", "95 % interval (Wilson)", "images", "loss"), rows)
    return f"{table}\n\nProtocol: {result['protocol']}. Seed {result['seed']}; one run."


def _use(repo: str, source: Mapping[str, Any] | None) -> str:
    weights = None if source is None else source["weights"]
    file = weights if weights not in (None, "pretrained", "random") else None
    python = f', weights="{file}"' if file else ""
    words = f" --weights {file}" if file else ""
    text = (
        "```python\nimport vitune\n\n"
        f'tuned = vitune.load("hf-hub:{repo}"{python})\n'
        "scores = tuned(images)  # (B, 3, height, width) to (B, classes); see tuned.preprocessing, tuned.class_names\n"
        "```\n\n```\n"
        f"vitune predict hf-hub:{repo} IMAGE{words}\n"
        f"vitune merge hf-hub:{repo} --output plain.safetensors{words}\n```"
    )
    if file:
        text += f"\n\nThe backbone's weights, `{file}`, are no part of this repository; loading checks their hash."
    if source is not None and source["weights"] == "random":
        text += "\n\nThe backbone started from random weights that were not kept, so that loading refuses any other."
    return text


def _classes(adapter: Mapping[str, Any]) -> str:
    return "without a head" if adapter["num_classes"] is None else f"{adapter['num_classes']} classes"


def _data(adapter: Mapping[str, Any], result: Mapping[str, Any] | None) -> str:
    lines = []
    if result is not None:
        data = result["data"]
        sizes = [
            f"{data[split]:,} {split}" for split in ("train", "val", "test") if data.get(split) is not None
        ]
        lines.append(f"`{Path(data['path']).name}` ({data['kind']}): {', '.join(sizes)} images.")
    names: Sequence[str] = adapter["class_names"] or ()
    if names:
        more = f" and {len(names) - _CLASSES} more" if len(names) > _CLASSES else ""
        lines.append(f"Classes: {', '.join(names[:_CLASSES])}{more}.")
    shown = adapter["preprocessing"]
    if shown is not None:
        lines.append(f"Preprocessing: `{json.dumps(shown)}`.")
    return "\n\n".join(lines) or "Unknown."


def _settings(
    adapter: Mapping[str, Any], result: Mapping[str, Any] | None, training: Mapping[str, Any] | None
) -> str:
    text = json.dumps({m["name"]: m["settings"] for m in adapter["methods"]})
    if len(text) > 2000:  # what a method found in the data
        text = ", ".join(m["name"] for m in adapter["methods"]) + "; see adapter_config.json"
    lines = [f"- method: `{text}`"]
    if result is not None:
        lines.append(f"- learning rate: {result['lr']:g}")
    lines += [
        f"- {name}: {training[name]}" for name in _TRAINING if training is not None and name in training
    ]
    lines.append(f"- versions: {', '.join(f'{n} {v}' for n, v in adapter['versions'].items())}")
    lines.append(f"- SHA-256 of the frozen backbone: `{adapter['frozen_sha256']}`")
    return "\n".join(lines)


def _costs(result: Mapping[str, Any]) -> str:
    full = result.get("full_finetuning") or {}
    rows = [
        (words, unit(result["costs"].get(key)), unit(full.get(key)))
        for key, (words, unit) in _COSTS.items()
        if result["costs"].get(key) is not None
    ]
    text = _table(("", "this adapter", "full fine-tuning"), rows)
    step, machine = result["costs"].get("step_seconds"), (result.get("environment") or {}).get("machine")
    if step is not None and machine:
        text += f"\n\nA training step took {seconds(step)} (median) on {machine}."
    return text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
