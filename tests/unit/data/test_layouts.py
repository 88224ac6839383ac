from __future__ import annotations

import pytest

from vitune.data.imagenet import restricted_ids, wordnet_ids
from vitune.data.layouts import LAYOUTS, missing
from vitune.errors import ConfigError


def make_folders(root, names):
    for name in names:
        (root / name).mkdir(parents=True)
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_there(layout, tmp_path):
    lacks = missing(layout, tmp_path / "none")
    if layout == "digits":
        assert lacks == []
    else:
        assert len(lacks) >= 1
        assert all(sentence.endswith(".") and str(tmp_path) in sentence for sentence in lacks)
        assert lacks[0].startswith("there is no folder '")


def test_unknown_layouts_and_options(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no layout 'domain'\. Did you mean 'domains'\?"):
        missing("domain", tmp_path)
    with pytest.raises(
        ConfigError, match="the layout 'domains' has no option 'shots'; it has: domains, classes"
    ):
        missing("domains", tmp_path, shots=[1])
    with pytest.raises(ConfigError, match="the layout 'imagenet-a' has no option 'name'; it has none"):
        missing("imagenet-a", tmp_path, name="x")


def test_digits_need_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setattr("vitune.data.layouts.find_spec", lambda name: None)
    assert missing("digits", tmp_path) == [
        "the digits are those of scikit-learn, which is not installed: pip install 'vitune[demo]'."
    ]


def test_folders(tmp_path, class_folders):
    class_folders(tmp_path / "train")
    assert missing("folder", tmp_path) == [f"'{tmp_path}' has no folder 'test' of class folders."]
    class_folders(tmp_path / "test")
    assert missing("folder", tmp_path, classes=2) == []
    assert missing("folder", tmp_path, classes=10) == [
        f"the training images of '{tmp_path}' have 2 classes, expected 10."
    ]
    (tmp_path / "train" / "cow").mkdir()
    assert "cow' holds no image" in missing("folder", tmp_path)[0]


def test_vtab(vtab):
    assert missing("vtab", vtab) == []
    (vtab / "test.txt").unlink()
    assert missing("vtab", vtab) == [f"the list '{vtab / 'test.txt'}' is missing."]
    (vtab / "images" / "0.png").unlink()
    assert "there is no file 'images/0.png'" in missing("vtab", vtab)[1]


def test_few_shot(tmp_path, save):
    lists = tmp_path / "annotations"
    lists.mkdir()
    for name in ("a", "b"):
        save(tmp_path / "images" / f"{name}.png")
    (lists / "train_meta.list.num_shot_1.seed_0").write_text("a.png 0\nb.png 1\n")
    lacks = missing("few-shot", tmp_path, shots=[1, 2], seeds=[0])
    assert lacks == [
        f"'{lists}' has no list train_meta.list.num_shot_2.seed_0.",
        f"'{lists}' has neither test_meta.list nor val_meta.list; there is nothing to test on.",
    ]
    (lists / "test_meta.list").write_text("b.png 1\n")
    assert missing("few-shot", tmp_path, shots=[1], seeds=[0]) == []
    (tmp_path / "images" / "a.png").unlink()
    assert "there is no file 'a.png'" in missing("few-shot", tmp_path, shots=[1], seeds=[0])[0]


def test_imagenet(tmp_path):
    make_folders(tmp_path / "train", wordnet_ids())
    make_folders(tmp_path / "val", wordnet_ids()[5:])
    (lack,) = missing("imagenet", tmp_path)
    assert lack.endswith("/val' lacks 5 of 1000 class folders: n01440764, n01443537, n01484850 and others.")


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r", "imagenet-v2", "imagenet-sketch"])
def test_variants(name, tmp_path):
    ids = sorted(restricted_ids(name)) if name[-2:] in ("-a", "-r") else list(wordnet_ids())
    ids = [str(i) for i in range(1000)] if name == "imagenet-v2" else ids
    make_folders(tmp_path, ids[1:])
    assert missing(name, tmp_path) == [f"'{tmp_path}' lacks 1 of {len(ids)} class folders: {ids[0]}."]
    (tmp_path / ids[0]).mkdir()
    assert missing(name, tmp_path) == []


def test_corruptions(tmp_path, monkeypatch):
    monkeypatch.setattr("vitune.data.imagenet_layouts.wordnet_ids", lambda: ("n1", "n2"))
    for severity in "1234":
        make_folders(tmp_path / "fog" / severity, ("n1", "n2"))
    make_folders(tmp_path / "extra/spatter/1", ("n1",))
    lacks = missing("imagenet-c", tmp_path)
    assert f"'{tmp_path}' lacks the corruption 'fog' in severity 5." in lacks
    assert f"'{tmp_path}' lacks the corruption 'snow'." in lacks
    assert f"'{tmp_path / 'extra/spatter/1'}' lacks 1 of 2 class folders: n2." in lacks
    assert len(lacks) == 16  # 14 whole corruptions, one severity, one class folder
