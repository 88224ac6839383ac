from __future__ import annotations

import subprocess
import sys

import pytest
import typer

from tests.cli.conftest import ENVIRONMENT, Refused, Run
from vitune.cli.application import app

# Frozen: users' scripts and the documents spell them so. Adding is free, changing is not.
FROZEN = {
    "demo": "--epochs --out --seed",
    "train": "--batch-size --config --device --epochs --final-test --fit-memory --image-column --init-modules "
    "--label-column --lr --memory --method --model "
    "--on-bad-image --out --precision --recipe --resume --seed --set --shots --store-bits "
    "--test-domain --train-split --val-fraction --weights --workers",
    "compare": "--baseline --batch-size --device --engine --epochs --image-column --label-column --method --methods "
    "--model --on-bad-image --out --precision --retry-failed --search --seeds --set --shots --test-domain "
    "--val-fraction --weights --workers",
    "bench": "--baseline --batch-size --check --device --engine --epochs --method --methods --model "
    "--on-bad-image --out --precision --protocol --retry-failed --search --seeds --set --tasks --weights --workers",
    "evaluate": "--batch-size --classes --device --image-column --json --label-column --on-bad-image --split "
    "--test-domain --weights --workers",
    "predict": "--batch-size --device --json --top-k --weights",
    "merge": "--output --weights -o",
    "export": "--format --out --weights",
    "push": "--dry-run --license --out --private",
    "convert": "--bits --classes --method --model --peft --scale --weights",
    "pretrain": "--arch --batch-size --checkpoint-minutes --clip-norm --crop-min-area --cutmix --device --ema "
    "--epochs --erase --flip --image-size --init-from --jitter --label-smoothing --log-every --lr --mixup "
    "--model-args --no-flip --optimizer --out --precision --resume --seed --warmup-epochs --weight-decay "
    "--workers",
    "pretrain-modules": "--batch-size --device --epochs --lr --method --model --out --precision --resume --seed --set "
    "--weights --workers",
    "suggest": "--batch-size --device --epochs --fit-disk --fit-memory --fit-params --fit-time --image-column --json "
    "--label-column --method --methods --model --no-inference-overhead --precision --seconds --shots",
    "profile": "--batch-size --classes --device --html --image-size --memory --method --methods --model --out --peak "
    "--precision --time",
    "list": "",
    "show": "--model",
}
ARGUMENTS = {
    "demo": [],
    "train": ["data"],
    "compare": ["data"],
    "bench": ["suite", "root"],
    "evaluate": ["run", "data"],
    "predict": ["run", "paths"],
    "merge": ["run"],
    "export": ["run"],
    "push": ["run", "repo"],
    "convert": ["source", "target"],
    "pretrain": ["data"],
    "pretrain-modules": ["data"],
    "suggest": ["data"],
    "profile": [],
    "list": ["what", "match"],
    "show": ["name"],
}


def test_verbs_and_options_are_the_frozen_ones() -> None:
    verbs = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    assert list(verbs) == list(FROZEN)
    for name, verb in verbs.items():
        options = {
            flag
            for parameter in verb.params
            if parameter.param_type_name == "option"
            for flag in (*parameter.opts, *parameter.secondary_opts)
        }
        assert " ".join(sorted(options)) == FROZEN[name], name
        arguments = [p.name for p in verb.params if p.param_type_name == "argument"]
        assert arguments == ARGUMENTS[name], name


def test_help_needs_neither_torch_nor_timm() -> None:
    code = (
        "import sys; from vitune.cli import main; assert main(['train', '--help']) == 0\n"
        "heavy = {'torch', 'timm', 'numpy', 'PIL', 'accelerate', 'jinja2'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "--recipe" in done.stdout


def test_every_option_is_explained() -> None:
    for name, verb in typer.main.get_command(app).commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        assert verb.help, name
        for parameter in verb.params:
            assert parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_lists_the_verbs(run: Run, words: tuple[str, ...]) -> None:
    outcome = run(*words)
    assert outcome.code == 0
    assert all(f" {verb} " in outcome.out for verb in FROZEN)


def test_version(run: Run) -> None:
    from vitune import __version__

    assert run("--version").out == f"vitune {__version__}\n"


def test_module_and_command_are_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vitune", "trian"], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr
        == "vitune: no such command 'trian'. Did you mean 'train', 'pretrain'? See 'vitune --help'.\n"
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("train", "--epocs", "3"), "no such option: --epocs (Possible options: --epochs"),
        (
            ("train", "data", "--epochs", "many"),
            "invalid value for '--epochs':",
        ),
        (("train", "data", "--epochs"), "option '--epochs' requires an argument"),
        (("evaluate",), "missing argument 'RUN'; see 'vitune evaluate --help'."),
        (("predict", "run"), "missing argument"),
        (("merge", "run"), "missing option '-o' / '--output'; see 'vitune merge --help'."),
        (("train", "one", "two"), "got unexpected extra argument(s) (two)"),
    ],
)
def test_mistakes_of_usage(refused: Refused, words: tuple[str, ...], sentence: str) -> None:
    assert sentence in refused(*words)
