"""Any config of Hugging Face PEFT as a method: `peft(type=LORA,r=8,target_modules=attn.qkv)`.

What is computed is PEFT's own code; names of layers, what trains beside them, files, merging and costs are ours. The
package peft is needed once a method of this kind is used, never by `import vitune`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from vitune.anatomy import Anatomy, Operator
from vitune.errors import CompositionError, ConfigError
from vitune.methods._base import Method, Policy
from vitune.methods.hf_peft import options as reading
from vitune.methods.hf_peft.counted import complete, without_factors
from vitune.methods.hf_peft.layers import Injection, PeftEdit
from vitune.methods.hf_peft.policies import RankBudget, SingularPenalty, SubspaceBudget
from vitune.methods.hf_peft.refused import SETTINGS, reason_against, refuse
from vitune.methods.hf_peft.starts import takes_off
from vitune.methods.hf_peft.targets import named, targets
from vitune.surgery import Attach, Step, Train

if TYPE_CHECKING:
    from vitune.tuned import Tuned

# Types whose layers PEFT cannot merge: what they add depends on the input.
NOT_MERGING = frozenset({"LILY"})
# Types that start near the identity, or at random, with PEFT's defaults.
_MOVED = frozenset({"C3A", "DEFT", "FOURIERFT", "FROD", "HRA", "OSF", "UNILORA", "VBLORA"})


@dataclass(frozen=True, kw_only=True)
class Peft(Method):
    """A config of PEFT.

    Attributes:
        type: PEFT's name of the method, such as `LORA`, `IA3` or `OFT`.
        options: Settings of its config by name, as JSON has them; those at their defaults are left out.
    """

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "PEFT"
    paper: ClassVar[str] = "github.com/huggingface/peft"
    default_lr: ClassVar[float] = 1e-3
    reads_text: ClassVar[bool] = True

    type: str = "LORA"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    config: InitVar[Any] = None

    def __post_init__(self, config: Any) -> None:
        kind, given = self.type.upper(), dict(self.options)
        if config is not None:
            if isinstance(config, (str, bytes)):
                raise ConfigError(
                    "peft: config is a config object of peft here; a file is 'peft(config=FILE)' as text."
                )
            kind, theirs = reading.of_config(config)
            given = {**theirs, **given}
        if given or config is not None or kind != "LORA":
            if kind == "ADALORA":  # what an earlier run found, not how to begin
                given.pop("rank_pattern", None)
            given = reading.changed(kind, given)
            refuse(kind, given)
        object.__setattr__(self, "type", kind)
        object.__setattr__(self, "options", given)

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """One edit per layer, and the parameters of the backbone that `bias` and `modules_to_save` let train.

        Raises:
            NothingMatchedError: If a name matches nothing.
            UnsupportedBackboneError: If a name means what cannot be adapted.
            ConfigError: If the package peft is missing, or refuses the settings.
        """
        reading.config_class(self.type)
        operators = targets(anatomy, self.type, self.options)
        given = dict(self.options)
        if self.type == "IA3":
            given["feedforward_modules"] = _feedforward(anatomy, operators, given)
        injection = Injection(anatomy, operators, self.type, given)
        steps: list[Step] = [
            Attach(o.role, o.path, PeftEdit, functools.partial(injection.layer, o.path)) for o in operators
        ]
        return steps + self._trained(anatomy, operators)

    def further(self, anatomy: Anatomy, steps: Sequence[Step]) -> list[Step]:
        """Nothing more; PEFT's layers read the weights they wrap, so nothing of ours may lie below them.

        Raises:
            CompositionError: If a method given before edits one of the same layers.
        """
        before: dict[str, str] = {}
        for step in steps:
            if isinstance(step, Attach) and step.edit is PeftEdit and step.path in before:
                other = before[step.path]
                raise CompositionError(
                    f"'{other}' and 'peft' both edit {step.role}, and PEFT's layer must be the inner one; give peft "
                    f"first: 'peft(...),{other}'."
                )
            if isinstance(step, Attach):
                before.setdefault(step.path, step.key)
        return []

    def _trained(self, anatomy: Anatomy, operators: Sequence[Operator]) -> list[Step]:
        """Parameters of the backbone that train as a whole."""
        names: dict[str, None] = {}
        bias = self.options.get("bias", "none")
        adapted = tuple(operator.path for operator in operators)
        for operator in anatomy.operators:
            if bias != "all" and not (bias.endswith("_only") and operator.path in adapted):
                continue
            parameters = anatomy.model.get_submodule(operator.path)._parameters
            names |= dict.fromkeys([f"{operator.path}.bias"] if parameters.get("bias") is not None else [])
            names |= dict.fromkeys(operator.biases)
        heads = set(anatomy.head)
        for module in self.options.get("modules_to_save") or ():
            if any(head == module or head.endswith(f".{module}") for head in heads):
                continue  # the head trains in any case
            for path in sorted(named(anatomy, [module], "modules_to_save")):
                own = anatomy.model.get_submodule(path).named_parameters(recurse=False)
                names |= dict.fromkeys(f"{path}.{name}" for name, _ in own)
        return [Train(anatomy.role_of(name), name) for name in names]

    @staticmethod
    def types() -> dict[str, dict[str, Any]]:
        """Types of the installed PEFT that work on image backbones, with their settings and defaults.

        Raises:
            ConfigError: If the package peft is missing.
        """
        usable = [kind for kind in reading.known_types() if reason_against(kind) is None]
        found = {kind: reading.known_options(kind) for kind in usable}
        return {
            kind: {n: v for n, v in settings.items() if n not in SETTINGS} for kind, settings in found.items()
        }

    @property
    def starts_at_identity(self) -> bool:
        """Whether the type starts so, and the config asks for no start of its own."""
        own_start = any(name.startswith("init_") and name != "init_r" for name in self.options)
        return self.type not in _MOVED and not own_start and not takes_off(self.type, self.options)

    @property
    def merges(self) -> bool:  # type: ignore[override]
        """Whether PEFT merges layers of this type."""
        return self.type not in NOT_MERGING

    def policy(self, tuned: Tuned) -> Policy | None:
        """AdaLoRA and AdaMSS cut while they train, and AdaLoRA and KaSA add to the loss."""
        if self.type == "ADALORA":
            return RankBudget(tuned, self.settings())
        if self.options.get("use_asa"):
            return SubspaceBudget(tuned, self.settings())
        if (kasa := self.options.get("kasa_config")) is not None:
            defaults = reading.plain(reading.config_class("LORA")(kasa_config={}))["kasa_config"]
            return SingularPenalty(tuned, {**defaults, **kasa})
        return None

    def stored(self, tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without what follows from the backbone's weights and the rest."""
        return without_factors(self.type, tensors)

    def restored(self, tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With it."""
        return complete(self.type, tuned, tensors)

    def settings(self) -> dict[str, Any]:
        """The type and every setting of its config, defaults too, so that a later PEFT makes the same of them."""
        return {"type": self.type, **reading.known_options(self.type), **self.options}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Peft:
        """Make the method from JSON values.

        Raises:
            ConfigError: If a setting is unknown or refused.
        """
        given = dict(settings)
        return cls(type=given.pop("type", "LORA"), options=given)

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Peft:
        """Make the method from settings as text: `type`, `config` (a file) and those of the config.

        Raises:
            ConfigError: If a setting is unknown, malformed or refused.
        """
        given = dict(texts)
        kind, values = "LORA", {}
        if "config" in given:
            kind, values = reading.of_file(given.pop("config"))
        kind = given.pop("type", kind).upper()
        reading.changed(kind, {**values, **given})  # unknown names first
        values |= {name: reading.read_option(kind, name, text) for name, text in given.items()}
        return cls(type=kind, options=values)

    def texts(self) -> dict[str, str]:
        """The inverse of `from_texts`, without defaults."""
        given = {} if self.type == "LORA" else {"type": self.type}
        return given | {n: reading.option_text(self.type, n, value) for n, value in self.options.items()}


def _feedforward(anatomy: Anatomy, operators: Sequence[Operator], options: Mapping[str, Any]) -> list[str]:
    """The layers whose input, not output, IA3 scales: as named, or those of the MLPs among its targets."""
    wanted = options.get("feedforward_modules")
    if wanted is None:
        return [operator.path for operator in operators if ".mlp." in operator.role]
    inside = named(anatomy, wanted, "feedforward_modules")
    return [operator.path for operator in operators if operator.path in inside]
