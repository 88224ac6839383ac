"""Read what `test_new_process` saved; one JSON list of what was found. `python -m tests.contract.read_back FOLDER`"""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import vitune
from tests.contract.families import FAMILIES, backbone, images


def main(folder: Path) -> None:
    found = [
        read(folder, i, family)
        for i, (_, family) in enumerate(json.loads((folder / "cases.json").read_text()))
    ]
    print(json.dumps(found))


def read(folder: Path, index: int, family: str) -> dict[str, Any]:
    # The pickle comes first: it must not need what loading an adapter imports.
    pickled = pickle.loads((folder / f"{index}.pickle").read_bytes())
    expected = load_file(folder / f"{index}.safetensors")["scores"]
    rebuilt = "rebuilt" in FAMILIES[family].features
    if rebuilt:
        loaded = vitune.load(folder / str(index), weights=folder / f"{family}.safetensors")
    else:
        loaded = vitune.load(folder / str(index), model=backbone(family))
    return {
        "rebuilt": rebuilt,
        "adapter": compare(loaded, expected, family),
        "pickle": compare(pickled, expected, family),
        "class_names": loaded.class_names,
    }


def compare(tuned: vitune.Tuned, expected: torch.Tensor, family: str) -> str:
    with torch.no_grad():
        scores = tuned(images(family))
    return "equal" if torch.equal(scores, expected) else f"differs by {(scores - expected).abs().max():.1e}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
