"""Do pre-trained modules help with few shots? PVP (arXiv:2304.13639) on real data, with the built-in backbone.

    python -m benchmarks.pvp DATA_ROOT [--jobs 2]

DATA_ROOT holds `tiny-imagenet` (Parquet), `caltech101` and `pacs` (tar files or folders). Modules of each host are
trained on 12,000 images of tiny-imagenet for one epoch, once over all its classes but one ("all") and once over one
half ("half"). Then few-shot tasks, k images of each class, start from these modules with a fresh head, or as usual:
caltech101 and PACS from "all", the classes of the other half of tiny-imagenet from "half". The backbone has seen all
200 labels in its own pre-training, in each case.

Both starts train on the same images (drawn by the seed) for the same 24 steps, and choose from the same learning rates
(a tenth, a third, one and three times the host's default) on caltech101's validation images, 4 shots, seed 0; that
choice is kept for all shots, seeds and data sets. No augmentation; the last epoch is tested once.

May be killed and started again; several processes may work over one folder. Writes benchmarks/results/pvp.md and
pvp.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from benchmarks.pvp_data import prepare
from benchmarks.pvp_table import page, rows
from vitune.backbones import BUILT_IN, read_card
from vitune.bench import Trial, TrialData, TrialOutcome, TrialRunner
from vitune.bench.train_trial import TrainTrial
from vitune.data import Source, open_source
from vitune.durable import replace_file
from vitune.errors import RunError
from vitune.methods import parse
from vitune.tasks.modules import MODULES_FILE, pretrain_modules, resume_modules
from vitune.tasks.request import DataSettings, TrainRequest
from vitune.tasks.run_directory import CONFIG_FILE
from vitune.training.advice import learning_rate
from vitune.training.config import TrainConfig

HERE = Path(__file__).parent / "results"
SHOTS = {"caltech101": (1, 2, 4, 8), "pacs": (1, 2, 4, 8, 16), "tiny-other": (1, 4)}
FACTORS = (0.1, 1 / 3, 1.0, 3.0)
SEARCH_ON, SEARCH_SHOTS = "caltech101", 4
COMMON = {"augment": "none", "select": "last", "weight_decay": 1e-4, "checkpoint_minutes": None}


@dataclass(frozen=True)
class Scale:
    """How large the benchmark is.

    Attributes:
        hosts: The methods whose modules are pre-trained.
        shots: Data set to numbers of training images of each class.
        seeds: Seeds of the few-shot trials, each of its own images.
        steps: Steps of a few-shot trial.
        modules_images: Images that modules are pre-trained on.
        test_images: At most so many test images of a data set; None is all.
        precision: Of all training.
        factors: Learning rates to choose from, in units of the host's default.
    """

    hosts: tuple[str, ...] = ("vpt", "lora", "adaptformer")
    shots: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: dict(SHOTS))
    seeds: int = 5
    steps: int = 24
    modules_images: int = 12_000
    test_images: int | None = None
    precision: str = "bf16"
    factors: tuple[float, ...] = FACTORS


TINY = Scale(
    hosts=("lora",),
    shots={"caltech101": (1,), "pacs": (1,), "tiny-other": (1,)},
    seeds=2,
    steps=2,
    modules_images=400,
    test_images=40,
    factors=(1.0, 3.0),
)
# Data set to the classes that its pre-trained modules have seen.
MODULES_OF = {"caltech101": "all", "pacs": "all", "tiny-other": "half"}


@dataclass(frozen=True)
class Modules:
    """Pre-trained modules of one host.

    Attributes:
        name: Host, classes and digest, as trials name them.
        path: The file.
        accuracy: Top-1 on the pre-training task's validation images.
    """

    name: str
    path: Path
    accuracy: float | None


def pretrained(folders: Mapping[str, Path], work: Path, scale: Scale) -> dict[tuple[str, str], Modules]:
    """Phase one: the modules of each host and set of classes, by (host, "all" or "half")."""

    def run(trial: Trial, folder: Path, data: TrialData) -> dict[str, Any]:
        directory, source = folder / "run", cast(Source, data)
        if (directory / CONFIG_FILE).is_file():
            result = resume_modules(directory)
        else:
            training = TrainConfig.from_dict({**trial.settings, "seed": trial.seed, "workers": 0})
            request = TrainRequest(
                data=DataSettings(path=folders[trial.data]),
                method=trial.methods,
                training=training,
                out=directory,
            )
            result = pretrain_modules(request, source=source)
        if result.path is None:
            raise KeyboardInterrupt
        return {"metrics": result.run.result["metrics"], "accuracy": result.accuracy}

    settings = {**COMMON, "epochs": 1, "batch_size": 64, "precision": scale.precision}
    settings["checkpoint_minutes"] = 1.0
    runner = TrialRunner(work / "modules", run, lambda trial: open_source(folders[trial.data]))
    trials = {
        (host, classes): Trial(
            data=f"tiny-{classes}",
            model=BUILT_IN,
            methods=host,
            settings=settings,
            protocol=f"pvp-{read_card().sha256[:8]}-{scale.modules_images}",
            stage="select",
        )
        for host in scale.hosts
        for classes in dict.fromkeys(MODULES_OF.values())
    }
    found = {}
    for (key, trial), outcome in zip(trials.items(), _finished(runner, trials.values()), strict=True):
        path = runner.folder(trial) / "work" / "run" / MODULES_FILE
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        assert outcome.result is not None
        found[key] = Modules(f"{'-'.join(key)}-{digest}", path, outcome.result["accuracy"])
    return found


def few_shot(
    folders: Mapping[str, Path], modules: Mapping[tuple[str, str], Modules], work: Path, scale: Scale
) -> tuple[dict[str, float], list[TrialOutcome]]:
    """Phase two: the learning rate chosen for each host and start, and the final trials."""
    files = {entry.name: entry.path for entry in modules.values()}
    trials = TrainTrial(folders, modules=files)
    runner = TrialRunner(work / "trials", trials.run, trials.open_data)
    classes = {name: len(open_source(folder).class_names) for name, folder in folders.items()}

    def trial(host: str, data: str, shots: int, seed: int, start: str, lr: float, stage: Any) -> Trial:
        entry = modules[host, MODULES_OF[data]]
        settings = {
            **COMMON,
            **length(shots * classes[data], scale.steps),
            "lr": lr,
            "precision": scale.precision,
            "shots": shots,
            "shot_seed": seed,
            **({"init_modules": entry.name} if start == "pre-trained" else {}),
        }
        return Trial(
            data=data,
            model=BUILT_IN,
            methods=host,
            settings=settings,
            seed=seed,
            protocol=f"pvp-{read_card().sha256[:8]}-{scale.test_images}",
            stage=stage,
        )

    cases = [(host, start) for host in scale.hosts for start in ("usual", "pre-trained")]
    shots = min(SEARCH_SHOTS, max(scale.shots[SEARCH_ON]))
    rates = {
        host: [float(f"{learning_rate(TrainConfig(), parse(host)) * f:.3g}") for f in scale.factors]
        for host in scale.hosts
    }
    tried = {
        (host, start, lr): trial(host, SEARCH_ON, shots, 0, start, lr, "select")
        for host, start in cases
        for lr in rates[host]
    }
    seen = dict(zip(tried, _finished(runner, tried.values()), strict=True))
    chosen = {
        f"{host} {start}": max(rates[host], key=lambda lr: _merit(seen[host, start, lr]))
        for host, start in cases
    }
    wanted = [
        trial(host, data, k, seed, start, chosen[f"{host} {start}"], "final")
        for data, counts in scale.shots.items()
        for k in counts
        for seed in range(scale.seeds)
        for host, start in cases
    ]
    return chosen, _finished(runner, wanted)


def length(images: int, steps: int) -> dict[str, Any]:
    """Batch size and epochs of about so many steps, a tenth of which warm up."""
    batch = min(32, images)
    epochs = max(1, math.ceil(steps / math.ceil(images / batch)))
    return {"batch_size": batch, "epochs": epochs, "eval_every": epochs, "warmup_epochs": epochs / 10}


def _merit(outcome: TrialOutcome) -> tuple[float, float]:
    """Validation accuracy; of equal ones the lower loss."""
    assert outcome.result is not None
    val = outcome.result["metrics"]["val"]
    return val["accuracy"], -val["loss"]


def _finished(runner: TrialRunner, trials: Any) -> list[TrialOutcome]:
    outcomes = runner.finish(trials)
    failed = [outcome for outcome in outcomes if outcome.result is None]
    if failed:
        message = (failed[0].error or {}).get("message")
        raise RunError(f"{len(failed)} trials failed; the first said: {message} (see '{failed[0].path}').")
    return outcomes


def run(root: Path, work: Path, scale: Scale) -> dict[str, Any]:
    """Run what is not finished; everything that the benchmark found, as JSON values."""
    folders = prepare(root, work / "data", modules_images=scale.modules_images, test_images=scale.test_images)
    modules = pretrained(folders, work, scale)
    chosen, outcomes = few_shot(folders, modules, work, scale)
    first = outcomes[0].result
    assert first is not None
    sources = {name: open_source(folders[name]) for name in scale.shots}
    return {
        "benchmark": "pvp",
        "backbone": {"name": BUILT_IN, "weights_sha256": read_card().sha256},
        "scale": asdict(scale),
        "settings": COMMON,
        "data": {
            name: {"classes": len(source.class_names), **source.describe()["sizes"]}
            for name, source in sources.items()
        },
        "modules": [
            {"name": entry.name, "host": host, "classes": classes, "accuracy": entry.accuracy}
            for (host, classes), entry in modules.items()
        ],
        "modules_of": MODULES_OF,
        "learning_rates": chosen,
        "rows": [asdict(row) for row in rows(outcomes)],
        "machine": first["machine"],
        "versions": first["versions"],
        "seconds": sum(outcome.result["seconds"] for outcome in outcomes if outcome.result),
    }


def write(found: Mapping[str, Any], out: Path) -> None:
    """Write pvp.json and pvp.md."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {"pvp.json": json.dumps(found, indent=1) + "\n", "pvp.md": page(found)}
    for name, text in texts.items():
        replace_file(out / name, lambda temporary, text=text: temporary.write_text(text))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="processes that work at the same time")
    parser.add_argument("--work", type=Path, default=Path("runs") / "pvp", help="folder of data and trials")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of pvp.json and pvp.md")
    parser.add_argument("--tiny", action="store_true", help="a minute's check of the machinery, no evidence")
    options = parser.parse_args(arguments)
    scale = TINY if options.tiny else Scale()
    work = options.work / ("tiny" if options.tiny else "full")
    prepare(options.root, work / "data", modules_images=scale.modules_images, test_images=scale.test_images)
    again = [sys.executable, "-m", "benchmarks.pvp", str(options.root), "--work", str(options.work)]
    again += ["--out", str(options.out), *(["--tiny"] if options.tiny else [])]
    helpers = [subprocess.Popen(again) for _ in range(options.jobs - 1)]
    try:
        found = run(options.root, work, scale)
    finally:
        for helper in helpers:
            helper.wait()
    write(found, options.out)
    print(page(found))


if __name__ == "__main__":
    main()
