from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from vitune.errors import RunError
from vitune.report import read_run, write_report

from .fake_run import make_run
from .pictures.small import jpeg


def values(**changes: Any) -> dict[str, Any]:
    image = {"name": "a.png", "label": 0, "predicted": 1, "jpeg": jpeg()}
    layers = [{"role": "blocks.0.mlp.around", "kept": ["0110"]}]
    kept = {"when": "evaluation", "grid": [2, 2], "layers": layers}
    pictures = [{"method": "dyt", "kind": "kept_patches", "values": kept}]
    return {"format": 1, "split": "val", "images": [image], "pictures": pictures} | changes


def write(folder: Path, found: dict[str, Any]) -> Path:
    run = make_run(folder / "run", images=20, epochs=2)
    (run / "pictures.json").write_text(json.dumps(found))
    return run


def test_pictures_are_read_and_shown_once_per_run(tmp_path):
    run = write(tmp_path, values())
    found = read_run(run).pictures
    assert found is not None
    assert (found.split, found.images[0].name, found.images[0].predicted) == ("val", "a.png", 1)
    assert len(found.values_of("kept_patches")) == 1
    page = write_report([run], tmp_path / "one.html").read_text()
    assert page.count('id="run-did"') == page.count('href="#run-did"') == 1
    assert page.count("Which patches were kept</figcaption>") == 1
    both = write_report([run, run], tmp_path / "two.html").read_text()
    ids = re.findall(r' id="([^"]+)"', both)
    assert len(ids) == len(set(ids))
    assert {"run-1-kept-0-0", "run-2-kept-0-0"} <= set(ids)


def test_a_run_without_pictures_has_no_section(tmp_path):
    page = write_report([make_run(tmp_path / "run", images=20, epochs=2)], tmp_path / "one.html").read_text()
    assert "What the method did" not in page


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (values(format=2), "has format 2, but this version of vitune reads format 1"),
        (values(images=[{"jpeg": "AAAA"}]), "'images[0].jpeg' should be a JPEG picture in base64"),
        (values(images=[{"jpeg": '"><script>'}]), "'images[0].jpeg' should be a JPEG picture in base64"),
        (values(pictures=[1]), "'pictures[0]' should be an object"),
    ],
)
def test_a_file_that_cannot_be_read(found, message, tmp_path):
    with pytest.raises(RunError, match=re.escape(message)):
        read_run(write(tmp_path, found))
