from __future__ import annotations

import pytest
from tests.shared import ROOT, need_shared, shared_folder


def test_folder_beside_the_repository_unless_named(monkeypatch, tmp_path):
    monkeypatch.delenv("VITUNE_SHARED", raising=False)
    assert shared_folder() == (ROOT.parent / "shared").resolve()
    monkeypatch.setenv("VITUNE_SHARED", str(tmp_path))
    assert shared_folder() == tmp_path.resolve()


def test_what_is_not_there_skips_with_the_reason_or_fails_where_it_must_be_there(monkeypatch, tmp_path):
    monkeypatch.setenv("VITUNE_SHARED", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.delenv("VITUNE_REQUIRE_SHARED", raising=False)
    assert need_shared("here") == tmp_path.resolve() / "here"
    with pytest.raises(pytest.skip.Exception, match=r"there' is not there; VITUNE_SHARED names the folder"):
        need_shared("there")
    monkeypatch.setenv("VITUNE_REQUIRE_SHARED", "1")
    with pytest.raises(
        pytest.fail.Exception, match=r"there' is not there.* VITUNE_REQUIRE_SHARED=1 asks for it"
    ):
        need_shared("there")
