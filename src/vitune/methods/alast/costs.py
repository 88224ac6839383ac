"""What a step of ALaST costs, as formulas; tests hold them against counted operations and saved storages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitune.anatomy import Anatomy
from vitune.errors import ConfigError
from vitune.lean import Level

_READ = 1  # tokens that the head reads


@dataclass(frozen=True)
class BlockShape:
    """Sizes of a plain vision transformer with an MLP four times its width.

    Attributes:
        width: D.
        heads: H.
        patches: Patch tokens of an image.
        prefix: Tokens in front of them.
        patch_inputs: Numbers in one patch: channels * height * width.
        classes: Rows of the head.
    """

    width: int
    heads: int
    patches: int
    prefix: int
    patch_inputs: int
    classes: int

    @classmethod
    def of(cls, anatomy: Anatomy) -> BlockShape:
        """The sizes of a backbone.

        Args:
            anatomy: With a linear head.
        """
        head = anatomy.model.get_submodule(anatomy.head[0])
        patches = anatomy.grid[0] * anatomy.grid[1]
        channels, height, width = anatomy.input_size
        return cls(
            width=anatomy.width,
            heads=anatomy.blocks[0].num_heads,
            patches=patches,
            prefix=anatomy.num_prefix_tokens,
            patch_inputs=channels * height * width // patches,
            classes=int(head.out_features),  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class ALaSTCosts:
    """Of one image in one step.

    Attributes:
        forward_macs: Multiply-accumulates of the forward.
        backward_macs: Of the backward, with fused attention, which computes its scores again.
        saved_bytes: What autograd keeps, without the loss.
    """

    forward_macs: int
    backward_macs: int
    saved_bytes: int

    @property
    def step_flops(self) -> int:
        """Forward and backward, a multiply-accumulate being two."""
        return 2 * (self.forward_macs + self.backward_macs)


def alast_costs(
    shape: BlockShape,
    tokens: Sequence[int],
    trained: Sequence[int],
    *,
    train_embeddings: bool = True,
    scored: bool = True,
    memory: Level = "stock",
) -> ALaSTCosts:
    """The cost of a step where tokens are gone for good, float32, per image.

    With stock autograd a block with n tokens costs 12 n d^2 + 2 n^2 d forward, 12 n d^2 + 5 n^2 d for the gradient of
    its input, and 12 n d^2 for those of its weights. It keeps 16 n d where it trains and 10 n d where the backward only
    passes through, with what attention and norms keep beside.

    From level `fast` on it keeps 9 n d, trained or not, and the backward makes its attention again (2 n^2 d); `lean`
    keeps 5 n d and makes the MLP's first layer again (4 n d^2), `leaner` 2 n d and queries, keys and values too
    (3 n d^2). In the last block only the token that the head reads asks and passes the MLP.

    Args:
        shape: Sizes of the backbone.
        tokens: Tokens that enter each block; none are dropped behind the last.
        trained: The blocks that train.
        train_embeddings: Whether what lies in front of the blocks trains.
        scored: Whether tokens are chosen by attention.
        memory: Level of the step: `stock`, `fast`, `lean` or `leaner`.

    Raises:
        ConfigError: If the level is `leanest`, whose blocks run in parts.
    """
    if memory == "leanest":
        raise ConfigError("alast_costs: there is no formula for memory 'leanest'; use 'leaner' or less.")
    d, depth = shape.width, len(tokens)
    lowest = -1 if train_embeddings else min(trained, default=depth)
    embedding = shape.patches * shape.patch_inputs * d
    forward, backward, elements, indices = embedding, 0, 0, 0
    backward += embedding if train_embeddings else 0
    elements += shape.patches * shape.patch_inputs if train_embeddings else 0  # the image
    for block, n in enumerate(tokens):
        last = block + 1 == depth
        asking = _READ if last and memory != "stock" else n
        linear, attention = (3 * n + 9 * asking) * d * d, asking * n * d
        forward += linear + 2 * attention
        drops = not last and tokens[block + 1] < n
        if drops and scored:
            forward += n * d  # the class token's row
        if block in trained:
            backward += linear
        if block >= lowest:  # that of the lowest one as well, for the weight of its first norm
            backward += linear + 5 * attention
            if memory == "stock":
                elements += (16 if block in trained else 10) * n * d + shape.heads * n + 4 * n
            else:
                backward += 2 * attention + _made_again(n, asking, memory, last=last) * d * d
                elements += _kept(n, asking, memory, last=last) * d + shape.heads * asking + 2 * (n + asking)
            if drops:
                indices += tokens[block + 1]
    forward += d * shape.classes
    backward += 2 * d * shape.classes
    # The final norm, and its output, of which the head reads one token; it runs for that one alone but in a stock step.
    elements += 2 * (d + 1) * tokens[-1] if memory == "stock" else 2 * _READ
    return ALaSTCosts(forward, backward, 4 * elements + 8 * indices)


def _made_again(n: int, asking: int, memory: Level, *, last: bool) -> int:
    """Products that the backward makes again, in d^2 multiply-accumulates."""
    hidden = 4 * asking if memory in ("lean", "leaner") else 0
    return hidden + (3 * n if last or memory == "leaner" else 0)


def _kept(n: int, asking: int, memory: Level, *, last: bool) -> int:
    """Rows of d numbers that a block keeps: its input, the stream behind attention, q, k, v, the MLP's first layer."""
    hidden = 4 * asking if memory == "fast" else 0
    if last:  # the third is the block's output, which the final norm reads; with so little kept, q, k, v are made again
        return n + 2 * asking + hidden
    return 2 * n + (3 * n if memory != "leaner" else 0) + hidden
