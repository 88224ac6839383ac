"""Layers of PEFT as our edits.

PEFT puts its layers into a copy of the backbone. Each is taken out again and becomes the layer of an edit; in place of
the layer that it wrapped stands one that shares the parameters of the real one. So the backbone keeps its modules, its
names and its bytes, and what PEFT computes is PEFT's own code.
"""

from __future__ import annotations

import importlib
import io
import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from typing import Any

import torch
from torch import Tensor, nn

from vitune.anatomy import Anatomy, Operator
from vitune.errors import ConfigError
from vitune.methods.hf_peft.copies import (
    ADAPTER,
    copy_with_own,
    example_input,
    frozen_as_buffers,
    merge_tried,
    plain_copy,
    with_base,
)
from vitune.methods.hf_peft.counted import with_fixed_shapes
from vitune.methods.hf_peft.looking import look
from vitune.methods.hf_peft.monteclora import with_drawn_noise
from vitune.methods.hf_peft.options import config_class, peft_library
from vitune.methods.hf_peft.starts import (
    WithoutTaken,
    data_start,
    keep_taken,
    knows_taken,
    taken_from,
    takes_off,
)
from vitune.methods.hf_peft.targets import of_roles
from vitune.surgery import (
    AlwaysInEvaluation,
    Edit,
    attach,
    kept_apart,
    layer_of,
    stand_in,
    takes_shift,
)

TOLERANCE = 1e-4
# Without the dropouts that `refused` refuses, their training mode draws a number per layer and step, or looks for
# infinities, and computes the same; weightless copies have no values to look at.
IDLE_IN_TRAINING = ("LOHA", "LOKR", "VBLORA")


class PeftEdit(Edit):
    """Computes a layer as PEFT's layer round it does."""

    key = "peft"

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer that is tuned."""
        return self.vitune.peft(*args, **kwargs)

    @staticmethod
    def can_fold(module: nn.Module) -> bool:
        """Whether PEFT merges the layer, and the merged layer computes the same: it is tried on a copy."""
        layer = layer_of(module, PeftEdit)
        plain = plain_copy(module, layer)
        if any(parameter.is_meta for parameter in plain.parameters()):
            return True  # no values to compare
        image = example_input(plain)
        merged = None if image is None else merge_tried(layer, plain)
        if merged is None or image is None:
            return False
        before = plain_copy(module, layer)
        with torch.no_grad():
            expected = with_base(layer, before).eval()(image)
            got = merged.eval()(image)
        bias, shifted = (one._parameters.get("bias") for one in (before, merged))
        shifts = bias is not None and shifted is not None and not torch.equal(bias, shifted)
        if shifts and not takes_shift(module):
            return False
        return torch.allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE * float(expected.abs().max()))

    @staticmethod
    def fold(module: Any, layer: nn.Module) -> None:
        """What PEFT's merge writes."""
        plain = plain_copy(module, layer)
        if any(parameter.is_meta for parameter in plain.parameters()):
            return
        merged = merge_tried(layer, plain)
        assert merged is not None
        own = dict(module.named_parameters(recurse=False))
        for name, tensor in merged.named_parameters(recurse=False):
            if name in own:
                own[name].copy_(tensor)
            else:
                module.register_parameter(name, nn.Parameter(tensor.detach().clone()))


