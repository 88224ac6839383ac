"""Two phases: modules trained on one data set, then the start on another."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from safetensors.torch import load_file

from vitune.adapters import read_modules
from vitune.errors import AdapterError, ConfigError
from vitune.tasks.assembly import assemble
from vitune.tasks.classification import pretrain_modules, resume_modules, train
from vitune.training import Event

from .conftest import small_request

METHOD = "lora(rank=2)"


@pytest.fixture(scope="module")
def modules(colours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("phase1") / "run"
    result = pretrain_modules(small_request(colours, out, method=METHOD))
    assert result.path == out / "modules.safetensors"
    assert result.next_commands == (
        f"vitune train DATA --method 'lora(rank=2)' --init-modules {result.path}",
    )
    assert result.accuracy == result.run.result["metrics"]["val"]["accuracy"]
    return result.path


def two_colours(colours: Path, folder: Path) -> Path:
    """Another task: fewer classes."""
    root = folder / "two"
    for split in ("train", "val"):
        (root / split).mkdir(parents=True)
        for name in ("blue", "red"):
            (root / split / name).symlink_to(colours / split / name)
    return root


def test_the_file_holds_the_modules_of_the_run(modules: Path) -> None:
    found = read_modules(modules)
    adapter = load_file(modules.parent / "adapter_model.safetensors")
    assert found.tensors.keys() == {name for name in adapter if not name.startswith("head.")}
    assert all(tensor.equal(adapter[name]) for name, tensor in found.tensors.items())
    assert found.header["data"] == "colours"


def test_another_task_starts_from_them(modules: Path, colours: Path, tmp_path: Path) -> None:
    data = two_colours(colours, tmp_path)
    request = small_request(data, tmp_path / "run", method=METHOD, init_modules=modules)
    started = assemble(request).tuned
    roles = {started.anatomy.role_of(name): tensor for name, tensor in started.state().items()}
    for role, tensor in read_modules(modules).tensors.items():
        assert roles[role].equal(tensor)
    plain = assemble(dataclasses.replace(request, init_modules=None)).tuned
    assert started.model.head.weight.equal(plain.model.head.weight)  # type: ignore[union-attr, operator]
    events: list[Event] = []
    result = train(request, on_event=events.append)
    assert result.status == "finished"
    assert not [event for event in events if event.kind == "warning"]


def test_a_finished_run_gives_its_modules_again(modules: Path) -> None:
    before = read_modules(modules)
    modules.unlink()
    assert resume_modules(modules.parent).path == modules
    after = read_modules(modules)
    assert after.header == before.header
    assert all(tensor.equal(before.tensors[name]) for name, tensor in after.tensors.items())


def test_what_differs_and_may_is_said(colours: Path, tmp_path: Path) -> None:
    first = pretrain_modules(small_request(colours, tmp_path / "one", method="vpt(prompts=2)"))
    events: list[Event] = []
    request = small_request(colours, tmp_path / "two", method="vpt(prompts=3)", init_modules=first.path)
    train(request, on_event=events.append)
    (note,) = [event.values["message"] for event in events if event.kind == "warning"]
    assert note.endswith("have 2 prompts and this run 3; the other 1 start as usual.")


@pytest.mark.parametrize(
    ("method", "error", "message"),
    [
        ("bitfit", AdapterError, "the modules of 'bitfit' cannot be pre-trained"),
        ("lora,ssf", ConfigError, "modules are pre-trained for one method at a time, not for 'lora,ssf'"),
    ],
)
def test_refused_before_anything_is_written(method, error, message, colours: Path, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        pretrain_modules(small_request(colours, tmp_path / "run", method=method))
    assert not (tmp_path / "run").exists()


def test_modules_that_do_not_fit_are_refused_before_anything_is_written(
    modules: Path, colours: Path, tmp_path: Path
) -> None:
    request = small_request(colours, tmp_path / "run", method="lora(rank=3)", init_modules=modules)
    with pytest.raises(AdapterError, match="were trained with rank 2 and this run asks for 3"):
        train(request)
    assert not (tmp_path / "run").exists()
