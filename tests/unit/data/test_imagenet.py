from __future__ import annotations

from vitune.data import open_samples
from vitune.data.imagenet import _words as words  # pyright: ignore[reportPrivateUsage]
from vitune.data.imagenet import in_imagenet_order, renamed, restricted_ids, restricted_set, wordnet_ids

NUMBERS = tuple(map(str, range(1000)))


def test_wordnet_ids_are_in_the_order_of_the_labels():
    ids = wordnet_ids()
    assert len(set(ids)) == 1000
    assert list(ids) == sorted(ids)
    assert (ids[0], ids[999]) == ("n01440764", "n15075141")


def test_maps_of_imagenet_in_any_spelling():
    shuffled = wordnet_ids()[::-1]
    assert in_imagenet_order(shuffled) == wordnet_ids()
    assert in_imagenet_order(sorted(NUMBERS)) == NUMBERS
    renamed_few = ("a fish", *words()[1:])
    assert in_imagenet_order(renamed_few) == renamed_few
    assert in_imagenet_order(renamed_few[::-1]) is None  # words say their label by their place alone
    assert in_imagenet_order(wordnet_ids()[:999]) is None
    assert in_imagenet_order([f"class {i}" for i in range(1000)]) is None


def test_numbered_folders_for_a_model_of_wordnet_ids(tmp_path, save):
    for number in ("0", "2", "10", "999"):  # ImageNetV2; sorted as text, 10 would come before 2
        save(tmp_path / number / "a.png")
    names = wordnet_ids()[::-1]
    samples = open_samples(tmp_path, names)
    found = {samples.name(i): names[samples.labels[i]] for i in range(len(samples))}
    assert found == {f"{n}/a.png": wordnet_ids()[int(n)] for n in ("0", "2", "10", "999")}


def test_wordnet_folders_for_models_of_numbers_and_words(tmp_path, save):
    save(tmp_path / "n01443537" / "a.png")  # label 1
    in_words = [f"{word} ({label})" if word == "crane" else word for label, word in enumerate(words())]
    for names in (NUMBERS, in_words):  # two classes are called crane, and a class map has no doubles
        assert open_samples(tmp_path, names).labels == [1]


def test_lists_of_numbers_of_the_domain_generalisation_sets(tmp_path, save):
    save(tmp_path / "imagenet-a" / "n07753592" / "0.003773_soap dispenser _ soap dispenser_0.28588653.png")
    lines = "imagenet-a/n07753592/0.003773_soap dispenser _ soap dispenser_0.28588653.png 954\n"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "val_meta.list").write_text(lines)
    assert open_samples(tmp_path, wordnet_ids()).labels == [954]


def test_other_data_are_left_as_they_are(tmp_path, class_folders):
    listing = open_samples(class_folders(tmp_path, ("0", "1")), ("0", "1")).listing
    assert renamed(listing, ("1", "0")) is listing
    assert renamed(listing, ("ant", "bee")) is listing  # and the class map refuses them
    other = open_samples(class_folders(tmp_path / "x", ("ant", "bee")), ("ant", "bee")).listing
    assert renamed(other, wordnet_ids()) is other


def test_the_sets_that_are_tested_with_200_classes():
    for name in ("imagenet-a", "imagenet-r"):
        ids = restricted_ids(name)
        assert len(ids) == 200
        assert restricted_set(ids, wordnet_ids()) == name
        as_numbers = [str(wordnet_ids().index(i)) for i in ids]
        assert restricted_set(as_numbers, NUMBERS) == name
        assert restricted_set(sorted(ids)[1:], wordnet_ids()) is None
        assert restricted_set(ids, sorted(ids)) is None
    assert restricted_set(wordnet_ids(), wordnet_ids()) is None
