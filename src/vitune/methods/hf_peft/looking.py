"""What the starts that look at data find: EVA, CorDA and LoRA-GA, each by PEFT's own function.

These watch linear layers by hooks. Here they watch a copy of the backbone of whose layers only the adapted ones run: a
second copy computes its own by those, all rows of a batch side by side. So they see layers that an attention reads
without calling them, and windows and maps as rows of tokens.
"""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitune.anatomy import Operator, logits
from vitune.errors import ConfigError, DataError, TrainingError, VituneError
from vitune.surgery import Attach, Edit, carry_out, hold

Batch = tuple[Tensor, Tensor]
Run = Callable[[Tensor], Tensor]
# EVA goes on until its components settle; PEFT sets no end to that.
MOST_PASSES = 1000


def look(
    start: str,
    watched: nn.Module,
    runner: nn.Module,
    operators: Sequence[Operator],
    config: Any,
    batches: Iterable[Batch],
) -> dict[str, Any]:
    """Let PEFT look at data.

    Args:
        start: One of `vitune.methods.hf_peft.starts.DATA_STARTS`.
        watched: A copy of the backbone with weights of its own in the adapted layers.
        runner: Another; edited here.
        operators: The adapted layers, linear ones and others, which PEFT passes over.
        config: PEFT's config for exactly these layers.
        batches: Images (B, channels, height, width) or token ids (B, N), and labels (B,).

    Returns:
        Path to what was found there: components of the input (rank, in) by EVA, singular vectors by CorDA, the
        gradient (out, in) by LoRA-GA.

    Raises:
        DataError: If there is no batch.
        ConfigError: If PEFT cannot make a start of these batches.
        TrainingError: If a loss is not finite, or no gradient reaches the layers.
    """
    shown = list(batches)
    if not shown:
        raise DataError(f"peft: there is no training image for init_lora_weights={start} to look at.")
    device = next(watched.parameters()).device
    linear = [o for o in operators if isinstance(watched.get_submodule(o.path), nn.Linear)]
    for operator in linear:
        layer = _By(watched.get_submodule(operator.path))
        carry_out(runner, [Attach(operator.role, operator.path, Elsewhere, lambda layer=layer: layer)])
    runner.train(start == "lora_ga")  # as PEFT does; its other functions evaluate
    hold(runner, ())

    def run(images: Tensor) -> Tensor:
        return logits(runner, images.to(device))

    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            found = _FINDERS[start](watched, config, run, shown)
    except VituneError:
        raise
    except Exception as error:  # whatever PEFT raises for data or settings that do not fit
        text = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ConfigError(f"peft: init_lora_weights={start} cannot look at these images: {text}.") from error
    paths = [operator.path for operator in linear]
    return {path: found[path] for path in paths if path in found}


class Elsewhere(Edit):
    """Computes a linear layer by one that stands in another model."""

    key = "elsewhere"

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        return self.vitune.elsewhere(x)


class _By(nn.Module):
    """Calls a layer of another model with one row beside the other, (1, N, in), as PEFT's functions expect."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = (layer,)  # in a tuple: not a part of this model

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        y = self.layer[0](x.reshape(1, -1, x.shape[-1]))
        return y.reshape(*x.shape[:-1], y.shape[-1])


def _components(watched: nn.Module, config: Any, run: Run, batches: Sequence[Batch]) -> Mapping[str, Any]:
    """EVA: principal components of the inputs, batch by batch and round again until they settle."""
    passes, rows = 0, []
    layers = [module for module in watched.modules() if isinstance(module, nn.Linear)]
    noting = [
        one.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[1])) for one in layers
    ]
    wanted = round(max(config.r, *config.rank_pattern.values(), 0) * config.eva_config.rho)

    def forward(model: nn.Module, images: Tensor) -> None:
        nonlocal passes
        passes += 1
        if passes > MOST_PASSES:
            raise ConfigError(
                f"peft: after {MOST_PASSES} batches EVA's components have not settled; set a smaller tau or rho in "
                f"eva_config, a smaller r, or a larger batch_size."
            )
        run(images)
        if passes == 1:
            for hook in noting:
                hook.remove()
            if min(rows) < wanted:  # PEFT would pass over such batches for ever
                raise ConfigError(
                    f"peft: EVA looks for {wanted} components of what a layer reads, and a batch has {min(rows)} rows "
                    f"of it; set a larger batch_size, or a smaller r, or rho in eva_config."
                )

    find = importlib.import_module("peft.tuners.lora.eva").get_eva_state_dict
    return find(
        watched,
        [images for images, _ in batches],
        config,
        forward_fn=forward,
        prepare_model_inputs_fn=lambda images, config: None,  # masks of texts
        prepare_layer_inputs_fn=None,
        gather_distributed_inputs=False,  # every process sees all batches
        show_progress_bar=False,
    )


def _eigens(watched: nn.Module, config: Any, run: Run, batches: Sequence[Batch]) -> Mapping[str, Any]:
    """CorDA: singular vectors of the weights times the covariance of their inputs, image by image."""

    def run_model() -> None:
        for images, _ in batches:
            for image in images.split(1):
                run(image)

    importlib.import_module("peft.tuners.lora.corda").preprocess_corda(watched, config, run_model)
    return _noted(watched, "eigens")


def _gradients(watched: nn.Module, config: Any, run: Run, batches: Sequence[Batch]) -> Mapping[str, Any]:
    """LoRA-GA: the mean over batches of the gradient of the cross-entropy."""

    def train_step() -> None:
        for i, (images, labels) in enumerate(batches):
            scores = run(images).float()
            loss = F.cross_entropy(scores.movedim(-1, 1), labels.to(scores.device))
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"peft: the loss of batch {i + 1} of init_lora_weights=lora_ga is {loss.item()}; check the images "
                    f"and the backbone's weights."
                )
            loss.backward()

    importlib.import_module("peft.tuners.lora.loraga").preprocess_loraga(watched, config, train_step)
    found = _noted(watched, "_peft_loraga_grad")
    if not any(gradient.any() for gradient in found.values()):
        raise TrainingError(
            "peft: every gradient of init_lora_weights=lora_ga is zero, since none passes the head; draw the head's "
            "weights at random."
        )
    return found


def _noted(watched: nn.Module, name: str) -> dict[str, Any]:
    """What PEFT left at the layers."""
    return {path: vars(module)[name] for path, module in watched.named_modules() if name in vars(module)}


_FINDERS = {"eva": _components, "corda": _eigens, "lora_ga": _gradients}
