"""Profiles: what is counted agrees with the parts it is made of, and what was not measured is None."""

from __future__ import annotations

import json

import pytest

from vitune.errors import ConfigError, NothingMatchedError
from vitune.tasks.profile import ProfileSettings, profile, write_profile

SMALL = {"model": "vit_tiny_patch16_224", "image_size": 64, "batch_size": 4, "classes": 3}


@pytest.fixture(scope="module")
def result():
    return profile(ProfileSettings(**SMALL, methods=("linear", "lora"), levels=("stock", "lean"), rounds=1))


def test_stock_full_fine_tuning_is_the_first_row(result):
    assert [(row.method, row.memory) for row in result.rows] == [
        ("full", "stock"),
        ("linear", "stock"),
        ("linear", "lean"),
        ("lora", "stock"),
        ("lora", "lean"),
    ]
    assert result.rows[0].step_ratio == (1.0, 1.0, 1.0)


def test_costs_are_ordered_as_they_must_be(result):
    full, probe, _, lora, lean = result.rows
    assert full.trained_parameters > lora.trained_parameters > probe.trained_parameters
    assert full.saved_activation_bytes > lora.saved_activation_bytes > lean.saved_activation_bytes > 0
    assert full.forecast_bytes > lora.forecast_bytes > lean.forecast_bytes
    assert lora.forward_flops == full.forward_flops  # merged
    assert lean.step_flops > 0.9 * lora.step_flops
    assert full.adapter_bytes > 50 * lora.adapter_bytes


def test_what_was_not_measured_is_none(result):
    assert all(row.peak_bytes is None and row.step_seconds is not None for row in result.rows)


def test_the_file_names_machine_and_versions(result, tmp_path):
    write_profile(result, tmp_path / "profile.json")
    written = json.loads((tmp_path / "profile.json").read_text())
    assert written["rows"][1]["method"] == "linear"
    assert {"machine", "versions", "settings"} <= written.keys()


def test_peak_memory_is_measured_in_a_process_of_its_own():
    found = profile(ProfileSettings(**SMALL, methods=("linear",), levels=("stock",), peak=True))
    # The weights and AdamW's state of full fine-tuning are 4 times 22 MB.
    assert (found.rows[0].peak_bytes or 0) > 60e6
    assert (found.rows[1].peak_bytes or 0) < (found.rows[0].peak_bytes or 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"rounds": -1}, "rounds must be 0 or more"),
        ({"levels": ("lena",)}, "no memory level 'lena'. Did you mean 'lean'"),
        ({"methods": ()}, "at least one method"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        ProfileSettings(**settings)


def test_an_unknown_method_is_named():
    with pytest.raises(NothingMatchedError, match="no method 'loar'"):
        ProfileSettings(methods=("loar",))
