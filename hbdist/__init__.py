"""Hybrid-batch training of multilingual dense retrievers.

The public names are loaded when first used, so that `import hbdist` imports no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_HOMES = {
    "Batches": "hbdist.training.loader",
    "Config": "hbdist.config.config",
    "ConfigError": "hbdist.errors",
    "DataError": "hbdist.errors",
    "HbdistError": "hbdist.errors",
    "HybridBatchSampler": "hbdist.data.batching.sampler",
    "Manifest": "hbdist.data.shards.manifest",
    "PairDataset": "hbdist.data.batching.sampler",
    "ResumeError": "hbdist.errors",
    "Schedule": "hbdist.data.batching.schedule",
    "Study": "hbdist.studies.api",
    "contrastive_loss": "hbdist.loss.contrastive",
    "submit": "hbdist.launch",
    "train": "hbdist.train",
}

__version__ = "0.1.0"
__all__ = sorted(_HOMES)


class _Package(ModuleType):
    """Keeps the public names for what they are: importing hbdist.train would bind the module to the function's name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hbdist' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
