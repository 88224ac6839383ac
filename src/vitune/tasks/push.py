"""Publish a run's adapter on the Hugging Face hub, with a card."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError

from vitune.adapters import copy_for_others
from vitune.backbones.hub import quick_hub
from vitune.backbones.messages import sentence
from vitune.durable import new_folder, replace_file
from vitune.errors import RunError
from vitune.tasks import run_directory
from vitune.tasks.model_card import model_card

CARD = "README.md"
RESULT = "result.json"


@dataclass(frozen=True)
class PushResult:
    """What was published.

    Attributes:
        repo: `OWNER/NAME`.
        url: Where it is; None after a dry run.
        folder: The folder that was kept to be looked at.
        files: Names of its files, and their sizes in bytes.
    """

    repo: str
    url: str | None
    folder: Path | None
    files: dict[str, int]


def push(
    run: Path,
    repo: str,
    *,
    private: bool = False,
    licence: str | None = None,
    out: Path | None = None,
    dry_run: bool = False,
) -> PushResult:
    """Write adapter and card into a folder and upload it; nothing is uploaded before all of it is written.

    Args:
        run: A run directory, or one with an adapter.
        repo: `OWNER/NAME` on the hub; made if it is not there.
        private: Whether only the owner may see it.
        licence: Licence of the adapter, as the hub spells it (`apache-2.0`).
        out: Keep the folder here; it must not exist.
        dry_run: Upload nothing; without `out` the folder is named as the repository.

    Raises:
        RunError: If the name is no name, the folder exists, or the hub cannot be reached or refuses.
        AdapterError: If the adapter is missing or damaged.
    """
    _check_name(repo)
    if dry_run and out is None:
        out = Path(repo.rpartition("/")[2])
    if out is not None and out.exists():
        raise RunError(f"'{out}' exists already; choose another folder with --out, or delete it.")
    if not run.is_dir():
        raise RunError(f"there is no run directory '{run}'.")
    with _folder(out) as folder:
        adapter = copy_for_others(run, folder)
        finished, config = run / RESULT, run / run_directory.CONFIG_FILE
        result = run_directory.read_json(finished) if finished.is_file() else None
        training = run_directory.read_json(config).get("training") if config.is_file() else None
        text = model_card(repo, adapter, result, training, licence)
        replace_file(folder / CARD, lambda path: path.write_text(text))
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        url = None if dry_run else _upload(folder, repo, private)
    return PushResult(repo, url, out, files)


def _check_name(repo: str) -> None:
    try:
        huggingface_hub.utils.validate_repo_id(repo)
        valid = repo.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise RunError(f"'{repo}' is no name of a repository on the hub; give OWNER/NAME.")


@contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """A folder to fill; where it is to be kept, it appears under its name when it is full."""
    if out is not None and not out.absolute().parent.is_dir():
        raise RunError(f"cannot write '{out}': the directory '{out.absolute().parent}' does not exist.")
    with tempfile.TemporaryDirectory() if out is None else new_folder(out) as folder:
        yield Path(folder)


def _upload(folder: Path, repo: str, private: bool) -> str:
    with quick_hub():
        if constants.HF_HUB_OFFLINE:
            raise RunError(
                "the hub cannot be reached; push again with a network, or write the folder alone with --dry-run."
            )
        if huggingface_hub.get_token() is None:
            raise RunError(
                "there is no token of the hub; log in with 'hf auth login' or set HF_TOKEN, or write the folder alone "
                "with --dry-run."
            )
        api = huggingface_hub.HfApi()
        try:
            api.create_repo(repo, private=private, exist_ok=True)
            if private and not api.repo_info(repo).private:
                raise RunError(
                    f"'{repo}' exists and is public; make it private on the hub, or choose another name."
                )
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload adapter")
        except RunError:
            raise
        except Exception as error:  # a refusal shows as any of a dozen classes
            raise RunError(
                f"the hub did not take '{repo}' ({sentence(error)}); look at the name and at the rights of the token."
            ) from error
    return f"{constants.ENDPOINT}/{repo}"
