"""What DeepSpeed is asked for: a JSON file with ZeRO's stage and offloads, and nothing that a config says already.

Batch size, learning rate, clipping and precision have their place in the config. A file that names them too would be a
second place for one fact, and DeepSpeed has defaults of its own (it clips gradients at 1.0), so they are refused here and
written out in full by `Zero.resolved`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbdist.errors import ConfigError

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
"""Keys of DeepSpeed's JSON → the config's key that decides it."""
WHY_NO_FP16 = (
    "fp16 skips updates whose gradient overflows, so that update n would no longer be batch n; use bf16 or fp32"
)
DEVICES = ("none", "cpu")


@dataclass(frozen=True)
class Zero:
    """A DeepSpeed JSON, checked."""

    path: Path
    stage: int
    """0: nothing is sharded; 1: the optimizer's state; 2: gradients too; 3: parameters too (Rajbhandari et al. 2020)."""
    offload_optimizer: bool
    offload_parameters: bool
    values: Mapping[str, Any]
    """All that the file says, less what it leaves to be decided ("auto")."""

    @classmethod
    def load(cls, path: str | Path) -> "Zero":
        """Read and check a DeepSpeed JSON.

        Raises:
            ConfigError: there is no such file, it is no JSON, or it says what belongs into the config.
        """
        path = Path(path)
        values = _decided(_read(path))
        for key, ours in OWNED.items():
            if key in values and not _harmless(key, values[key]):
                why = f" ({WHY_NO_FP16})" if key == "fp16" else ""
                raise ConfigError(
                    f"{path} sets {key} = {json.dumps(values[key])}, which is decided by {ours} in the config alone{why}."
                    f' Take {key} out of the file, or write "auto".'
                )
        zero = values.get("zero_optimization", {})
        stage = zero.get("stage", 0) if isinstance(zero, dict) else zero
        if isinstance(stage, bool) or stage not in (0, 1, 2, 3):
            raise ConfigError(f"{path}: zero_optimization.stage = {stage!r}; expected 0, 1, 2 or 3. Set one of them.")
        offload = {part: _device(path, zero, part) for part in ("offload_optimizer", "offload_param")}
        if offload["offload_param"] and stage < 3:
            raise ConfigError(
                f"{path} offloads parameters at stage {stage}, where each GPU needs them all. Set"
                " zero_optimization.stage to 3, or take offload_param out."
            )
        kept = {key: value for key, value in values.items() if key not in OWNED}
        return cls(path, stage, offload["offload_optimizer"], offload["offload_param"], kept)

    @property
    def every_backward_reduces(self) -> bool:
        """Ranks must make equal numbers of passes: gradients (and at stage 3 parameters) travel in each of them."""
        return self.stage >= 2

    def resolved(self, *, max_grad_norm: float) -> dict[str, Any]:
        """All that DeepSpeed is told: the file's values, and what it would otherwise have its own defaults for."""
        return {
            # DeepSpeed's own AdamW for offloaded states is compiled at the first start, for minutes; torch's is not.
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": {"stage": self.stage},
            **self.values,
            # A step is one batch of DeepSpeed's, whatever the chunks: when one ends is told it at each of them.
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            # At stage 0 it sums the squares in float32; gradients are clipped before it steps.
            "gradient_clipping": max_grad_norm if self.stage else 0.0,
        }

    def __str__(self) -> str:
        parts = [*["optimizer"] * self.offload_optimizer, *["parameters"] * self.offload_parameters]
        return f"DeepSpeed ZeRO-{self.stage}" + (f", {' and '.join(parts)} on the CPU" if parts else "")


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(
            f"{path} is not a file. Give DeepSpeed's JSON, such as launch/deepspeed/zero2.json (paths are relative to"
            " where the command is started)."
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not JSON: {error}. Give DeepSpeed's JSON, as in launch/deepspeed/.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no JSON object. Give DeepSpeed's JSON, as in launch/deepspeed/.")
    return values


def _decided(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is "auto": left for others to decide."""
    inner = {key: _decided(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in inner.items() if value != "auto" and (value != {} or values[key] == {})}


def _harmless(key: str, value: Any) -> bool:
    """A precision that is switched off, or the AdamW that is used anyway with nothing decided about it."""
    if key in ("bf16", "fp16", "amp", "torch_autocast"):
        return isinstance(value, dict) and not value.get("enabled", False)
    return key == "optimizer" and value == {"type": "AdamW"}


def _device(path: Path, zero: Any, part: str) -> bool:
    device = zero.get(part, {}).get("device", "none") if isinstance(zero, dict) else "none"
    if device not in DEVICES:
        raise ConfigError(
            f"{path}: {part}.device = {device!r}; expected {' or '.join(DEVICES)}: checkpoints are not taken from other"
            " places. Set one of them."
        )
    return bool(device != "none")
