from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vitune.errors import RunError
from vitune.training.checkpoint import STATE_FILE, TENSORS_FILE, Checkpoint, load_checkpoint, save_checkpoint

STATE = {"lr": 0.1, "history": [{"epoch": 1, "loss": 1 / 3}], "name": None}


def tensors(value: float = 1.0) -> dict[str, torch.Tensor]:
    return {"a": torch.full((2, 3), value), "b": torch.tensor(3), "c": torch.ones(2, dtype=torch.bfloat16)}


def loaded(directory: Path) -> Checkpoint:
    checkpoint = load_checkpoint(directory)
    assert checkpoint is not None
    return checkpoint


def test_what_was_saved_comes_back(tmp_path: Path):
    path = save_checkpoint(tmp_path / "deep" / "checkpoint", 48, tensors(), STATE)
    assert path.name == "step-00000048"
    checkpoint = loaded(path.parent)
    assert checkpoint.step == 48
    assert checkpoint.state == STATE
    assert checkpoint.tensors.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert checkpoint.tensors[name].dtype == tensor.dtype
        assert torch.equal(checkpoint.tensors[name], tensor)


def test_there_is_nothing_in_a_folder_that_is_empty_or_absent(tmp_path: Path):
    assert load_checkpoint(tmp_path) is None
    assert load_checkpoint(tmp_path / "absent") is None


def test_tensors_may_share_memory_and_be_strided(tmp_path: Path):
    base = torch.arange(12.0).view(3, 4)
    given = {
        "base": base,
        "same": base,
        "row": base[1],
        "turned": base.t(),
        "parameter": torch.nn.Parameter(base),
    }
    save_checkpoint(tmp_path, 1, given, {})
    for name, tensor in loaded(tmp_path).tensors.items():
        assert torch.equal(tensor, given[name])


