from __future__ import annotations

import json
from pathlib import Path

import pytest

from vitune.errors import ConfigError
from vitune.tasks.request import DataSettings, ModelSettings, TrainRequest
from vitune.training import TrainConfig


def test_survives_json() -> None:
    request = TrainRequest(
        data=DataSettings(path=Path("flowers"), on_bad_image="skip", cache=False),
        model=ModelSettings(name="vit_tiny_patch16_224", weights=Path("w.npz"), img_size=96),
        method="ssf",
        training=TrainConfig(epochs=3, betas=(0.8, 0.9)),
        init_modules=Path("modules.safetensors"),
        out=Path("runs/flowers"),
        final_test=True,
        command="vitune train flowers",
    )
    stored = json.loads(json.dumps(request.to_dict()))
    assert TrainRequest.from_dict(stored, out=Path("runs/flowers")) == request


def test_how_images_look_is_the_backbones_matter_unless_told_otherwise() -> None:
    assert DataSettings(path=Path("a")).looks() == {}
    looks = DataSettings(path=Path("a"), normalise="none", interpolation="bilinear", crop_pct=0.5).looks()
    assert looks == {"mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": "bilinear", "crop_pct": 0.5}
    with pytest.raises(ConfigError, match=r"normalise is 'imagnet'\. Did you mean 'imagenet'\?"):
        DataSettings(path=Path("a"), normalise="imagnet").looks()  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"datum": {}}, r"There is no setting 'datum'\. Did you mean 'data'\?"),
        ({"data": {"path": "a", "vale": 1}}, r"There is no data setting 'vale'\."),
        ({"data": {"path": "a"}, "model": {"nam": "x"}}, r"no model setting 'nam'\. Did you mean 'name'\?"),
        ({"data": {"path": "a"}, "training": {"epoch": 1}}, r"no training setting 'epoch'\. Did you mean"),
        ({"method": "ssf"}, r"The configuration names no data; give data\.path"),
    ],
)
def test_refuses_what_it_does_not_know(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainRequest.from_dict(values)
