from __future__ import annotations

import timm
import torch
from timm.models.vision_transformer import VisionTransformer


def small() -> VisionTransformer:
    """Two blocks of width 16, at 32 px."""
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, embed_dim=16, depth=2, num_heads=2, mlp_ratio=1.0, num_classes=2
    )
