from __future__ import annotations

import json
from collections import Counter

import pytest

from vitune.data import open_samples, open_source
from vitune.data.domains import missing
from vitune.errors import ConfigError, DataError

DOMAINS = ("art", "photo", "sketch")


@pytest.fixture
def domains(tmp_path, class_folders):
    root = tmp_path / "pacs"
    for domain in DOMAINS:
        class_folders(root / domain, ("dog", "elk", "fox"), count=5)
    return root


def of_domain(samples) -> Counter[str]:
    return Counter(samples.name(i).split("/")[0] for i in range(len(samples)))


def test_train_on_all_others_with_a_validation_part_of_each_domain_and_class(domains):
    source = open_source(domains, test_domain="sketch")
    train, val, test = source.split("train"), source.split("val"), source.open_test("evaluate")
    assert source.kind == "domains"
    assert source.class_names == ("dog", "elk", "fox")
    assert of_domain(train) == {"art": 12, "photo": 12}
    assert of_domain(val) == {"art": 3, "photo": 3}
    assert Counter(val.labels) == {0: 2, 1: 2, 2: 2}
    assert of_domain(test) == {"sketch": 15}
    rule = source.describe()["split"]
    assert (rule["train_domains"], rule["test_domain"]) == (["art", "photo"], "sketch")
    assert rule["classes_lacking"] == {}
    json.dumps(source.describe())


def test_chosen_training_domains_and_shots(domains):
    source = open_source(domains, test_domain="art", train_domains=("photo",), shots=2, val_fraction=0)
    assert of_domain(source.split("train")) == {"photo": 6}
    assert Counter(source.split("train").labels) == {0: 2, 1: 2, 2: 2}


def test_samples_of_a_trained_model_are_split_as_the_source(domains):
    source = open_source(domains, test_domain="photo")
    for split in ("train", "val", "test"):
        samples = open_samples(domains, source.class_names, split, test_domain="photo")
        theirs = source.open_test("evaluate") if split == "test" else source.split(split)
        assert samples.listing.names() == theirs.listing.names()


def test_classes_that_a_domain_lacks_are_named(domains):
    for image in (domains / "photo" / "elk").iterdir():  # an empty folder
        image.unlink()
    for image in (domains / "sketch" / "fox").iterdir():
        image.unlink()
    (domains / "sketch" / "fox").rmdir()  # and no folder
    source = open_source(domains, test_domain="sketch")
    rule = source.describe()["split"]
    assert rule["classes_lacking"] == {"photo": ["elk"], "sketch": ["fox"]}
    assert rule["notes"][0] == "the domain 'photo' has no images of these classes: elk."
    assert source.class_names == ("dog", "elk", "fox")


def test_a_class_of_the_tested_domain_alone_is_refused(domains, class_folders):
    class_folders(domains / "sketch", ("yak",))
    with pytest.raises(DataError, match=r"the test split has the class 'yak' .*not among the classes"):
        open_source(domains, test_domain="sketch")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_domain": "skech"}, r"has no domain 'skech'\. Did you mean 'sketch'\?"),
        ({"test_domain": "art", "train_domains": ["foto"]}, r"has no domain 'foto'\. Did you mean 'photo'"),
        ({"test_domain": "art", "train_domains": ["art"]}, "'art' is both trained and tested on"),
        ({"test_domain": "art", "train_domains": ["photo", "photo"]}, "'photo' is given twice"),
        ({"test_domain": "art", "train_domains": []}, "no training domain is given"),
        ({"train_domains": ["art"]}, "train_domains are given without a domain to test on"),
    ],
)
def test_mistakes(domains, settings, message):
    with pytest.raises(ConfigError, match=message):
        open_source(domains, **settings)


def test_data_that_are_no_domains(tmp_path, class_folders, vtab):
    with pytest.raises(
        ConfigError, match=r"test_domain is 'art', but '.*' is no folder of domains; leave it out"
    ):
        open_source(vtab, test_domain="art")
    class_folders(tmp_path / "plain")
    with pytest.raises(DataError, match=r"has 0 folders of class folders, and domains need two or more"):
        open_source(tmp_path / "plain", test_domain="ant")
    (tmp_path / "table.csv").write_text("image,label\n")
    with pytest.raises(ConfigError, match=r"train_domains is 'a\+b', but .* is no folder of domains"):
        open_source(tmp_path / "table.csv", train_domains=("a", "b"))


def test_a_domain_without_images(domains):
    for image in (domains / "art").rglob("*.png"):
        image.unlink()
    with pytest.raises(DataError, match=r"the domain '.*art' holds no image; fill it or remove it"):
        open_source(domains, test_domain="sketch")


def test_what_is_missing(domains):
    assert missing(domains, domains=DOMAINS, classes=3) == []
    lacks = missing(domains, domains=(*DOMAINS, "cartoon"), classes=7)
    assert lacks[0].startswith("the domain 'cartoon' is missing in ")
    assert lacks[1].endswith("has 3 classes, expected 7.")
    assert "there is no folder" in missing(domains / "none")[0]
    assert "holds 0 domains, and two are needed" in missing(domains / "art")[0]


def test_real_domains(unpacked):
    root = unpacked("pacs")
    source = open_source(root, test_domain="sketch")
    assert len(source.class_names) == 7
    assert source.describe()["split"]["train_domains"] == ["art_painting", "cartoon", "photo"]
    assert missing(root, domains=["art_painting", "cartoon", "photo", "sketch"], classes=7) == []
