"""Any config of Hugging Face PEFT as a method: `peft(type=LORA,r=8,target_modules=attn.qkv)`.

What is computed is PEFT's own code; names of layers, what trains beside them, files, merging and costs are ours. The
package peft is needed once a method of this kind is used, never by `import vitune`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vitune.anatomy import Anatomy, Operator, anatomy
from vitune.errors import CompositionError, ConfigError, NothingMatchedError, UnsupportedBackboneError
from vitune.methods._base import DataNeeds, Method, Policy
from vitune.methods.hf_peft import options as reading
from vitune.methods.hf_peft.copies import ADAPTER
from vitune.methods.hf_peft.counted import complete, without_factors
from vitune.methods.hf_peft.layers import Injection, PeftEdit
from vitune.methods.hf_peft.monteclora import VariationalPenalty
from vitune.methods.hf_peft.policies import RankBudget, SingularPenalty, SubspaceBudget
from vitune.methods.hf_peft.refused import SETTINGS, reason_against, refuse
from vitune.methods.hf_peft.starts import (
    LINEAR_ONLY,
    data_start,
    takes_off,
    with_details,
    without_usual_details,
)
from vitune.methods.hf_peft.targets import named, targets
from vitune.methods.parse import read_value, setting_types, type_text, value_text
from vitune.surgery import Attach, Step, Train

if TYPE_CHECKING:
    from vitune.tuned import Tuned

# Types whose layers PEFT cannot merge: what they add depends on the input.
NOT_MERGING = frozenset({"LILY"})
# Types that start near the identity, or at random, with PEFT's defaults.
_MOVED = frozenset({"C3A", "DEFT", "FOURIERFT", "FROD", "HRA", "OSF", "UNILORA", "VBLORA"})

# Settings of ours, for starts that look at data.
_LOOKING = ("batches", "batch_size", "shuffled")


@dataclass(frozen=True, kw_only=True)
class Peft(Method):
    """A config of PEFT.

    All but the first two are about starts that look at data: `init_lora_weights` of eva, corda or lora_ga. The last one
    says what was found. `vitune train` fills it in from the training images; in Python `resolved(model, batches)` does.

    Attributes:
        type: PEFT's name of the method, such as `LORA`, `IA3` or `OFT`.
        options: Settings of its config by name, as JSON has them; those at their defaults are left out.
        batches: How many batches such a start looks at.
        batch_size: Their size.
        shuffled: Whether these images are drawn at random, rather than the first of the list.
        ranks: Found: `ROLE:RANK` of every layer that such a start leaves something to train.
    """

    name: ClassVar[str] = "peft"
    title: ClassVar[str] = "PEFT"
    paper: ClassVar[str] = "github.com/huggingface/peft"
    default_lr: ClassVar[float] = 1e-3
    reads_text: ClassVar[bool] = True

    type: str = "LORA"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    batches: int = 16
    batch_size: int = 32
    shuffled: bool = True
    ranks: tuple[str, ...] = ()
    config: InitVar[Any] = None
    # Of a start that looked at data: role to the state of the layer; empty: a plain start will do; None: not looked.
    states: InitVar[Mapping[str, Mapping[str, Tensor]] | None] = None

    def __post_init__(self, config: Any, states: Mapping[str, Mapping[str, Tensor]] | None) -> None:
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
            given = reading.changed(kind, with_details(kind, given))
            refuse(kind, given)
        object.__setattr__(self, "type", kind)
        object.__setattr__(self, "options", given)
        object.__setattr__(self, "states", states)
        for name in ("batches", "batch_size"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
        for name in (*_LOOKING, "ranks") if self._start is None else ():
            self.require(
                getattr(self, name) == getattr(type(self), name),
                name,
                "left out but for starts that look at data (init_lora_weights=eva, corda or lora_ga)",
            )

    @property
    def _start(self) -> str | None:
        """The start that looks at data, if it is one."""
        return data_start(self.type, self.options)

    @property
    def needs_data(self) -> DataNeeds | None:
        """The images that EVA, CorDA and LoRA-GA look at, until they have."""
        known = self._start is None or self.ranks or vars(self)["states"] is not None
        return None if known else DataNeeds(self.batches, self.batch_size, self.shuffled)

    def resolved(self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], *, seed: int = 0) -> Peft:
        """Let a start look at data, by PEFT's own functions.

        Args:
            model: The plain backbone with its fresh head; left as it was.
            batches: Training images (B, channels, height, width), or token ids (B, N), and labels (B,), without
                augmentation; as many as `batches` says are used.
            seed: Of what is random in it.

        Returns:
            The same settings with `ranks` filled in, and the layers' first state.

        Raises:
            VituneError: As `edits`, and as `vitune.methods.hf_peft.looking.look`.
        """
        if self.needs_data is None:
            return self
        found = anatomy(model)
        operators = self._operators(found)
        injection = Injection(found, operators, self.type, self.options)
        device = next(model.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            layers: dict[str, Any] = injection.started(islice(batches, self.batches))
        roles = {operator.path: operator.role for operator in operators}
        ranks = tuple(f"{roles[path]}:{layer.r[ADAPTER]}" for path, layer in layers.items())
        states = {
            roles[path]: {name: tensor.detach().cpu() for name, tensor in layer.state_dict().items()}
            for path, layer in layers.items()
        }
        return replace(self, ranks=ranks, states=states)

    def countable(self) -> Peft:
        """With a plain start of equal ranks in place of one that looks at data."""
        return self if self.needs_data is None else replace(self, states={})

    def edits(self, anatomy: Anatomy) -> list[Step]:
        """One edit per layer, and the parameters of the backbone that `bias` and `modules_to_save` let train.

        Raises:
            NothingMatchedError: If a name matches nothing.
            UnsupportedBackboneError: If a name means what cannot be adapted.
            ConfigError: If the package peft is missing, or refuses the settings, or the start has not looked at data.
        """
        if self.needs_data is not None:
            raise ConfigError(
                f"peft: init_lora_weights={self._start} looks at data first; `vitune train` does so, and in Python "
                f"method.resolved(model, batches) gives the method to apply."
            )
        reading.config_class(self.type)
        operators = self._operators(anatomy)
        given = dict(self.options)
        if self.type == "IA3":
            given["feedforward_modules"] = _feedforward(anatomy, operators, given)
        paths, states = {o.role: o.path for o in operators}, vars(self)["states"] or {}
        injection = Injection(
            anatomy,
            operators,
            self.type,
            given,
            {paths[role]: rank for role, rank in self._ranks().items()},
            {paths[role]: state for role, state in states.items()},
        )
        steps: list[Step] = [
            Attach(o.role, o.path, PeftEdit, functools.partial(injection.layer, o.path)) for o in operators
        ]
        return steps + self._trained(anatomy, operators)

    def _ranks(self) -> dict[str, int]:
        """Role to rank."""
        return {role: int(rank) for role, _, rank in (each.rpartition(":") for each in self.ranks)}

    def _operators(self, anatomy: Anatomy) -> list[Operator]:
        """The layers to adapt: those that are named, without those that a start gave no rank."""
        operators = targets(anatomy, self.type, self.options)
        if self._start in LINEAR_ONLY:
            for operator in operators:
                if operator.kind != "linear":
                    raise UnsupportedBackboneError(
                        f"peft: init_lora_weights={self._start} is made for linear layers and '{operator.role}' is "
                        f"none; leave it out of target_modules."
                    )
        if not self.ranks:
            return operators
        ranks, known = self._ranks(), {operator.role for operator in operators}
        if unknown := [role for role in ranks if role not in known]:
            raise NothingMatchedError(
                f"peft: ranks names '{unknown[0]}', which is none of the layers that target_modules names on this "
                f"{anatomy.family} backbone."
            )
        return [operator for operator in operators if operator.role in ranks]

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
        """Whether the type starts so, and the config asks for no start of its own; EVA's has a B of zero."""
        if self._start == "eva":
            return True
        own_start = any(name.startswith("init_") and name != "init_r" for name in self.options)
        return self.type not in _MOVED and not own_start and not takes_off(self.type, self.options)

    @property
    def merges(self) -> bool:  # type: ignore[override]
        """Whether PEFT merges layers of this type."""
        return self.type not in NOT_MERGING

    def policy(self, tuned: Tuned) -> Policy | None:
        """AdaLoRA and AdaMSS cut while they train; AdaLoRA, KaSA and MonteCLoRA add to the loss, the last noise too."""
        if self.type == "ADALORA":
            return RankBudget(tuned, self.settings())
        if self.options.get("use_asa"):
            return SubspaceBudget(tuned, self.settings())
        if (kasa := self.options.get("kasa_config")) is not None:
            defaults = reading.plain(reading.config_class("LORA")(kasa_config={}))["kasa_config"]
            return SingularPenalty(tuned, {**defaults, **kasa})
        if self.options.get("monteclora_config") is not None:
            return VariationalPenalty(tuned)
        return None

    def stored(self, tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Without what follows from the backbone's weights and the rest."""
        return without_factors(self.type, tensors)

    def restored(self, tuned: Tuned, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """With it."""
        return complete(self.type, tuned, tensors)

    def settings(self) -> dict[str, Any]:
        """The type and every setting of its config, defaults too, so that a later PEFT makes the same of them."""
        found = {"type": self.type, **reading.known_options(self.type), **self.options}
        if self._start is not None:
            found |= {name: getattr(self, name) for name in _LOOKING} | {"ranks": list(self.ranks)}
        return found

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Peft:
        """Make the method from JSON values.

        Raises:
            ConfigError: If a setting is unknown or refused.
        """
        given = dict(settings)
        own = {name: given.pop(name) for name in _LOOKING if name in given}
        ranks = tuple(given.pop("ranks", ()))
        return cls(type=given.pop("type", "LORA"), options=given, ranks=ranks, **own)

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Peft:
        """Make the method from settings as text: `type`, `config` (a file), those of the config, and ours but `ranks`.

        Raises:
            ConfigError: If a setting is unknown, malformed or refused.
        """
        given = dict(texts)
        kind, values = "LORA", {}
        if "config" in given:
            kind, values = reading.of_file(given.pop("config"))
        kind = given.pop("type", kind).upper()
        types = setting_types(cls)
        own: dict[str, Any] = {}
        for name in [name for name in _LOOKING if name in given]:
            text = given.pop(name)
            try:
                own[name] = read_value(text, types[name])
            except ValueError:
                raise ConfigError(f"peft: {name} must be {type_text(types[name])}, not '{text}'.") from None
        reading.changed(kind, {**values, **given})  # unknown names first
        values |= {name: reading.read_option(kind, name, text) for name, text in given.items()}
        return cls(type=kind, options=values, **own)

    def texts(self) -> dict[str, str]:
        """The inverse of `from_texts`, without defaults and `ranks`: a start that is made of text looks anew."""
        given = {} if self.type == "LORA" else {"type": self.type}
        options = without_usual_details(self.type, self.options)
        given |= {n: reading.option_text(self.type, n, value) for n, value in options.items()}
        own = {name: getattr(self, name) for name in _LOOKING}
        return given | {n: value_text(v) for n, v in own.items() if v != getattr(type(self), n)}


def _feedforward(anatomy: Anatomy, operators: Sequence[Operator], options: Mapping[str, Any]) -> list[str]:
    """The layers whose input, not output, IA3 scales: as named, or those of the MLPs among its targets."""
    wanted = options.get("feedforward_modules")
    if wanted is None:
        return [operator.path for operator in operators if ".mlp." in operator.role]
    inside = named(anatomy, wanted, "feedforward_modules")
    return [operator.path for operator in operators if operator.path in inside]
