"""DeepSpeed's settings: a JSON file with ZeRO's stage and offloads, and nothing that the config already decides.

Batch size, learning rate, clipping and precision are set in the config. A file that sets them too would be a second source
for one fact, and DeepSpeed has defaults of its own (it clips gradients at 1.0), so they are refused here and written out in
full by `Zero.deepspeed_config`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbdist.errors import ConfigError
from hbdist.utils.json_toml import read_json_object

OWNED = {
    "train_batch_size": "batch.size",
    "train_micro_batch_size_per_gpu": "batch.size and loss.chunk_tokens",
    "gradient_accumulation_steps": "batch.size and loss.chunk_tokens",
    "gradient_clipping": "optimizer.max_grad_norm",
    "optimizer": "the section [optimizer]",
    "scheduler": "optimizer.schedule",
    "bf16": "engine.precision",
    "torch_autocast": "engine.precision",
    "amp": "engine.precision",
    "fp16": "engine.precision",
}
"""Keys of DeepSpeed's JSON that the config owns, each with the config key that decides it."""
WHY_NO_FP16 = (
    "fp16 skips updates whose gradient overflows, so that update n would no longer be batch n; use bf16 or fp32"
)
DEVICES = ("none", "cpu")


@dataclass(frozen=True)
class Zero:
    """Checked settings of a DeepSpeed JSON."""

    path: Path
    stage: int
    """0: nothing is sharded; 1: the optimizer's state; 2: gradients too; 3: parameters too (Rajbhandari et al. 2020)."""
    offload_optimizer: bool
    offload_parameters: bool
    values: Mapping[str, Any]
    """Contents of the file, without the values that are left open ("auto")."""

    @classmethod
    def load(cls, path: str | Path) -> "Zero":
        """Read and check a DeepSpeed JSON.

        Raises:
            ConfigError: the file does not exist, is not JSON, or sets something that belongs in the config.
        """
        path = Path(path)
        values = _without_auto(_read(path))
        for key, config_key in OWNED.items():
            if key in values and not _is_harmless(key, values[key]):
                why = f" ({WHY_NO_FP16})" if key == "fp16" else ""
                raise ConfigError(
                    f"{path} sets {key} = {json.dumps(values[key])}, which is decided by {config_key} in the config"
                    f' alone{why}. Remove {key} from the file, or set it to "auto".'
                )
        zero = values.get("zero_optimization", {})
        stage = zero.get("stage", 0) if isinstance(zero, dict) else zero
        if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
            raise ConfigError(f"{path}: zero_optimization.stage = {stage!r}; expected 0, 1, 2 or 3.")
        offload = {part: _is_offloaded(path, zero, part) for part in ("offload_optimizer", "offload_param")}
        if offload["offload_param"] and stage < 3:
            raise ConfigError(
                f"{path} offloads parameters at stage {stage}, where each GPU needs them all. Set"
                " zero_optimization.stage to 3, or remove offload_param."
            )
        values = {key: value for key, value in values.items() if key not in OWNED}
        return cls(path, stage, offload["offload_optimizer"], offload["offload_param"], values)

    @property
    def every_backward_reduces(self) -> bool:
        """True if ranks must make equal numbers of passes: gradients (at stage 3 also parameters) are sent in each."""
        return self.stage >= 2

    def deepspeed_config(self, *, max_grad_norm: float) -> dict[str, Any]:
        """Return DeepSpeed's full config: the file's values, and explicit values where DeepSpeed has defaults of its own."""
        return {
            # DeepSpeed's own AdamW for offloaded states is compiled at the first start, for minutes; torch's is not.
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": self.stage},
            **self.values,
            # A step is one batch for DeepSpeed, however many chunks: each chunk says whether it is the last.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            # At stage 0 it sums the squares in float32; gradients are clipped before it steps.
            "gradient_clipping": max_grad_norm if self.stage else 0.0,
        }

    def __str__(self) -> str:
        parts = [*["optimizer"] * self.offload_optimizer, *["parameters"] * self.offload_parameters]
        return f"DeepSpeed ZeRO-{self.stage}" + (f", {' and '.join(parts)} on the CPU" if parts else "")


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(
        path,
        error=ConfigError,
        remedy="Name a DeepSpeed JSON, as in launch/deepspeed/.",
        missing="Name a DeepSpeed JSON, such as launch/deepspeed/zero2.json (paths are relative to the folder where the"
        " command is started).",
    )


def _without_auto(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values without those that are "auto", which leave the decision to others."""
    inner = {key: _without_auto(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in inner.items() if value != "auto" and (value != {} or values[key] == {})}


def _is_harmless(key: str, value: Any) -> bool:
    """Return True for a precision that is switched off, or for the AdamW that is used anyway, without settings."""
    if key in ("bf16", "fp16", "amp", "torch_autocast"):
        return isinstance(value, dict) and not value.get("enabled", False)
    return key == "optimizer" and value == {"type": "AdamW"}


def _is_offloaded(path: Path, zero: Any, part: str) -> bool:
    device = zero.get(part, {}).get("device", "none") if isinstance(zero, dict) else "none"
    if device not in DEVICES:
        raise ConfigError(
            f"{path}: {part}.device = {device!r}; expected {' or '.join(DEVICES)}, because checkpoints cannot be made from"
            " other devices."
        )
    return bool(device != "none")
