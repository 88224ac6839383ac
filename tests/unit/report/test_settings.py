from pathlib import Path
from typing import Any

from vitune.report.record import RunRecord
from vitune.report.settings import regeneration, settings_groups


def record(**changes: Any) -> RunRecord:
    return RunRecord(Path("my runs/a"), "run", "lora", **changes)


def groups(run: RunRecord) -> dict[str, dict[str, str]]:
    return {group.title: dict(group.rows) for group in settings_groups(run)}


def test_groups_of_the_resolved_settings() -> None:
    config = {
        "training": {"lr": 0.1, "ema": None, "final_test": True, "betas": [0.9, 0.999], "nested": {"a": 1}},
        "methods": "repeated elsewhere",
        "note": "single",
        "command": "shown elsewhere",
    }
    methods = (("lora", {"rank": 4, "roles": ["attn.q", "attn.v"]}), ("bitfit", {}))
    assert groups(record(config=config, methods=methods)) == {
        "Method lora": {"rank": "4", "roles": "attn.q, attn.v"},
        "Method bitfit": {"settings": "none"},
        "Training": {
            "lr": "0.1",
            "ema": "not set",
            "final_test": "yes",
            "betas": "[0.9, 0.999]",
            "nested.a": "1",
        },
        "Other": {"note": "single"},
    }


def test_without_config_the_result_tells_what_it_can() -> None:
    assert groups(record(model={"name": "vit"}, data={"path": "flowers"}, seed=3)) == {
        "Model": {"name": "vit"},
        "Data": {"path": "flowers"},
    }
    assert settings_groups(record()) == ()


def test_lists_of_objects_are_numbered() -> None:
    assert groups(record(config={"stages": [{"lr": 1}, {"lr": 2}]})) == {"Stages": {"1.lr": "1", "2.lr": "2"}}


def test_long_values_are_cut() -> None:
    (value,) = groups(record(config={"data": {"files": "x" * 1000}}))["Data"].values()
    assert len(value) == 300
    assert value.endswith("\u2026")


def test_regeneration() -> None:
    run = record(
        command="vitune train flowers",
        config={"versions": {"torch": "1", "numpy": "1"}, "machine": {"cpu": "Xeon"}},
        environment={"torch": "2", "machine": {"cpu": "Xeon", "memory_bytes": 8_000_000_000}},
        seed=3,
    )
    found = regeneration(run)
    assert [command for _, command in found.commands] == [
        "vitune train flowers",
        "vitune train --config 'my runs/a/config.json'",
    ]
    assert dict(found.facts) == {"seed": "3", "torch": "2", "cpu": "Xeon", "memory": "8 GB", "numpy": "1"}


def test_regeneration_of_a_run_that_knows_nothing() -> None:
    found = regeneration(record())
    assert found.commands == ()
    assert found.facts == (("seed", "not set"),)
