"""`vitune push` as a user meets it; nothing leaves the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import FinishedRun, Refused, Run


def test_a_dry_run_says_what_it_wrote(run: Run, finished: FinishedRun) -> None:
    outcome = run("push", finished.directory, "someone/small-ssf", "--dry-run", "--license", "mit")
    assert outcome.code == 0, outcome.err
    first, second = outcome.out.splitlines()
    assert first.startswith("wrote small-ssf: README.md (")
    assert second == "nothing was uploaded; without --dry-run it is"
    card = Path("small-ssf/README.md").read_text()
    assert card.startswith("---\n")
    assert "license: mit\n" in card
    assert "# small-ssf" in card


def test_mistakes_are_one_sentence(
    refused: Refused, finished: FinishedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "is no name of a repository on the hub" in refused("push", finished.directory, "small")
    assert "there is no run directory 'nowhere'" in refused("push", "nowhere", "someone/small")
    sentence = refused("push", finished.directory, "someone/small", "--out", "kept")
    assert sentence == (
        "the hub cannot be reached; push again with a network, or write the folder alone with --dry-run."
    )
    sentence = refused("merge", "hf-hub:someone/none", "--output", "plain.safetensors")
    assert sentence.startswith("the adapter 'hf-hub:someone/none' cannot be fetched (")
