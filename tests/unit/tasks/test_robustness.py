from __future__ import annotations

import numpy as np
import pytest
import torch

from vitune.data import Samples, open_samples
from vitune.data.corruptions import ALEXNET_ERROR, EXTRA
from vitune.data.imagenet import restricted_ids, wordnet_ids
from vitune.data.listing import FileImages, Listing
from vitune.errors import ConfigError
from vitune.tasks.robustness import by_part, only, restriction
from vitune.training.evaluate import Evaluation

IDS = wordnet_ids()


def samples_of(names: list[str], classes: list[str], class_names: tuple[str, ...], root) -> Samples:
    numbers = {name: number for number, name in enumerate(class_names)}
    listing = Listing.all_of(FileImages(root, names), classes)
    return Samples(listing, [numbers[name] for name in classes], class_names, "test")


def evaluation(label: list[int], hits: list[bool]) -> Evaluation:
    found = np.array(label)
    predicted = np.where(hits, found, found + 1)
    zeros = np.zeros(len(label), np.float32)
    return Evaluation(np.arange(len(label)), found, predicted, zeros, zeros)


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_the_200_classes_of_a_and_r_compete(name, tmp_path):
    ids = sorted(restricted_ids(name))
    samples = samples_of(ids, ids, IDS, tmp_path)
    expected = [IDS.index(i) for i in ids]
    assert restriction(samples, "auto") == (name, expected)
    assert restriction(samples, "all") == (name, None)


def test_other_images_are_tested_with_all_classes_unless_asked(tmp_path):
    ids = sorted(restricted_ids("imagenet-a"))[1:]
    samples = samples_of(ids, ids, IDS, tmp_path)
    assert restriction(samples, "auto") == (None, None)
    assert restriction(samples, "present") == (None, [IDS.index(i) for i in ids])
    with pytest.raises(ConfigError, match=r"classes is 'presen'\. Did you mean 'present'\?"):
        restriction(samples, "presen")  # pyright: ignore[reportArgumentType]


def test_left_out_logits_take_no_part():
    logits = torch.tensor([[1.0, 9.0, 3.0, 2.0], [4.0, 9.0, 1.0, 2.0]])
    found = only(lambda images: logits, [0, 2])(torch.zeros(2))
    assert found.argmax(dim=1).tolist() == [2, 0]
    torch.testing.assert_close(found.softmax(dim=1)[:, [0, 2]], logits[:, [0, 2]].softmax(dim=1))
    assert found.softmax(dim=1)[:, [1, 3]].sum() == 0


def test_errors_by_corruption(tmp_path, class_folders):
    for part in ("fog/1", "fog/2", "extra/spatter/1"):
        class_folders(tmp_path / part, ("ant", "bee"), count=2)
    samples = open_samples(tmp_path, ("ant", "bee"))
    hits = [True] * 4 + [True, False, False, False] + [False] * 4
    assert [samples.name(i).split("/")[0] for i in (0, 4, 8)] == ["fog", "fog", "extra"]
    found = evaluation(samples.labels, hits)
    parts, error = by_part(samples, found)
    assert [(part.name, part.accuracy, part.count) for part in parts] == [
        ("fog/1", 1.0, 4),
        ("fog/2", 0.25, 4),
        ("spatter/1", 0.0, 4),
    ]
    assert error.by_corruption == {"fog": 0.375, "spatter": 1.0}
    assert error.mean_error == 0.375  # spatter is not part of the benchmark
    assert error.mce is None


def test_mean_corruption_error_is_relative_to_alexnet(tmp_path):
    parts = [f"{name}/{severity}" for name in (*ALEXNET_ERROR, EXTRA[0]) for severity in "12345"]
    names = [f"{part}/{IDS[3]}/{i}.JPEG" for part in parts for i in range(2)]
    hits = [bool(i % 2) for i in range(len(names))]
    classes = [IDS[3]] * len(names)
    samples = samples_of(names, classes, IDS, tmp_path)
    _, error = by_part(samples, evaluation(samples.labels, hits))
    assert error.mean_error == pytest.approx(0.5)
    assert error.mce == pytest.approx(np.mean([0.5 / e for e in ALEXNET_ERROR.values()]))
    few = samples.subset(range(2, len(names) - 20))
    _, error = by_part(few, evaluation(few.labels, hits[2:-20]))
    assert error.mce is None  # a severity is not there
    other = samples_of(names, ["ant"] * len(names), ("ant", "bee"), tmp_path)
    _, error = by_part(other, evaluation(other.labels, hits))
    assert error.mce is None  # AlexNet's errors are ImageNet's