class Injection:
    """Makes the layers of all places at once, since some types share tensors between them.

    Args:
        found: The backbone.
        operators: Where.
        kind: PEFT type.
        options: Settings of its config.
        ranks: Path to rank, where a start that looked at data chose them.
        states: Path to the state of the layer after such a start.
    """

    def __init__(
        self,
        found: Anatomy,
        operators: Sequence[Operator],
        kind: str,
        options: Mapping[str, Any],
        ranks: Mapping[str, int] | None = None,
        states: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.found, self.operators, self.kind = found, tuple(operators), kind
        self.options, self._ranks, self._states = dict(options), dict(ranks or {}), dict(states or {})
        self._start = data_start(kind, options)
        self._seen: dict[str, Any] | None = None
        self._layers: dict[str, nn.Module] = {}

    def layer(self, path: str) -> nn.Module:
        """The layer of a place, with a stand-in of the module there as what it wraps.

        Raises:
            ConfigError: If PEFT refuses the settings on this backbone, or changes the backbone's weights.
        """
        if path not in self._layers:
            self._layers = self._made()
        layer = self._layers.pop(path)
        module, taken = self.found.model.get_submodule(path), taken_from(layer)
        vars(layer)["base_layer"] = (
            stand_in(module, PeftEdit)
            if taken is None
            else knows_taken(stand_in(module, PeftEdit, WithoutTaken), taken)
        )
        return layer

    def started(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, nn.Module]:
        """Path to layer after a start that looks at data; places to which it gave no rank are left out.

        Args:
            batches: Images (B, channels, height, width) or token ids (B, N), and labels (B,).

        Raises:
            VituneError: As `look`.
        """
        assert self._start is not None
        model, paths = self.found.model, [operator.path for operator in self.operators]
        watched, runner = self._twin(), copy_with_own(model, [])
        self._seen = look(self._start, watched, runner, self.operators, self._config(paths), batches)
        return self._inject()

    def _made(self) -> dict[str, nn.Module]:
        model = self.found.model
        tensors = [p for o in self.operators for p in model.get_submodule(o.path).parameters(recurse=False)]
        if any(tensor.is_meta for tensor in tensors):
            # Some put off their start where there are no values.
            if all(self.options.get(name) is None for name in ("kasa_config", "monteclora_config")):
                with suppress(ConfigError):  # not every start can be drawn without memory
                    return self._inject(device="meta")
            return self._inject(device="cpu")
        return self._inject()

    def _inject(self, device: str | None = None) -> dict[str, nn.Module]:
        paths = [operator.path for operator in self.operators]
        twin = self._twin(device)
        config = self._config(paths)
        if self._seen is None and self._start == "corda":  # which cannot start otherwise; LoRA-GA can
            config.init_lora_weights = True
        for path, value in (self._seen or {}).items():
            if self._start in _NOTES:
                setattr(twin.get_submodule(path), _NOTES[self._start], value)
        tuner = peft_library().PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
        try:
            # Warnings are about language models; one type draws a progress bar.
            with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                made = tuner(twin, config, ADAPTER)
                if self._start == "eva":
                    self._redistribute(made)
        except Exception as error:  # whatever PEFT raises for settings that do not fit
            text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ConfigError(
                f"peft: {self.kind} does not fit this {self.found.family} backbone: {text}."
            ) from error
        if self._seen is not None:  # EVA leaves out layers to which it gives no rank
            paths = [path for path in paths if hasattr(twin.get_submodule(path), "base_layer")]
        return {path: self._taken(twin, path, compare=device is None) for path in paths}

    def _twin(self, device: str | None = None) -> nn.Module:
        """A copy of the backbone whose layers to adapt have weights, and biases, of their own."""
        model, paths = self.found.model, [operator.path for operator in self.operators]
        twin = copy_with_own(model, paths, device)
        for path in paths:
            bias = kept_apart(model, path)  # by its attention; PEFT looks at the layer alone
            if bias is not None:
                given = bias.detach().to(device) if device is not None else bias.detach()
                twin.get_submodule(path).register_parameter("bias", nn.Parameter(given))
        return twin

    def _redistribute(self, made: Any) -> None:
        """Give PEFT's layers the ranks, factors and A of EVA; A is drawn where it comes from elsewhere."""
        found = self._seen
        if found is None:
            found = {}
            for path, rank in self._ranks.items():
                like = made.model.get_submodule(path).lora_A[ADAPTER].weight
                found[path] = nn.init.kaiming_uniform_(like.new_empty(rank, like.shape[1]), a=math.sqrt(5))
        if found:
            states = {f"model.{path}": value for path, value in found.items()}
            give = importlib.import_module("peft.tuners.lora.eva").initialize_lora_eva_weights
            give(made, eva_state_dict=states, adapter_name=ADAPTER)

    def _taken(self, twin: nn.Module, path: str, *, compare: bool) -> nn.Module:
        """PEFT's layer at a path of the copy, without the layer it wraps."""
        layer = twin.get_submodule(path)
        base = layer._modules.pop("base_layer", None)
        if base is None:
            raise ConfigError(
                f"peft: {self.kind} made no layer round '{path}'; leave it out of target_modules."
            )
        original = self.found.model.get_submodule(path)
        kept = takes_off(self.kind, self.options) and self._kept(layer, original, base, compare=compare)
        for name, parameter in original.named_parameters(recurse=False):
            if name == "weight" and kept:
                continue
            now = base._parameters.get(name)
            if now is None or (compare and not torch.equal(now.detach().cpu(), parameter.detach().cpu())):
                raise ConfigError(
                    f"peft: {self.kind} with these settings changes the backbone's own weights ('{path}') before "
                    f"training, which an adapter must not; choose another start, such as init_lora_weights=true."
                )
        held = {id(parameter) for parameter in base.parameters()}
        if any(id(parameter) in held for parameter in layer.parameters()):
            raise ConfigError(
                f"peft: {self.kind} trains the weights of '{path}' themselves; use bitfit or full."
            )
        if self.kind == "ADALORA":  # a count, which PEFT lets train where it moved it to another device
            layer.get_submodule("ranknum").requires_grad_(False)
        frozen_as_buffers(layer)
        if self.kind in IDLE_IN_TRAINING:
            attach(layer, AlwaysInEvaluation, nn.Module())
        with_fixed_shapes(self.kind, layer)
        if self.options.get("monteclora_config") is not None:
            with_drawn_noise(layer)
        if compare and path in self._states:
            self._put(layer, path)
        return layer

    def _put(self, layer: nn.Module, path: str) -> None:
        try:
            layer.load_state_dict(self._states[path])
        except RuntimeError:
            raise ConfigError(
                f"peft: the start of '{path}' was found on another backbone; let it look at data with this one."
            ) from None

    @staticmethod
    def _kept(layer: Any, original: nn.Module, base: nn.Module, *, compare: bool) -> bool:
        """Whether what the start took off the weight is kept beside the layer."""
        before, now = original._parameters["weight"], base._parameters["weight"]
        assert before is not None
        assert now is not None
        like = before.detach() if compare else torch.zeros_like(now.detach())
        return keep_taken(layer, like, now.detach().to(like.device) if compare else like, layer.r[ADAPTER])

    def _config(self, paths: Sequence[str]) -> Any:
        """The config for exactly these layers, whatever they were named by."""
        options = {name: value for name, value in self.options.items() if name not in _RESOLVED}
        for name, value in options.items():
            if name.endswith("_pattern") and isinstance(value, Mapping):
                options[name] = {p: v for key, v in value.items() for p in _patterns(self.found, key)}
        options["target_modules"] = _exactly(paths)
        if (noise := options.get("monteclora_config")) is not None:
            options["monteclora_config"] = {**noise, "buffer_size": 1}  # draws are the policy's affair
        if (
            self.kind == "ADALORA"
        ):  # the schedule is the policy's affair; PEFT only asks for one that could be
            options["total_step"] = options.get("tinit", 0) + options.get("tfinal", 0) + 1
        if "feedforward_modules" in self.options:
            options["feedforward_modules"] = _exactly(self.options["feedforward_modules"])
        try:
            return config_class(self.kind)(**options)
        except Exception as error:
            text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise ConfigError(f"peft: {self.kind} refuses these settings: {text}.") from error


# Where PEFT's layers look for what was found in the data.
_NOTES = {"corda": "eigens", "lora_ga": "_peft_loraga_grad"}
# Settings that are ours to carry out: which layers, and what of the backbone trains.
_RESOLVED = ("target_modules", "exclude_modules", "layers_to_transform", "modules_to_save", "bias")


def _exactly(paths: Sequence[str]) -> str:
    """A regular expression, as PEFT takes it, that matches these paths and nothing else."""
    return "|".join(map(re.escape, paths)) or "$^"


def _patterns(found: Anatomy, key: str) -> list[str]:
    """A key of a pattern setting: a role becomes the paths that have it, all else is PEFT's own affair."""
    return [re.escape(path) for path in sorted(of_roles(found, key))] or [key]
