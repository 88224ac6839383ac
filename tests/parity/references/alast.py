"""ALaST: a co-author's training steps with the blocks that were drawn there, and an independent worked example."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import vitune
from tests.parity.backbones import build, place
from tests.parity.case import Case, none_new
from tests.parity.golden import Golden
from tests.parity.harness import ABSOLUTE, GRAD_ABSOLUTE, GRAD_RELATIVE, distance, fill
from vitune.methods.alast import inclusion, probabilities
from vitune.methods.alast.policy import ALaSTPolicy
from vitune.methods.alast.selection import kept_patches, next_budget, select
from vitune.methods.alast.steering import Steering
from vitune.methods.alast.tokens import class_token_change, class_token_scores

# Adam divides a gradient by its own size: where that is rounding alone, so is the direction of a whole step.
# The size of a step is the learning rate, so what rounding does to later steps grows with it.
NOISE = 1e-5
USUAL_LR = 1e-3
OPTIONS = ("delta_reduction", "budget_timing", "selection", "token_count", "first_delta", "train_embeddings")


def settings(golden: Golden) -> vitune.ALaST:
    found = golden.hyperparameters
    options = {name: found[name] for name in OPTIONS if name in found}
    clip = found.get("clip", (0.5, 1.0))
    return vitune.ALaST(
        k=found["K"],
        budget_lr=found["alpha"],
        initial_budget=found.get("initial_budget", 0.9),
        budget_range=(float(clip[0]), float(clip[1])),
        **options,
    )


def case(golden: Golden) -> Case:
    return Case(settings(golden), none_new)


def train_steps(golden: Golden) -> dict[str, Any]:
    """Several steps of Adam with the reference's blocks; logits of the start and of the end in evaluation."""
    tensors, width = golden.tensors, golden.backbone["embed_dim"]
    tuned = vitune.apply(build(golden.backbone), settings(golden))
    params = golden.group("param")
    unfilled = fill(tuned.model, params, {name: place(name, width) for name in params})
    (policy,) = tuned.policies
    assert isinstance(policy, ALaSTPolicy)
    trained = tuned.trainable()
    optimizer = torch.optim.Adam(trained.values(), lr=golden.hyperparameters["lr"], eps=1e-8)
    ours: dict[str, list[Tensor]] = {}
    result = _Comparison(golden)
    tuned.model.eval()
    with torch.no_grad():
        result.near("logits", tuned(tensors["input"][0]))
    tuned.model.train()
    for step, blocks in enumerate(tensors["aux/trained"].tolist()):
        policy.before_step(step)
        policy.train_blocks(tuple(blocks))
        with _Seen(policy.steering) as seen:
            before = list(policy.steering.budgets)
            logits = tuned(tensors["input"][step])
        loss = nn.functional.cross_entropy(logits, tensors["labels"][step])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if step == 0:
            result.near("loss", loss)
            result.gradients({place(n, width).name: n for n in golden.group("grad")}, trained)
        result.note_noise(trained)
        optimizer.step()
        policy.after_step()
        values = {"budget_before": before, "budget_after": policy.steering.budgets, "delta": seen.deltas}
        for name, value in values.items():
            ours.setdefault(name, []).append(torch.tensor(value))
        ours.setdefault("train_logits", []).append(logits.detach())
        ours.setdefault("train_loss", []).append(loss.detach())
        ours.setdefault("n_tokens", []).append(torch.tensor([*policy.steering.entered(), seen.tokens_left]))
        result.tokens(step, seen)
    for name, values in ours.items():
        result.steps(f"aux/{name}", torch.stack(values))
    for name in golden.group("aux"):
        if name.startswith("final_param/"):
            where = place(name.removeprefix("final_param/"), width)
            result.final(f"aux/{name}", where.name, tuned.model.state_dict()[where.name])
    tuned.model.eval()
    with torch.no_grad():
        result.near("aux/final_eval_logits", tuned(tensors["input"][0]), result.later)
    used = {"input", "labels", "aux/trained", *(f"param/{name}" for name in params)}
    found = result.verdict(used, unfilled)
    there = {"logits", "loss"} <= tensors.keys() and found["grad_excess"] is not None
    return found | {"ok": found["ok"] and there}


