"""The config and the tuner that PEFT sees: `apply`, and our files, behind its interface."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from vitune import __version__
from vitune.adapters import CONFIG, TENSORS, frozen_hash, num_classes
from vitune.adapters.low_bit import BLOB
from vitune.backbones import describe_source
from vitune.durable import replace_file
from vitune.errors import AdapterError, CompositionError, VituneError
from vitune.methods import Method, get_method, parse
from vitune.tuned import Tuned, apply

NAME = "VITUNE"
PREFIX = "base_model.model."


@dataclass
class VituneConfig(PeftConfig):
    """Methods of vitune as a config of PEFT.

    Attributes:
        methods: Text as `--method` takes it.
        seed: Of the new layers' random start.
        adapter: What `adapter_config.json` holds, where it was loaded.
    """

    methods: str = ""
    seed: int = 0
    adapter: dict[str, Any] = field(default_factory=dict)

    def __init__(self, methods: str = "", *, seed: int = 0, adapter: Any = None, **others: Any) -> None:
        others.pop("peft_type", None)
        super().__init__(peft_type=NAME, **others)
        self.methods, self.seed, self.adapter = methods, seed, dict(adapter or {})

    @classmethod
    def from_json_file(cls, path_json_file: str, **kwargs: Any) -> dict[str, Any]:
        """The configuration of one of our adapters, as PEFT's loading wants it.

        Raises:
            AdapterError: If it is no adapter of vitune.
        """
        values = json.loads(Path(path_json_file).read_text())
        if "methods" not in values:
            raise AdapterError(f"'{path_json_file}' is not a vitune adapter: it has no key 'methods'.")
        return {"peft_type": NAME, "adapter": values}

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write `adapter_config.json` as vitune writes it, for the tensors that PEFT has written beside it.

        Raises:
            AdapterError: If the tensors are not there, since PEFT was asked for another format.
        """
        directory = Path(save_directory)
        if not (directory / TENSORS).is_file():
            raise AdapterError(f"no '{TENSORS}' in '{directory}': save with safe_serialization=True.")
        digest = hashlib.sha256((directory / TENSORS).read_bytes()).hexdigest()
        text = json.dumps({**self.adapter, "tensors_sha256": digest}, indent=1) + "\n"
        replace_file(directory / CONFIG, lambda temporary: temporary.write_text(text))

    def chosen(self) -> tuple[Method, ...]:
        """The methods.

        Raises:
            VituneError: If there are none, or they cannot be read.
        """
        if self.adapter:
            entries = self.adapter["methods"]
            return tuple(get_method(entry["name"]).from_settings(entry["settings"]) for entry in entries)
        if not self.methods:
            raise CompositionError("VituneConfig names no method; for instance VituneConfig('ssf').")
        return parse(self.methods)


class VituneTuner(BaseTuner):
    """A backbone tuned by vitune, as PEFT holds it.

    Attributes:
        tuned: The handle.
    """

    prefix: str = "vitune"
    tuner_layer_cls = BaseTunerLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Apply the methods.

        Raises:
            CompositionError: If the model has an adapter already, or a method acts during training.
        """
        if len(self.peft_config) > 1:
            raise CompositionError(
                "one adapter of vitune at a time: unload() the first, or give both methods at once."
            )
        config: Any = self.peft_config[adapter_name]
        self.tuned = tuned = apply(model, config.chosen(), seed=config.seed)
        if tuned.policies:
            names = ", ".join(method.name for method in tuned.methods)
            tuned.detach()
            raise CompositionError(
                f"'{names}' acts during training, which PEFT has no place for; use vitune.load and vitune's training."
            )
        if config.inference_mode:
            model.requires_grad_(False)
        if not config.adapter:
            config.adapter = _described(tuned)

    def _create_and_replace(self, *args: Any, **kwargs: Any) -> None:
        """Not called: `inject_adapter` does it all at once."""

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        """Done by `apply`."""

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """New layers are of the backbone's type."""

    def set_adapter(self, adapter_name: Any, inference_mode: bool = False) -> None:
        """There is one."""
        for parameter in self.tuned.parameters():
            parameter.requires_grad_(not inference_mode)

    def set_requires_grad(self, adapter_names: Any, requires_grad: bool = True) -> None:
        """Let everything that the methods train do so, or rest."""
        for parameter in self.tuned.parameters():
            parameter.requires_grad_(requires_grad)

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        if not enabled:
            raise CompositionError(
                "an adapter of vitune cannot be switched off for a while; unload() takes it off."
            )

    def merge_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refused: merging is one-way.

        Raises:
            CompositionError: Always.
        """
        raise CompositionError(
            "an adapter of vitune cannot be merged and unmerged; merge_and_unload() merges it."
        )

    unmerge_adapter = delete_adapter = merge_adapter

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        model = self.tuned.merge() if merge else self.tuned.detach()
        if hasattr(model, "peft_config"):
            del model.peft_config
        return model

    @classmethod
    def _get_adapter_state_dict(
        cls, model: Any, config: Any, adapter_name: str, state_dict: Mapping[str, Tensor], **kwargs: Any
    ) -> dict[str, Tensor]:
        """What an adapter's file holds, by role."""
        tuned = model.base_model.tuned
        own = {name: state_dict[f"{PREFIX}{name}"] for name in tuned.state()}
        for method in tuned.methods:
            own = method.stored(tuned, own)
        return {tuned.anatomy.role_of(name): tensor for name, tensor in own.items()}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: Any, config: Any, adapter_name: str, state_dict: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Tensors by their names in PEFT's model, once they are known to fit it.

        Raises:
            AdapterError: If they do not, or the backbone is another one.
        """
        tuned: Tuned = model.base_model.tuned
        own = {tuned.anatomy.path_of(_role(name)): tensor for name, tensor in state_dict.items()}
        if BLOB in own:
            raise AdapterError(
                "the adapter's matrices are rounded to a few bits in its file, which PEFT cannot read; load it with "
                "vitune.load, and for PEFT save it with store_bits=32."
            )
        try:
            for method in tuned.methods:
                own = method.restored(tuned, own)
            tuned.require_fit(own)
        except VituneError as error:
            raise AdapterError(f"the adapter does not fit this backbone: {error}") from None
        if frozen_hash(tuned) != config.adapter.get("frozen_sha256"):
            raise AdapterError(
                "the backbone's weights are not those that the adapter was trained on (their hash differs); "
                "make it with the right ones."
            )
        return {f"{PREFIX}{name}": tensor for name, tensor in own.items()}


def _role(name: str) -> str:
    return name.removeprefix(PREFIX)


def _described(tuned: Tuned) -> dict[str, Any]:
    """The configuration that `Tuned.save` would write."""
    source = describe_source(tuned.model)
    return {
        "format": 1,
        "peft_type": NAME,
        "methods": [{"name": method.name, "settings": method.settings()} for method in tuned.methods],
        "backbone": None if source is None else source.to_dict(),
        "family": tuned.anatomy.family,
        "frozen_sha256": frozen_hash(tuned),
        "num_classes": num_classes(tuned),
        "class_names": None,
        "preprocessing": None,
        "policies": [],
        "store_bits": None,
        "versions": {"vitune": __version__, **{name: version(name) for name in ("torch", "timm")}},
        "extra": {},
    }
