"""What methods cost on a backbone, side by side: counted exactly, and timed where asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch

from vitune.adapters import stored_bytes
from vitune.lean import Level
from vitune.measure import compare_seconds, forecast_memory, peak_memory
from vitune.tasks.costing import STOCK, RealStep, hold_a_step, load_framework
from vitune.tasks.profile_result import FULL, ProfileResult, ProfileRow, ProfileSettings, write_profile
from vitune.tasks.skipping import SkippingMeasured, measure_skipping, skipping_of
from vitune.training import moments
from vitune.tuned import Tuned

__all__ = ["FULL", "ProfileResult", "ProfileRow", "ProfileSettings", "profile", "write_profile"]


def profile(settings: ProfileSettings, tell: Callable[[str], None] = lambda text: None) -> ProfileResult:
    """Count, and where asked for time, methods on a backbone; stock full fine-tuning is always the first row.

    Args:
        settings: What to profile.
        tell: Is told what is being measured.

    Raises:
        VituneError: If a method does not fit the backbone, or the backbone cannot be counted.
    """
    wanted: list[tuple[str, Level]] = [
        (FULL, STOCK),
        *((method, level) for method in settings.methods for level in settings.levels),
    ]
    wanted = list(dict.fromkeys(wanted))
    rows: list[ProfileRow] = []
    for method, level in wanted:
        tell(f"counting {method}, memory {level}")
        rows.append(_counted(settings, method, level))
    if settings.peak:
        for i, (method, level) in enumerate(wanted):
            tell(f"measuring the peak of {method}, memory {level}")
            step = partial(hold_a_step, settings.subject, method, level, settings.batch_size)
            loaded = partial(load_framework, settings.subject.precision)
            measured = peak_memory(step, device=settings.device, before=loaded)
            rows[i] = replace(rows[i], peak_bytes=measured.increase)
    if settings.rounds:
        tell(f"timing {len(wanted)} steps, {settings.rounds} rounds")
        rows = _timed(settings, wanted, rows)
    return ProfileResult(settings, tuple(rows))


def _counted(settings: ProfileSettings, method: str, level: Level) -> ProfileRow:
    subject, images = settings.subject, settings.batch_size
    tuned = subject.tuned(method, level, weights=False)
    shape = (images, *tuned.anatomy.input_size)
    saved = []
    for setting in moments.pass_settings(tuned.policies):
        with setting:
            saved.append(_saved(settings, tuned, shape))
    deployed = subject.deployed(method, weights=False)
    forward = subject.inference_work(deployed, tuned.anatomy.input_size, images).flops
    masked = None
    skips = skipping_of(tuned)
    if skips is not None:
        with skips.dense():
            work = subject.inference_work(tuned.model.eval(), tuned.anatomy.input_size, images)
        masked = work.flops // images
    return ProfileRow(
        method=method,
        memory=level,
        trained_parameters=tuned.costs().trained_parameters,
        adapter_bytes=stored_bytes(tuned),
        forward_flops=forward // images,
        step_flops=subject.step_work(tuned, images).flops // images,
        saved_activation_bytes=max(saved),
        forecast_bytes=subject.step_peak(tuned, images),
        masked_flops=masked,
    )


def _skipping(step: RealStep, rounds: int) -> SkippingMeasured | None:
    if skipping_of(step.tuned) is None:
        return None
    with step.autocast():
        return measure_skipping(step.tuned, [step.images], rounds=rounds)


def _saved(settings: ProfileSettings, tuned: Tuned, shape: tuple[int, ...]) -> int:
    forecast = forecast_memory(tuned.model, shape, precision=settings.precision, device=settings.device)
    return forecast.saved_activations


def _timed(
    settings: ProfileSettings, wanted: Sequence[tuple[str, Level]], rows: list[ProfileRow]
) -> list[ProfileRow]:
    synchronize = torch.cuda.synchronize if settings.device == "cuda" else None
    subject = settings.subject
    steps = {
        f"{method} {level}": RealStep(
            subject, subject.tuned(method, level, weights=True), settings.batch_size
        )
        for method, level in wanted
    }
    base = f"{FULL} {STOCK}"
    training = compare_seconds(dict(steps), rounds=settings.rounds, synchronize=synchronize)
    step = steps[base]
    models = {method: subject.deployed(method, weights=True).to(settings.device) for method, _ in wanted}

    def infer(model: torch.nn.Module) -> None:
        with torch.no_grad(), step.autocast():
            model(step.images)

    forwards = {method: partial(infer, model) for method, model in models.items()}
    inference = compare_seconds(forwards, rounds=settings.rounds, synchronize=synchronize)
    timed = []
    for row, name in zip(rows, steps, strict=True):
        ratio = training[name].ratio_to(training[base])
        forward = inference[row.method].ratio_to(inference[FULL])
        timed.append(
            replace(
                row,
                step_seconds=training[name].median,
                step_ratio=(ratio.median, ratio.low, ratio.high),
                inference_ratio=(forward.median, forward.low, forward.high),
                skipping=_skipping(steps[name], settings.rounds),
            )
        )
    return timed