class _Seen:
    """Looks over the shoulder of the blocks of one forward."""

    def __init__(self, steering: Steering) -> None:
        self._steering, self.deltas = steering, [0.0] * steering.blocks
        self.scores: dict[int, Tensor] = {}
        self.order: dict[int, Tensor] = {}
        self.kept: dict[int, Tensor] = {}
        self.tokens_left = 0
        self._block = 0

    def __enter__(self) -> _Seen:
        steering, note, choose = self._steering, self._steering.note, self._steering.choose

        def noting(block: int, before: Tensor, after: Tensor) -> None:
            self._block = block
            mean = steering.settings.delta_reduction == "mean"
            self.deltas[block] = class_token_change(before, after, mean=mean).item()
            note(block, before, after)

        def choosing(budget: float, patches: int, like: Tensor) -> Tensor | None:
            rows = choose(budget, patches, like)
            places = steering.forward.places.get(self._block)
            every = torch.arange(patches).expand(like.shape[0], -1) if places is None else places
            self._record(self._block, every, rows, class_token_scores(*steering.forward.watched))  # type: ignore[misc]
            return rows

        steering.note, steering.choose = noting, choosing  # type: ignore[method-assign]
        return self

    def _record(self, block: int, every: Tensor, rows: Tensor | None, scores: Tensor) -> None:
        front = torch.zeros(len(every), 1, dtype=torch.long)
        self.order[block] = torch.cat([front, every + 1], 1)
        self.scores[block] = scores
        kept = every if rows is None else every.gather(1, rows)
        self.kept[block] = torch.cat([front, kept + 1], 1).sort(1).values

    def __exit__(self, *exception: object) -> None:
        steering = self._steering
        del steering.note, steering.choose
        # Ours drops nothing behind the last block; the reference would drop so many.
        last = steering.blocks - 1
        patches = steering.entered()[last] - 1
        self.tokens_left = 1 + kept_patches(steering.budgets[last], patches, steering.settings.token_count)


class _Comparison:
    """Collects what was compared and what was off."""

    def __init__(self, golden: Golden) -> None:
        self._golden = golden
        self._near: dict[str, float] = {}
        self._excess: dict[str, float] = {}
        self._noisy: dict[str, Tensor] = {}
        self._compared: set[str] = set()
        self._far: list[str] = []
        self._missing: set[str] = set()
        # Of what later steps give.
        self.later = 2 * ABSOLUTE * max(1.0, golden.hyperparameters.get("lr", 0.0) / USUAL_LR)

    def near(self, name: str, ours: Tensor, allowed: float = ABSOLUTE) -> None:
        if name not in self._golden.tensors:
            return
        self._compared.add(name)
        reference = self._golden.tensors[name]
        if reference.is_floating_point():
            self._near[name] = distance(ours, reference)
            off = self._near[name] > allowed
        else:
            off = ours.shape != reference.shape or not torch.equal(ours.long(), reference.long())
        if off:
            self._far.append(name)

    def steps(self, name: str, ours: Tensor) -> None:
        """A value per step: deltas are sums of thousands of squares, all else is absolute."""
        largest = self._golden.tensors[name].abs().max().item() if name in self._golden.tensors else 0.0
        self.near(name, ours, self.later * max(1.0, largest) if name == "aux/delta" else self.later)

    def note_noise(self, trained: dict[str, nn.Parameter]) -> None:
        """Remember where a gradient was rounding: a few single weights, and the key third of a qkv bias."""
        for name, parameter in trained.items():
            if parameter.grad is None:
                continue
            size = parameter.grad.abs()
            noisy = size <= NOISE * size.max()
            if name.endswith("attn.qkv.bias"):
                third = len(size) // 3
                noisy[third : 2 * third] = True
            self._noisy[name] = self._noisy.get(name, torch.zeros_like(noisy)) | noisy

    def final(self, name: str, where: str, ours: Tensor) -> None:
        """Weights after Adam, but for those that followed rounding; no more than a few may have."""
        reference = self._golden.tensors[name]
        noisy = self._noisy.get(where, torch.zeros_like(ours, dtype=torch.bool))
        single = noisy.sum() if not where.endswith("attn.qkv.bias") else noisy.sum() - len(noisy) // 3
        if single > max(5, 0.02 * noisy.numel()):
            self._far.append(f"{name}: {int(single)} gradients are rounding")
        self.near(name, torch.where(noisy, reference, ours), self.later)

    def gradients(self, names: dict[str, str], trained: dict[str, nn.Parameter]) -> None:
        for where, name in names.items():
            gradient, reference = trained[where].grad, self._golden.tensors[f"grad/{name}"]
            if gradient is not None:
                self._compared.add(f"grad/{name}")
                allowed = GRAD_RELATIVE * reference.abs().max().item() + GRAD_ABSOLUTE
                self._excess[name] = distance(gradient, reference) - allowed
        self._missing |= {name for name, p in trained.items() if p.grad is not None} - names.keys()

    def tokens(self, step: int, seen: _Seen) -> None:
        """Scores and choices, matched by position since the order of tokens is free; ours makes none behind the last
        block, whose tensors of the reference serve nothing but themselves."""
        for name in self._golden.group("aux"):
            found = re.fullmatch(rf"step{step}/layer(\d+)/(\w+)", name)
            if found is None:
                continue
            block, kind, key = int(found[1]), found[2], f"aux/{name}"
            if block not in seen.kept:
                self._compared.add(key)
            elif kind == "original_index":
                self.near(key, seen.kept[block])
            elif kind == "order_in":
                same = torch.equal(seen.order[block].sort(1).values, self._golden.tensors[key].sort(1).values)
                self._compared.add(key)
                self._far += [] if same else [key]
            elif kind == "cls_score":
                theirs = self._golden.tensors[f"aux/step{step}/layer{block}/order_in"]
                by_place = seen.scores[block].gather(1, seen.order[block].argsort(1))
                self.near(key, by_place.gather(1, theirs.argsort(1).argsort(1)), self.later)

    def verdict(self, used: set[str], ours_alone: set[str]) -> dict[str, Any]:
        uncompared = sorted(self._golden.tensors.keys() - self._compared - used)
        uncompared += sorted(f"ours: {name}" for name in ours_alone | self._missing)
        fits = not self._far and all(value <= 0 for value in self._excess.values())
        return {
            "logits_max_abs": self._near.get("logits"),
            "loss_abs": self._near.get("loss"),
            "grad_excess": max(self._excess.values(), default=None),
            "far": self._far,
            "compared": len(self._compared),
            "uncompared": uncompared,
            "ok": fits and bool(self._compared) and not uncompared,
        }


