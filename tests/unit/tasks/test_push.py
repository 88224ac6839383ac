"""Pushing an adapter: the folder, its card, and the calls of the hub's client, which is a fake here."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

import vitune
from vitune.adapters import CONFIG, TENSORS
from vitune.errors import AdapterError, RunError
from vitune.tasks.classification import RunResult
from vitune.tasks.push import push

REPO = "someone/colours"


class Hub:
    """Stands for `huggingface_hub.HfApi`: keeps what it is given."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.private, self.error = folder, [], False, None

    def __call__(self) -> Hub:
        return self

    def create_repo(self, repo: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create", repo, private, exist_ok))

    def repo_info(self, repo: str) -> Any:
        return SimpleNamespace(private=self.private)

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        if self.error is not None:
            raise self.error
        self.calls.append(("upload", repo_id, sorted(path.name for path in folder_path.iterdir())))
        shutil.copytree(folder_path, self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub that can be reached, with a token."""
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr("huggingface_hub.HfApi", made)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("vitune.backbones.hub._reachable", lambda: True)
    monkeypatch.chdir(tmp_path)
    return made


def test_pushes_an_adapter_that_loads_again(hub: Hub, run: RunResult, tmp_path: Path) -> None:
    result = push(run.directory, REPO)
    assert hub.calls == [("create", REPO, False, True), ("upload", REPO, ["README.md", CONFIG, TENSORS])]
    assert result.url is not None
    assert result.url.endswith(f"/{REPO}")
    assert result.folder is None
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(vitune.load(hub.folder)(images), vitune.load(run.directory)(images))
    assert [path.name for path in tmp_path.iterdir()] == ["hub"], "something was left over"


def test_the_card_says_what_the_run_found(hub: Hub, run: RunResult, tmp_path: Path) -> None:
    result = push(run.directory, REPO, licence="apache-2.0", out=tmp_path / "kept", dry_run=True)
    assert hub.calls == []
    assert (result.url, result.folder) == (None, tmp_path / "kept")
    assert result.files.keys() == {"README.md", CONFIG, TENSORS}
    card = ModelCard.load(tmp_path / "kept" / "README.md")
    data = card.data
    assert (data.library_name, data.license, data.pipeline_tag) == (
        "vitune",
        "apache-2.0",
        "image-classification",
    )
    assert {"vitune", "timm", "lora"} <= set(data.tags)  # pyright: ignore[reportArgumentType]
    found = {e.dataset_split: e for e in data.eval_results}  # pyright: ignore[reportOptionalIterable]
    metrics = run.result["metrics"]
    assert found.keys() == {"validation", "test"}
    assert found["test"].metric_value == pytest.approx(metrics["test"]["accuracy"], abs=1e-5)
    assert found["test"].dataset_name == "colours"
    low, high = 100 * metrics["test"]["low"], 100 * metrics["test"]["high"]
    assert f"| {low:.1f} to {high:.1f} % | {metrics['test']['n']} |" in card.text
    for words in (
        f'vitune.load("hf-hub:{REPO}")',
        f"vitune predict hf-hub:{REPO} IMAGE",
        "Classes: blue, green, red.",
        "24 train, 12 val, 12 test images",
        '"rank": 2',
        "- learning rate: 0.01",
        "- epochs: 2",
        "| parameters trained |",
    ):
        assert words in card.text, words
    assert str(run.directory.parent) not in card.text


def test_a_card_names_the_backbone_on_the_hub(hub: Hub, tmp_path: Path) -> None:
    import timm

    model = timm.create_model("test_vit.r160_in1k", num_classes=3)
    vitune.apply(model, vitune.SSF()).save(tmp_path / "saved", class_names=("a", "b", "c"))
    push(tmp_path / "saved", REPO)
    data = ModelCard.load(hub.folder / "README.md").data
    assert data.base_model == "timm/test_vit.r160_in1k"
    assert data.to_dict()["base_model_relation"] == "adapter"
    assert data.eval_results is None


def test_private(hub: Hub, run: RunResult) -> None:
    hub.private = True
    push(run.directory, REPO, private=True)
    assert hub.calls[0] == ("create", REPO, True, True)
    hub.private, hub.calls = False, []
    with pytest.raises(
        RunError, match=f"'{REPO}' exists and is public; make it private on the hub, or choose"
    ):
        push(run.directory, REPO, private=True)
    assert [call[0] for call in hub.calls] == ["create"]


def test_a_dry_run_writes_a_folder_of_the_repositorys_name(hub: Hub, run: RunResult, tmp_path: Path) -> None:
    assert push(run.directory, REPO, dry_run=True).folder == Path("colours")
    assert (tmp_path / "colours" / "README.md").is_file()
    with pytest.raises(RunError, match="'colours' exists already; choose another folder with --out"):
        push(run.directory, REPO, dry_run=True)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (
            "vitune.backbones.hub._reachable",
            lambda: False,
            "the hub cannot be reached; push again with a network",
        ),
        (
            "huggingface_hub.get_token",
            lambda: None,
            "there is no token of the hub; log in with 'hf auth login'",
        ),
    ],
)
def test_without_network_or_token(
    where: str,
    value: Any,
    message: str,
    hub: Hub,
    run: RunResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(where, value)
    with pytest.raises(RunError, match=re.escape(message)):
        push(run.directory, REPO, out=tmp_path / "kept")
    assert hub.calls == []
    assert list(tmp_path.iterdir()) == [], "something was written"


def test_a_hub_that_refuses(hub: Hub, run: RunResult, tmp_path: Path) -> None:
    hub.error = PermissionError("403 Forbidden: no write rights. Read the manual.\nRequest ID: 5")
    with pytest.raises(
        RunError,
        match=rf"the hub did not take '{REPO}' \(PermissionError: 403 Forbidden: no write rights\); look at the name",
    ):
        push(run.directory, REPO, out=tmp_path / "kept")
    assert list(tmp_path.iterdir()) == [], "something was written"


@pytest.mark.parametrize("repo", ["colours", "a/b/c", "some one/colours", "someone/", "someone/.git"])
def test_names_that_are_no_repository(repo: str, run: RunResult) -> None:
    with pytest.raises(RunError, match="is no name of a repository on the hub; give OWNER/NAME"):
        push(run.directory, repo)


def test_what_is_no_run(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run directory"):
        push(tmp_path / "none", REPO)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AdapterError, match="no adapter in"):
        push(tmp_path / "empty", REPO, dry_run=True)
    with pytest.raises(RunError, match="does not exist"):
        push(tmp_path / "empty", REPO, out=tmp_path / "none" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
