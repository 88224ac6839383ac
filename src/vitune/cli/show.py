"""`vitune show`: one method, recipe or backbone in full."""

from __future__ import annotations

from typing import Annotated

import typer

from vitune.cli.console import console, print_indented, table
from vitune.errors import ConfigError, NothingMatchedError, did_you_mean


def show(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Method or recipe.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="A backbone, drawn as a tree of roles.")
    ] = None,
) -> None:
    """Show the settings of a method, a recipe, or the parts of a backbone."""
    if (name is None) == (model is None):
        raise ConfigError("show one thing: a method or recipe by its name, or a backbone with --model NAME.")
    if model is not None:
        _show_model(model)
        return
    from vitune.methods import BRIDGES, all_methods
    from vitune.recipes import recipe_names

    assert name is not None
    methods, recipes = [*all_methods(), *BRIDGES], recipe_names()
    if name == "peft":
        _show_peft()
    elif name in methods:
        _show_method(name)
    elif name.startswith(tuple(recipes)):
        _show_recipe(name)
    else:
        raise NothingMatchedError(f"no method or recipe '{name}'. {did_you_mean(name, [*methods, *recipes])}")


def _show_method(name: str) -> None:
    from vitune.cli.settings import settings_of
    from vitune.methods import get_method

    method = get_method(name)
    out = console()
    out.print(f"{method.title}  ({method.paper})")
    print_indented(out, f"learning rate {method.default_lr:g}, unless you choose one")
    print_indented(out, "merges into a plain model" if method.merges else "does not merge into a plain model")
    for other, reason in method.conflicts.items():
        print_indented(out, f"not with {other}: {reason}")
    settings = settings_of(method)
    if not settings:
        out.print(f"It has no settings: --method {name}")
        return
    made = table("setting", "default", "takes", "what it is", whole=("setting", "default"))
    for setting in settings:
        made.add_row(setting.name, setting.default, setting.kind, setting.explanation)
    out.print(made)
    first = settings[0]
    out.print(
        f"Set them like this: --method '{name}({first.name}={first.default})'; join several values by +."
    )


def _show_peft() -> None:
    from vitune.methods.hf_peft import NOT_MERGING, Peft

    out = console()
    out.print("Any config of Hugging Face PEFT  (github.com/huggingface/peft)")
    print_indented(out, f"learning rate {Peft.default_lr:g}, unless you choose one")
    made = table("type", "merges", "settings", whole=("type", "merges"))
    common = {"target_modules", "exclude_modules", "modules_to_save", "layers_to_transform"}
    for kind, settings in Peft.types().items():
        merges = "no" if kind in NOT_MERGING else "yes"
        made.add_row(kind, merges, ", ".join(name for name in settings if name not in common))
    out.print(made)
    out.print("Most types take target_modules, exclude_modules, modules_to_save and layers_to_transform too.")
    out.print("Starts of LORA that look at data (init_lora_weights=eva, corda, lora_ga) also take batches,")
    out.print("batch_size and shuffled: which images they look at.")
    out.print("Set them like this: --method 'peft(type=LORA,r=8,target_modules=attn.qkv+mlp.in)';")
    out.print("layers by role or by name. --method 'peft(config=FILE)' reads an adapter_config.json.")


def _show_recipe(name: str) -> None:
    from vitune.recipes import load_recipe

    recipe = load_recipe(name)
    made = table(recipe.name, recipe.title, whole=(recipe.name,))
    rows = {
        "method": recipe.method,
        "source": recipe.source,
        "evidence": f"{recipe.level}. {recipe.evidence}",
        "differs": recipe.differs,
        "published with": recipe.backbone,
        **{f"data: {key}": str(value) for key, value in recipe.data.items()},
        **{f"training: {key}": str(value) for key, value in recipe.train.items()},
        **{f"trainer: {key}": str(value) for key, value in recipe.trainer.items()},
        **{f"model: {key}": str(value) for key, value in recipe.model.items()},
        **{f"text: {key}": str(value) for key, value in recipe.text.items()},
        **{f"to choose: {key}": text for key, text in recipe.choose.items()},
    }
    if recipe.tasks:
        rows["tasks"] = ", ".join(recipe.tasks)
    for key, text in rows.items():
        made.add_row(key, text)
    console().print(made)


def _show_model(name: str) -> None:
    import torch

    from vitune.anatomy import anatomy, tree
    from vitune.backbones import create

    # Without memory and without weights: the largest model is drawn as quickly as the smallest.
    with torch.device("meta"):
        model = create(name, num_classes=1000, pretrained=False)
    console().print(tree(anatomy(model)), soft_wrap=True)