def worked_example(golden: Golden) -> dict[str, Any]:
    """The arithmetic alone."""
    tensors, found = golden.tensors, golden.hyperparameters
    alpha, limits = found["alpha"], (float(found["clip"][0]), float(found["clip"][1]))
    steps, layers, batch, k = (found[name] for name in ("steps", "layers", "batch", "K"))
    result = _Comparison(golden)
    cls = tensors["cls"].double()
    deltas: dict[bool, list[list[float]]] = {}
    for mean in (False, True):
        change = [[_change(cls[s, i], cls[s, i + 1], mean) for i in range(layers)] for s in range(steps)]
        deltas[mean] = change
        result.steps("aux/delta", torch.tensor(change))
        result.near(f"delta_{'mean' if mean else 'sum'}", torch.tensor(change), 1e-4)

    def budgets(
        change: list[list[float]], start: float, rate: float, ends: Any, reference: bool = False
    ) -> Tensor:
        rows = [[start] * layers]
        before = change[0] if reference else [found.get("initial_delta", 0.0)] * layers
        for now in change:
            rows.append(
                [next_budget(b, d, p, rate, ends) for b, d, p in zip(rows[-1], now, before, strict=True)]
            )
            before = now
        return torch.tensor(rows)

    start = found["initial_budget"]
    published = budgets(deltas[False], start, alpha, limits)
    result.near("budget_sum", published)
    result.near("budget_mean_alpha_times_B", budgets(deltas[True], start, alpha * batch, limits))
    result.near("budget_open", budgets(deltas[True], 1.0, alpha, (0.0, 1.0)))
    result.near("budget_first_delta_as_reference", budgets(deltas[False], start, alpha, limits, True))
    weights = {"softmax_sample": [], "linear_sample": []}
    drawn: dict[str, list[list[int]]] = {"softmax_sample": [], "linear_sample": [], "topk": []}
    for step in range(steps):
        row = tensors["budget_sum"][step].double().tolist()
        for selection in weights:
            weights[selection].append(probabilities(row, selection))  # type: ignore[arg-type]
        for selection, rows in drawn.items():
            rows.append(list(select(row, k, selection, tensors["gumbel"][step].tolist())))  # type: ignore[arg-type]
    for selection, short in (("softmax_sample", "softmax"), ("linear_sample", "linear")):
        result.near(f"prob_{short}", torch.tensor(weights[selection]))
        result.near(f"inclusion_{short}", torch.tensor([inclusion(p, k) for p in weights[selection]]))
    for selection, short in (("softmax_sample", "softmax"), ("linear_sample", "linear"), ("topk", "topk")):
        result.near(f"trained_{short}", torch.tensor(drawn[selection]))
    _tokens(result, golden, tensors["budget_sum"][-1].double().tolist())
    return result.verdict({"cls", "gumbel", *(n for n in tensors if n.startswith("attn_cls_layer"))}, set())


def _change(before: Tensor, after: Tensor, mean: bool) -> float:
    return class_token_change(before, after, mean=mean).item()


def _tokens(result: _Comparison, golden: Golden, budgets: list[float]) -> None:
    """Which tokens stay, from the class token's attention that the example gives."""
    tokens = [golden.hyperparameters["tokens"]]
    original = None
    for layer, budget in enumerate(budgets):
        attention = golden.tensors[f"attn_cls_layer{layer}"]
        # A query of one and keys that are the logs give back the attention they came from.
        ones = attention.new_ones(*attention.shape[:2], 1)
        score = class_token_scores(ones, attention.log()[..., None], 1.0)
        result.near(f"score_layer{layer}", score)
        patches = attention.shape[-1] - 1
        for count, name in (
            ("with_class", f"keep_layer{layer}"),
            ("patches", f"keep_patchcount_layer{layer}"),
        ):
            kept = kept_patches(budget, patches, count)  # type: ignore[arg-type]
            rows = 1 + score[:, 1:].topk(kept, dim=1).indices
            keep = torch.cat([torch.zeros(len(rows), 1, dtype=torch.long), rows], 1)
            result.near(name, keep)
            if count == "with_class":
                result.near(f"keep_sorted_layer{layer}", keep.sort(1).values)
                original = keep if original is None else original.gather(1, keep)
                result.near(f"original_index_layer{layer}", original.sort(1).values)
                tokens.append(1 + kept)
    result.near("n_tokens", torch.tensor(tokens))


KINDS: dict[str, Callable[[Golden], dict[str, Any]]] = {
    "train_steps": train_steps,
    "worked_example": worked_example,
}
