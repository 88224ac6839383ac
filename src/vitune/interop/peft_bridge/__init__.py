"""Our adapters inside Hugging Face PEFT: `peft.PeftModel.from_pretrained(model, FOLDER)` loads what `Tuned.save` wrote.

```python
from vitune.interop import peft_bridge

peft_bridge.register()
model = peft.PeftModel.from_pretrained(backbone, "adapter")               # a vitune adapter
model = peft.get_peft_model(backbone, peft_bridge.VituneConfig("ssf"))    # a new one; save_pretrained writes ours
```

The bridge uses hooks that PEFT calls internal, so it asks for the releases that it was tested with.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vitune._extras import require
from vitune.errors import ConfigError

if TYPE_CHECKING:
    from vitune.interop.peft_bridge._tuner import VituneConfig as VituneConfig
    from vitune.interop.peft_bridge._tuner import VituneTuner as VituneTuner

__all__ = ["NAME", "TESTED", "VituneConfig", "VituneTuner", "register"]

NAME = "VITUNE"
TESTED = ((0, 21), (0, 22))  # from the first, before the second


def register() -> None:
    """Make PEFT know adapters of vitune, as the type `VITUNE`. Calling it again does nothing.

    Raises:
        ConfigError: If the package peft is missing, or is of a release that the bridge was not tested with.
    """
    peft = require("peft", "peft", "the bridge into peft")
    version = str(peft.__version__)
    low, high = TESTED
    if not low <= _release(version) < high:
        raise ConfigError(
            f"the bridge into peft was tested with peft {low[0]}.{low[1]}, and {version} is installed; install "
            f"'peft>={low[0]}.{low[1]},<{high[0]}.{high[1]}', or load the adapter with vitune.load."
        )
    mapping, tuner = import_module("peft.mapping"), import_module("vitune.interop.peft_bridge._tuner")
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING[NAME] = tuner.VituneConfig
    mapping.PEFT_TYPE_TO_TUNER_MAPPING[NAME] = tuner.VituneTuner
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING[NAME] = "vitune"


def _release(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:2]
    return tuple(int(part) for part in parts if part.isdecimal())


def __getattr__(name: str) -> Any:
    if name not in ("VituneConfig", "VituneTuner"):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    require("peft", "peft", "the bridge into peft")
    return getattr(import_module("vitune.interop.peft_bridge._tuner"), name)
