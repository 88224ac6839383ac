"""Wording that the errors of this package share."""

from __future__ import annotations


def sentence(error: Exception) -> str:
    """The class and the first sentence of another library's error.

    Args:
        error: The error.
    """
    text = str(error).strip()
    if not text:
        return type(error).__name__
    return f"{type(error).__name__}: {text.splitlines()[0].partition('. ')[0].rstrip('.')}"


def download_failed(name: str, error: Exception) -> str:
    """The message for a model whose files could not be fetched.

    Args:
        name: The model.
        error: What went wrong.
    """
    return (
        f"The weights of '{name}' cannot be loaded ({sentence(error)}); without network, give a file with "
        "--weights FILE (.safetensors, .npz or .pth), or start from random weights: pretrained=False "
        "(--set pretrained=false)."
    )
