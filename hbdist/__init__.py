"""Hybrid-batch training of multilingual dense retrievers.

Public names are loaded on first use, so that `import hbdist` does not import torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

_MODULES = {
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
__all__ = sorted(_MODULES)


class _Package(ModuleType):
    """Module type that protects the public names: importing hbdist.train would otherwise bind the name to the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _MODULES or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hbdist' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
