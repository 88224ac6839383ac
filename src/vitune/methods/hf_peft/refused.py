"""Types and settings of PEFT that cannot work on an image backbone, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitune.errors import ConfigError
from vitune.methods.hf_peft.options import config_class, nested_defaults
from vitune.methods.hf_peft.starts import DATA_STARTS, data_start

_PROMPTS = "learns tokens in front of a text model's embeddings; for images use vpt or e2vpt"
TYPES = {
    "ADAPTION_PROMPT": "puts prompts into the attention of LLaMA-like text models; for images use vpt or e2vpt",
    "CPT": _PROMPTS,
    "XLORA": "mixes trained adapters by what a text model's input ids and hidden states say; train one adapter",
    "POLY": "needs the number of a task with every input, which an image classifier does not get",
    "SHADOW": "runs a second text model beside the first; for a ladder beside an image backbone use hst",
    "TRAINABLE_TOKENS": "trains rows of a text model's embedding table",
}
# Settings that mean something in a text model, or that PEFT carries out outside the layers.
SETTINGS = {
    "target_parameters": "names parameters; name layers by target_modules",
    "trainable_token_indices": "is about the embedding table of a text model",
    "layer_replication": "changes the depth of the backbone",
    "layers_pattern": "is not needed, since blocks are known by their role; leave it out",
    "alora_invocation_tokens": "is about the tokens of a text",
    "arrow_config": "routes between adapters; train one adapter",
    "target_modules_to_tie": "is about the embedding tables of a text model",
    "megatron_config": "is about Megatron's layers",
    "megatron_core": "is about Megatron's layers",
    "loftq_config": "is about quantised backbones",
    "runtime_offload_base_weight": "moves the backbone's own weights",
    "velora_config": "changes what is kept for the backward pass; our velora does",
    "ensure_weight_tying": "is about the embedding tables of a text model",
}
# Details of nested configs.
_OF_TEXT = "is about the tokens of a text"
_OWN_FILES = "keeps files of its own, and a run looks at its data itself"
_DETAILS = {
    "eva_config": {"use_label_mask": _OF_TEXT, "label_mask_value": _OF_TEXT},
    "monteclora_config": {"buffer_size": "is a store of draws, and here every step draws its own"},
    "corda_config": {"cache_file": _OWN_FILES, "covariance_file": _OWN_FILES},
}
# Settings that AdaLoRA's config inherits of LoRA's and that PEFT's AdaLoRA takes no notice of.
_UNREAD_BY_ADALORA = (
    "r",
    "alpha_pattern",
    "kasa_config",
    "monteclora_config",
    "lora_bias",
    "use_bdlora",
    "use_qalora",
    "use_rslora",
)
_DROPOUTS = {"LOHA": ("rank_dropout", "module_dropout"), "LOKR": ("rank_dropout", "module_dropout")}
_DROPOUTS |= {"VBLORA": ("vblora_dropout",)}
_STARTS = {"loftq": "is about quantised backbones, and rewrites their weights"}


def refuse(kind: str, options: Mapping[str, Any]) -> None:
    """Refuse what cannot work.

    Raises:
        ConfigError: With the reason.
    """
    if (reason := reason_against(kind)) is not None:
        raise ConfigError(f"peft: type {kind} cannot be used on an image backbone: it {reason}.")
    for name, why in SETTINGS.items():
        if options.get(name):  # defaults were left out
            raise ConfigError(f"peft: {kind} with {name} cannot be used here: it {why}.")
    for name in _DROPOUTS.get(kind, ()):
        if options.get(name):
            raise ConfigError(
                f"peft: {kind} with {name} cannot be used here: a drawn number decides what is computed, so its costs "
                f"cannot be counted before it runs; leave it out."
            )
    start = options.get("init_lora_weights")
    for name, why in _STARTS.items():
        if isinstance(start, str) and start.lower().replace("-", "_").startswith(name):
            raise ConfigError(
                f"peft: init_lora_weights={start} cannot be used here: it {why}; choose true, false, 'gaussian', "
                f"'orthogonal', 'pissa', 'olora', 'eva', 'corda' or 'lora_ga'."
            )
    _refuse_details(kind, options)
    if kind == "ADALORA":
        _refuse_for_adalora(options)


def _refuse_details(kind: str, options: Mapping[str, Any]) -> None:
    for start, setting in DATA_STARTS.items():
        if options.get(setting) is not None and data_start(kind, options) != start:
            raise ConfigError(
                f"peft: {setting} belongs to init_lora_weights={start}; set that, or leave it out."
            )
    for setting, details in _DETAILS.items():
        given, usual = options.get(setting) or {}, nested_defaults(kind, setting)
        for name, why in details.items():
            if given.get(name, usual.get(name)) != usual.get(name):
                raise ConfigError(f"peft: {setting} with {name} cannot be used here: it {why}; leave it out.")


def _refuse_for_adalora(options: Mapping[str, Any]) -> None:
    for name in _UNREAD_BY_ADALORA:
        if options.get(name):
            raise ConfigError(
                f"peft: ADALORA with {name} cannot be used here: PEFT's AdaLoRA takes no notice of it; leave it out"
                f"{', and set init_r' if name == 'r' else ''}."
            )
    if isinstance(start := options.get("init_lora_weights"), str):
        raise ConfigError(f"peft: ADALORA has no start '{start}'; init_lora_weights must be true or false.")
    first, last = options.get("init_r", 12), options.get("target_r", 8)
    if last >= first:
        raise ConfigError(
            f"peft: ADALORA cuts ranks from init_r={first} to target_r={last} on average, so target_r must be smaller."
        )


def reason_against(kind: str) -> str | None:
    """Why a type cannot be used, or None where it can."""
    return TYPES.get(kind) or (_PROMPTS if _learns_prompts(kind) else None)


def _learns_prompts(kind: str) -> bool:
    config = config_class(kind)
    return any(base.__name__ == "PromptLearningConfig" for base in config.__mro__)
