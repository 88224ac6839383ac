"""Every command and the Python example of the README, run on small data, and the links of all documents."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from vitune.cli.application import app
from vitune.methods import parse
from vitune.methods.parse import split_alternatives

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/**/*.md")])

# No network in tests: names whose weights would be downloaded are replaced by the built-in backbone.
NEEDS_DOWNLOAD = {"--model vit_base_patch16_224.augreg_in21k ": ""}


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [text for found, text in fenced if found == language]


def commands(language: str = "") -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks(language) for line in block.splitlines()]
    return [line for line in lines if line.startswith("vitune ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `flowers/` (three splits, two classes) and `photo.jpg`."""
    root = tmp_path_factory.mktemp("readme")
    noise = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4), ("test", 4)):
        for name, level in (("daisy", 60), ("tulip", 190)):
            target = root / "flowers" / split / name
            target.mkdir(parents=True)
            for i in range(count):
                pixels = (level + noise.normal(0, 30, (32, 32, 3))).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(target / f"{i}.png")
    Image.fromarray(np.full((40, 30, 3), 190, np.uint8)).save(root / "photo.jpg")
    return root


@pytest.mark.timeout(900)  # a dozen commands, each of which starts the framework anew
def test_the_commands_run_in_the_order_of_the_readme(folder: Path) -> None:
    found = commands()
    assert len(found) == 11
    for number, command in enumerate(found):
        for name, replacement in NEEDS_DOWNLOAD.items():
            command = command.replace(name, replacement)
        words = shlex.split(command)
        if words[1] == "train" and "--resume" not in words:
            words += ["--epochs", "1", "--batch-size", "4", "--workers", "0"]
            words += [] if "--out" in words else ["--out", f"runs/flowers-{number}"]
        words[:1] = [sys.executable, "-m", "vitune"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert (folder / "flowers.safetensors").is_file()
    assert (folder / "runs" / "flowers" / "report.html").is_file()


@pytest.mark.parametrize("command", commands("sh"))
def test_the_longer_commands_name_verbs_and_options_that_there_are(command: str) -> None:
    _, verb, *words = shlex.split(command)
    parameters = typer.main.get_command(app).commands[verb].params  # pyright: ignore[reportAttributeAccessIssue]
    options = {flag for parameter in parameters for flag in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    pairs = list(itertools.pairwise(words))
    listed = [each for flag, word in pairs if flag == "--methods" for each in split_alternatives(word)]
    for method in (*listed, *(word for flag, word in pairs if flag == "--method")):
        parse(method)


def test_the_python_example_runs(folder: Path) -> None:
    (example,) = blocks("python")
    assert "pretrained=True" in example
    training = "images, labels = torch.randn(2, 3, 224, 224), torch.tensor([0, 1])\n"
    training += "torch.nn.functional.cross_entropy(tuned(images), labels).backward(); optimizer.step()"
    example = example.replace("pretrained=True", "pretrained=False").replace("...  ", training + "  ")
    plain = 'again = vitune.load("runs/mine", model=model)'  # its random weights are nowhere to be found
    example = example.replace("plain = tuned.merge()", "tuned.detach()  ")
    example = example.replace('again = vitune.load("runs/mine")', plain)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=folder, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "LoRA on VisionTransformer" in done.stdout


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^make (\w+)", "\n".join(blocks("")), flags=re.MULTILINE))
    assert targets == {"demo", "test"}
    for target in targets:
        assert re.search(rf"^({target}|{target} \w+):", makefile, flags=re.MULTILINE), target
