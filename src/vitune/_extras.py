"""Optional dependencies: imported when first needed, with an error that names the extra that brings them."""

from __future__ import annotations

import importlib
from types import ModuleType

from vitune.errors import ConfigError


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: Dotted name of the module.
        extra: The extra of this package that installs it.
        purpose: What it is needed for, as the start of the error's sentence ("reading Parquet files").

    Raises:
        ConfigError: If the module is not installed; the message holds the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.split(".")[0]):
            raise
        raise ConfigError(
            f"{purpose} needs the package '{module.split('.')[0]}', which is not installed; "
            f"install it with: pip install 'vitune[{extra}]'"
        ) from None
