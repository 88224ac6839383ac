"""Runs as records, with what the pictures are drawn from."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitune.report.fields import Fields
from vitune.report.record import Log, PicturesFile, RunRecord, ShownImage, Step


def jpeg(level: int = 90) -> str:
    """A small picture in base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), level, np.uint8)).save(buffer, format="JPEG")
    return base64.b64encode(buffer.getvalue()).decode()


def shown(number: int) -> tuple[ShownImage, ...]:
    """Images of the classes 0, 1, ..."""
    return tuple(
        ShownImage(f"{i}.png", i, i, f"data:image/jpeg;base64,{jpeg(40 * i)}") for i in range(number)
    )


def run_with(
    kind: str | None = None,
    values: dict[str, Any] | None = None,
    *,
    images: int = 2,
    steps: list[dict[str, Any]] | None = None,
    skipping: dict[str, Any] | None = None,
) -> RunRecord:
    """A run whose pictures.json holds one picture, whose log has these step lines."""
    entries = () if kind is None else ((kind, Fields(values or {}, "pictures.json", "values.")),)
    lines = tuple(Step(line["step"], values=line) for line in steps or ())
    return RunRecord(
        directory=Path("run"),
        name="run",
        method="method",
        log=Log(steps=lines),
        skipping=skipping,
        pictures=PicturesFile("val", shown(images), entries),
        class_names=("<cat & dog>", "bird"),
    )


def add_everything(run: Path) -> Path:
    """Give a run directory all kinds of pictures, as twelve blocks and six images make them."""
    patches, blocks = 64, 12
    random = np.random.default_rng(0)
    layers = [
        {
            "role": f"blocks.{i}.mlp.around",
            "kept": ["".join(map(str, random.integers(0, 2, patches))) for _ in range(6)],
        }
        for i in range(blocks)
    ]
    sites = [
        {
            "role": f"blocks.{i}.middle",
            "scores": random.random(768).round(3).tolist(),
            "chosen": list(range(0, 768, 8)),
        }
        for i in range(blocks)
    ]
    stages = [
        {"stride": 4 * 2**s, "channels": 16, "size": [16 >> s] * 2, "variance_share": 0.4,
         "maps": [random.bytes((16 >> s) ** 2).hex() for _ in range(6)]}
        for s in range(4)
    ]  # fmt: skip
    pruned = {
        "tokens": random.normal(0, 1, 10).round(3).tolist(),
        "segments": random.random((10, 16)).round(3).tolist(),
        "kept_tokens": [1, 0] * 5,
        "kept_segments": [[1, 0] * 8] * 10,
    }
    kinds = {
        "kept_patches": {"when": "evaluation", "grid": [8, 8], "layers": layers},
        "channel_scores": {"sites": sites},
        "pruned_prompts": pruned,
        "pyramid_maps": {"stages": stages},
    }
    images = [{"name": "a" * 90, "label": i, "predicted": i, "jpeg": jpeg(30 * i)} for i in range(6)]
    pictures = [{"method": "m", "kind": kind, "values": values} for kind, values in kinds.items()]
    found = {"format": 1, "split": "val", "images": images, "pictures": pictures}
    (run / "pictures.json").write_text(json.dumps(found))
    lines = [
        {
            "event": "step",
            "step": step,
            "epoch": 1 + step // 50,
            "alast_budgets": random.uniform(0.5, 1, blocks).tolist(),
            "alast_trained": random.permutation(blocks)[:9].tolist(),
            "alast_tokens": [65 - 4 * i for i in range(blocks)],
            "dyt_rates": random.random(blocks).tolist(),
        }
        for step in range(1, 300)
    ]
    log = run / "log.jsonl"
    log.write_text(log.read_text() + "".join(json.dumps(line) + "\n" for line in lines))
    result = json.loads((run / "result.json").read_text())
    rates = {f"blocks.{i}.mlp.around": i / blocks for i in range(blocks)}
    (run / "result.json").write_text(json.dumps(result | {"skipping": {"rates": rates, "images": 64}}))
    return run
