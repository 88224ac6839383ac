from __future__ import annotations

import json
from typing import Any

import pytest

from vitune.backbones import BackboneSource
from vitune.errors import AdapterError


def test_a_source_goes_through_json():
    source = BackboneSource("timm", "vit_tiny_patch16_224", {"img_size": 64}, "pretrained")
    assert BackboneSource.from_dict(json.loads(json.dumps(source.to_dict()))) == source


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"library": "keras"}, "does not say the library (timm or transformers) and the name"),
        ({"name": None}, "does not say the library (timm or transformers) and the name"),
        ({"kwargs": 3}, "'vit' has kwargs or weights of the wrong kind"),
        ({"weights": 3}, "'vit' has kwargs or weights of the wrong kind"),
    ],
)
def test_a_damaged_description_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(AdapterError) as caught:
        BackboneSource.from_dict({"library": "timm", "name": "vit", "kwargs": {}, "weights": None, **change})
    assert message in str(caught.value)