def test_older_steps_and_stale_temporaries_go_once_a_new_one_is_there(tmp_path: Path):
    save_checkpoint(tmp_path, 1, tensors(), {})
    (tmp_path / ".tmp-step-00000007-1").mkdir()
    (tmp_path / ".tmp-step-00000007-1" / TENSORS_FILE).write_bytes(b"half")
    assert loaded(tmp_path).step == 1
    save_checkpoint(tmp_path, 2, tensors(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]


def test_the_last_few_can_be_kept(tmp_path: Path):
    for step in (1, 2, 10, 100000000):
        save_checkpoint(tmp_path, step, tensors(step), {}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000010", "step-100000000"]
    assert loaded(tmp_path).step == 100000000


def test_a_step_can_be_saved_again_and_the_later_one_counts(tmp_path: Path):
    for value in (1.0, 2.0, 3.0):
        save_checkpoint(tmp_path, 5, tensors(value), {"value": value})
        assert len(list(tmp_path.iterdir())) == 1
        assert loaded(tmp_path).state == {"value": value}
        assert torch.equal(loaded(tmp_path).tensors["a"], tensors(value)["a"])


def test_changed_tensors_are_refused(tmp_path: Path):
    path = save_checkpoint(tmp_path, 1, tensors(), {})
    data = bytearray((path / TENSORS_FILE).read_bytes())
    data[-1] ^= 1
    (path / TENSORS_FILE).write_bytes(data)
    with pytest.raises(RunError, match=rf"{path} is corrupt: {TENSORS_FILE} does not have the sha256"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (STATE_FILE, '{"format": 1, ', "JSONDecodeError"),
        (STATE_FILE, '{"format": 1}', "KeyError: 'sha256'"),
        (STATE_FILE, "[]", "TypeError"),
        (STATE_FILE, None, "No such file or directory"),
        (TENSORS_FILE, None, "No such file or directory"),
    ],
)
def test_a_damaged_folder_is_named(tmp_path: Path, name: str, content: str | None, reason: str):
    path = save_checkpoint(tmp_path, 1, tensors(), {})
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_text(content)
    with pytest.raises(RunError, match=rf"{path} is corrupt \({reason}.*delete that folder"):
        load_checkpoint(tmp_path)


def test_another_format_is_refused(tmp_path: Path):
    path = save_checkpoint(tmp_path, 1, tensors(), {})
    header = json.loads((path / STATE_FILE).read_text())
    (path / STATE_FILE).write_text(json.dumps({**header, "format": 99}))
    with pytest.raises(RunError, match="has format 99, this version of vitune reads 1"):
        load_checkpoint(tmp_path)


def test_state_that_is_no_json_leaves_nothing_behind(tmp_path: Path):
    save_checkpoint(tmp_path, 1, tensors(), {"step": 1})
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_checkpoint(tmp_path, 2, tensors(), {"bad": object()})  # pyright: ignore[reportArgumentType]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_file_in_the_place_of_the_folder_is_one_sentence(tmp_path: Path):
    (tmp_path / "checkpoint").write_text("")
    with pytest.raises(RunError, match=r"step 3 could not be written to .*checkpoint \(File exists\)"):
        save_checkpoint(tmp_path / "checkpoint", 3, tensors(), {})


# One process is made for all of these, since it has to import torch; it forks for every death.
_DEATHS = """
import os, resource, signal, sys
from pathlib import Path
import torch
from vitune.errors import RunError
from vitune.training import checkpoint as module

root = Path(sys.argv[1])
real = {name: getattr(module, name) for name in ("save_file", "flush_file", "flush_folder")}
real_replace = os.replace

def die(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)

def half_written(tensors, path):
    real["save_file"](tensors, path)
    os.truncate(path, 100)
    die()

def die_at_the_old_step(path, **keywords):
    if path.name == "step-00000001":
        die()

moments = {
    "tensors_half_written": lambda: setattr(module, "save_file", half_written),
    "tensors_written": lambda: setattr(module, "flush_file", die),
    "before_rename": lambda: setattr(os, "replace", die),
    "after_rename": lambda: setattr(os, "replace", lambda a, b: (real_replace(a, b), die())),
    "before_old_is_deleted": lambda: setattr(module.shutil, "rmtree", die_at_the_old_step),
}
for name, arm in moments.items():
    directory = root / name
    module.save_checkpoint(directory, 1, {"a": torch.ones(1000)}, {"step": 1})
    child = os.fork()
    if child == 0:
        arm()
        module.save_checkpoint(directory, 2, {"a": torch.zeros(1000)}, {"step": 2})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, name

directory = root / "full_disk"
module.save_checkpoint(directory, 1, {"a": torch.ones(1000)}, {"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))
try:
    module.save_checkpoint(directory, 2, {"a": torch.zeros(1000)}, {"step": 2})
except RunError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    root = tmp_path_factory.mktemp("deaths")
    done = subprocess.run(
        [sys.executable, "-c", _DEATHS, str(root)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return root, done.stdout


@pytest.mark.parametrize(
    ("moment", "step"),
    [
        ("tensors_half_written", 1),
        ("tensors_written", 1),
        ("before_rename", 1),
        ("after_rename", 2),
        ("before_old_is_deleted", 2),
    ],
)
def test_kill_minus_9_inside_a_save_leaves_a_complete_checkpoint(
    deaths: tuple[Path, str], moment: str, step: int
):
    directory = deaths[0] / moment
    checkpoint = loaded(directory)
    assert checkpoint.step == step
    assert checkpoint.state == {"step": step}
    assert torch.equal(checkpoint.tensors["a"], torch.full((1000,), 2.0 - step))
    save_checkpoint(directory, 3, {}, {})
    assert [path.name for path in directory.iterdir()] == ["step-00000003"]


def test_a_full_disk_leaves_the_last_checkpoint_and_is_one_sentence(deaths: tuple[Path, str]):
    root, output = deaths
    assert len(output.splitlines()) == 1
    assert "The checkpoint of step 2 could not be written" in output
    assert "File too large" in output
    assert "free space there, then resume" in output
    assert loaded(root / "full_disk").step == 1
    assert [path.name for path in (root / "full_disk").iterdir()] == ["step-00000001"]
