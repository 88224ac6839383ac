from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vitune.training.batches import evaluation_batches, make_loader
from vitune.training.devices import make_accelerator
from vitune.training.evaluate import Evaluation, evaluate

from .small import CLASSES, SmallImages, small_tuned


def test_agrees_with_a_plain_computation_and_changes_nothing() -> None:
    tuned = small_tuned(drop_rate=0.5)
    tuned.model.train()
    images = SmallImages(11)
    torch.manual_seed(0)
    random = torch.get_rng_state()
    state = {name: tensor.clone() for name, tensor in tuned.model.state_dict().items()}
    loader = make_loader(images, evaluation_batches(11, 4), 0)
    found = evaluate(tuned.model, tuned, loader, make_accelerator("cpu", "fp32"))
    assert tuned.model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, state[name]) for name, tensor in tuned.model.state_dict().items())

    tuned.model.eval()
    with torch.no_grad():
        logits = tuned(torch.stack([images[0, i][0] for i in range(11)]))
    labels = torch.arange(11) % CLASSES
    assert found.index.tolist() == list(range(11))
    assert found.label.tolist() == labels.tolist()
    assert found.predicted.tolist() == logits.argmax(1).tolist()
    assert np.allclose(found.confidence, logits.softmax(1).amax(1).numpy(), atol=1e-6)
    assert found.loss == pytest.approx(F.cross_entropy(logits, labels).item(), abs=1e-6)
    assert found.correct == (logits.argmax(1) == labels).sum()
    assert found.accuracy == found.correct / 11


def test_confusion_has_the_true_class_in_rows() -> None:
    whole = {"index": np.arange(4), "confidence": np.ones(4, np.float32), "losses": np.zeros(4, np.float32)}
    found = Evaluation(label=np.array([0, 0, 2, 2]), predicted=np.array([0, 1, 1, 2]), **whole)
    assert found.confusion(3).tolist() == [[1, 1, 0], [0, 0, 0], [0, 1, 1]]
