"""What a step of ALaST costs, as formulas; tests hold them against counted operations and saved storages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitune.anatomy import Anatomy


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
) -> ALaSTCosts:
    """The cost of a step where tokens are gone for good, float32, per image.

    A block with n tokens costs 12 n d^2 + 2 n^2 d forward, 12 n d^2 + 5 n^2 d for the gradient of its input, and
    12 n d^2 for those of its weights. It keeps 16 n d where it trains and 10 n d where the
    backward only passes through, with what attention and norms keep beside.

    Args:
        shape: Sizes of the backbone.
        tokens: Tokens that enter each block; none are dropped behind the last.
        trained: The blocks that train.
        train_embeddings: Whether what lies in front of the blocks trains.
        scored: Whether tokens are chosen by attention.
    """
    d, depth, last = shape.width, len(tokens), tokens[-1]
    lowest = -1 if train_embeddings else min(trained)
    embedding = shape.patches * shape.patch_inputs * d
    forward, backward, elements, indices = embedding, 0, 0, 0
    backward += embedding if train_embeddings else 0
    elements += shape.patches * shape.patch_inputs if train_embeddings else 0  # the image
    for block, n in enumerate(tokens):
        linear, attention = 12 * n * d * d, n * n * d
        forward += linear + 2 * attention
        drops = block + 1 < depth and tokens[block + 1] < n
        if drops and scored:
            forward += n * d  # the class token's row
        if block in trained:
            backward += linear
        if block >= lowest:  # that of the lowest one as well, for the weight of its first norm
            backward += linear + 5 * attention
            elements += (16 if block in trained else 10) * n * d + shape.heads * n + 4 * n
            if drops:
                indices += tokens[block + 1]
    forward += d * shape.classes
    backward += 2 * d * shape.classes
    elements += 2 * last * d + 2 * last  # the final norm, and its output, of which the head reads one token
    return ALaSTCosts(forward, backward, 4 * elements + 8 * indices)
