"""Who may import whom: docs/design.md says it, this test holds it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src/vitune"

# What the picture leaves out, and the level it stands on.
BESIDE = {"_extras": "errors", "durable": "errors", "randomness": "errors", "tuned": "methods"}
BESIDE |= {
    "backbones": "adapters",
    "recipes": "tasks",
    "suites": "tasks",
    "ops": "anatomy",
    "interop": "training",
}
# Imports between two packages of one level.
SIDEWAYS = {
    ("tuned", "methods"),
    ("adapters", "backbones"),
    ("bench", "tasks"),
    ("bench", "report"),
    ("tasks", "report"),
    ("tasks", "recipes"),
    ("suites", "tasks"),
    ("bench", "suites"),
    ("interop", "training"),
    ("_extras", "errors"),
    ("durable", "errors"),
    ("randomness", "errors"),
}
# `tuned.save()` and `tuned.merge()` lead to a layer above, inside the functions.
UPWARDS = {("tuned", "adapters")}


def levels() -> dict[str, int]:
    """Package to level, 0 the lowest, from the picture in the design."""
    text = (ROOT / "docs/design.md").read_text()
    picture = re.search(r"^cli -> .*$", text, re.MULTILINE)
    assert picture is not None, "docs/design.md has no line 'cli -> ...'"
    groups = [group.split(",") for group in picture.group().split("->")]
    found = {name.strip(): level for level, group in enumerate(reversed(groups)) for name in group}
    return found | {name: found[other] for name, other in BESIDE.items()}


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of every import that runs, those inside functions too."""
    found = []
    skipped: set[ast.AST] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if node in skipped:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


FILES = sorted(
    path
    for path in SOURCE.rglob("*.py")
    if path.parent != SOURCE or path.stem not in ("__init__", "__main__")
)


def test_every_package_has_a_level():
    known = levels()
    assert len(FILES) > 50
    assert {package_of(path) for path in FILES} <= known.keys()


@pytest.mark.parametrize("package", sorted({package_of(path) for path in FILES}))
def test_imports_go_downwards(package):
    known, wrong = levels(), []
    for path in (path for path in FILES if package_of(path) == package):
        for line, name in imports(path):
            if not name.startswith("vitune.") or name == "vitune.__version__":
                continue
            other = name.split(".")[1]
            if other not in known:
                wrong.append(
                    f"{path.relative_to(ROOT)}:{line}: '{name}' comes through the package's front door"
                )
            elif other != package and not _allowed(package, other, known):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {package} imports {other}")
    assert not wrong, "\n".join(wrong)


def _allowed(package: str, other: str, known: dict[str, int]) -> bool:
    return known[other] < known[package] or (package, other) in SIDEWAYS | UPWARDS


@pytest.mark.parametrize("package", ["methods", "adapters", "tuned", "measure"])
def test_only_anatomy_surgery_and_backbones_know_the_libraries(package):
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in FILES
        if package_of(path) == package
        for line, name in imports(path)
        if name.split(".")[0] in ("timm", "transformers")
    ]
    assert not wrong, "\n".join(wrong)


def test_only_surgery_changes_classes():
    changing = {package_of(path) for path in FILES if re.search(r"__class__\s*=[^=]", path.read_text())}
    assert changing == {"surgery"}


def test_each_layer_stands_alone():
    known = levels()
    present = sorted({package_of(path) for path in FILES}, key=lambda name: known[name])
    program = """
import json, sys
import vitune
found = {"": sorted(sys.modules)}
for name in json.loads(sys.argv[1]):
    __import__(f"vitune.{name}")
    found[name] = sorted(sys.modules)
print(json.dumps(found))
"""
    command = [sys.executable, "-c", program, json.dumps(present)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    loaded = {name: set(modules) for name, modules in json.loads(done.stdout).items()}
    assert not loaded[""] & {"torch", "timm", "transformers", "numpy", "PIL", "typer", "rich"}
    for name in present:
        above = {f"vitune.{other}" for other in present if known[other] > known[name]}
        assert not loaded[name] & above, f"importing vitune.{name} imports a layer above it"
    # Heavy optional libraries come when they are needed, not at import.
    assert not loaded[present[-1]] & {"transformers", "pyarrow", "sklearn", "tensorboard"}


def test_public_names_are_all_there():
    import vitune

    for name in vitune.__all__:
        assert getattr(vitune, name) is not None
    assert set(vitune.__all__) <= set(dir(vitune))
    with pytest.raises(AttributeError, match="module 'vitune' has no attribute 'nothing'"):
        _ = vitune.nothing
