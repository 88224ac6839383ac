"""From a pre-training run to the files of a backbone in the package: weights, card, and a page for people."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from vitune.backbones import BUILT_IN
from vitune.durable import replace_file
from vitune.errors import ConfigError, RunError
from vitune.training.pretrain_card import CARD_FILE
from vitune.training.pretrain_model import WEIGHTS_FILE
from vitune.training.pretrain_readme import readme

# Arguments that matter while training only, and so do not belong to the architecture.
_TRAINING_ARGUMENTS = ("drop_rate", "drop_path_rate", "pos_drop_rate", "proj_drop_rate", "attn_drop_rate")
_LARGEST_FILE_BYTES = 12 * 1024 * 1024


def export_backbone(run: Path, destination: Path, name: str = BUILT_IN) -> Path:
    """Write `NAME.safetensors`, `NAME.json` and `README.md` from a run, finished or not.

    Args:
        run: A directory of `vitune pretrain` that has validated at least once.
        destination: The folder to write to, for the built-in backbone that of `vitune.backbones`.
        name: Name of the backbone.

    Returns:
        The card.

    Raises:
        RunError: If the run has no weights yet, or they are not those of its card.
        ConfigError: If the model is no plain VisionTransformer, or too large for a package.
    """
    try:
        card = json.loads((run / CARD_FILE).read_text(encoding="utf-8"))
        data = (run / WEIGHTS_FILE).read_bytes()
    except (OSError, json.JSONDecodeError) as error:
        raise RunError(
            f"{run} has no weights and card yet; they are written after the first epoch."
        ) from error
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise RunError(f"The weights in {run} are not those of its card; if the run goes on, try again.")
    if len(data) > _LARGEST_FILE_BYTES:
        raise ConfigError(
            f"The weights in {run} have {len(data)} bytes; at most {_LARGEST_FILE_BYTES} go in."
        )
    card["architecture"] = _architecture(run, card)
    card = {"format": card.pop("format"), "name": name, **card, "bytes": len(data)}
    trained_on_cpu = any(stage.get("device_type") == "cpu" for stage in card["stages"])
    card["interim"] = trained_on_cpu
    if trained_on_cpu:
        card["note"] = "Trained on a CPU for a short time, to be replaced by a longer training on a GPU."
    destination.mkdir(parents=True, exist_ok=True)
    replace_file(destination / f"{name}.safetensors", lambda path: shutil.copyfile(run / WEIGHTS_FILE, path))
    text, page = json.dumps(card, indent=2) + "\n", readme(card)
    replace_file(destination / f"{name}.json", lambda path: path.write_text(text, encoding="utf-8"))
    replace_file(destination / "README.md", lambda path: path.write_text(page, encoding="utf-8"))
    return destination / f"{name}.json"


def _architecture(run: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Arguments with which VisionTransformer itself, without timm's name, makes the same function."""
    made = card["architecture"]
    model: Any = timm.create_model(made["arch"], num_classes=card["num_classes"], **made["model_args"])
    if type(model) is not VisionTransformer:
        raise ConfigError(
            f"'{made['arch']}' is a {type(model).__name__}; only a VisionTransformer can be built in."
        )
    shape: Any = model
    rest = {key: value for key, value in made["model_args"].items() if key not in _TRAINING_ARGUMENTS}
    architecture = {
        **rest,
        "img_size": model.patch_embed.img_size[0],
        "patch_size": model.patch_embed.patch_size[0],
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": shape.blocks[0].attn.num_heads,
    }
    plain = VisionTransformer(num_classes=card["num_classes"], **architecture)
    weights = load_file(run / WEIGHTS_FILE)
    image = torch.randn(2, 3, *model.patch_embed.img_size, generator=torch.Generator().manual_seed(0))
    logits = []
    for candidate in (model, plain):
        try:
            candidate.load_state_dict(weights)
        except RuntimeError as error:
            raise ConfigError(f"The weights in {run} do not fit the architecture {architecture}.") from error
        logits.append(_logits(candidate, image))
    if not torch.equal(*logits):
        raise ConfigError(
            f"'{made['arch']}' is not the plain VisionTransformer with {architecture}; "
            "give what differs in model_args."
        )
    return architecture


@torch.inference_mode()
def _logits(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return model.eval()(image)
