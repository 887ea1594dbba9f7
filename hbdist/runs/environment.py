"""Environment of a run, for environment.json: versions, machine and command, but no variables, which may be secret."""

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from hbdist.errors import without_secrets


def environment() -> dict[str, Any]:
    """Return versions, machine and command of this process, for environment.json."""
    packages = ("hbdist", "torch", "accelerate", "deepspeed", "transformers", "tokenizers", "numpy", "webdataset")
    return {
        "command": without_secrets(shlex.join(sys.argv)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in packages},
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "world": int(os.environ.get("WORLD_SIZE", "1")),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
