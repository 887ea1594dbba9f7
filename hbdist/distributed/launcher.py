"""Checks of the launcher's environment against the config: neither may silently change what the other says."""

from collections.abc import Mapping, MutableMapping

from hbdist.config.sections import EngineSection
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError

UNSUPPORTED = {
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a device mesh",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker",
}
"""Variables by which accelerate asks for a strategy that hbdist does not have, and the strategies' names."""

OVERRULED = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
"""Beginnings of the variables by which accelerate's classes would change what they are told."""
HARMLESS = ("ACCELERATE_DEBUG_MODE", "ACCELERATE_LOG_LEVEL", "ACCELERATE_CPU_AFFINITY")
"""Those of them that change no result."""


def check_launcher(
    settings: EngineSection, environment: Mapping[str, str], *, max_grad_norm: float | None = None
) -> None:
    """Refuse launcher settings that would silently override the config.

    Args:
        max_grad_norm: the config's `optimizer.max_grad_norm`, if it is known.

    Raises:
        ConfigError: the launcher contradicts the config; the message names both settings.
    """
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", "bf16" if settings.bf16 else "no"):
        raise ConfigError(
            f"The launcher sets mixed_precision: {precision}, the config engine.precision = {settings.precision!r}."
            " Remove mixed_precision from the accelerate config; engine.precision alone sets the precision."
        )
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", "auto"):
        raise ConfigError(
            f"The launcher sets gradient_accumulation_steps: {steps}. Accumulation adds no negatives to a contrastive"
            " batch: remove it from the accelerate config and set batch.size; loss.chunk_tokens bounds the memory."
        )
    clipping = environment.get("ACCELERATE_GRADIENT_CLIPPING", "none")
    if max_grad_norm is not None and _is_number(clipping) and float(clipping) != max_grad_norm:
        raise ConfigError(
            f"The launcher sets gradient_clipping: {clipping}, the config optimizer.max_grad_norm = {max_grad_norm:g}. Remove"
            " gradient_clipping from the accelerate config; optimizer.max_grad_norm alone sets it."
        )
    tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("OMPI_COMM_WORLD_SIZE", "1"))
    if tasks != "1" and "WORLD_SIZE" not in environment:
        raise ConfigError(
            f"{tasks} tasks were started without knowing of one another (WORLD_SIZE is not set): each would train"
            " alone. Start one task with `accelerate launch` or `torchrun`, which starts the processes."
        )
    compiler = environment.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if compiler.lower() != "no":
        raise ConfigError(
            f"The launcher sets dynamo_backend: {compiler}. Models are not compiled here, because chunk shapes keep"
            " changing: remove it from the accelerate config."
        )
    for name, strategy in UNSUPPORTED.items():
        if _is_on(environment, name):
            raise ConfigError(
                f"The launcher asks for {strategy}, which hbdist does not support. Launch with one of"
                " launch/accelerate/*.yaml; launch/accelerate/zero3.yaml shards parameters as FSDP does."
            )


def find_zero(settings: EngineSection, environment: Mapping[str, str]) -> Zero | None:
    """Return DeepSpeed's settings from the config's `engine.deepspeed` or the launcher's file; None if neither is set.

    Raises:
        ConfigError: the two name different files, the launcher asks for DeepSpeed without a file, or the file is invalid.
    """
    launched = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if _is_on(environment, "ACCELERATE_USE_DEEPSPEED") and launched == "none" and not settings.deepspeed:
        raise ConfigError(
            "The launcher asks for DeepSpeed but names no file for it. Add deepspeed_config_file:"
            " launch/deepspeed/zero2.json (or another) under deepspeed_config in the accelerate config, as in"
            " launch/accelerate/zero2.yaml, or set engine.deepspeed in the config."
        )
    if not settings.deepspeed:
        return None if launched == "none" else Zero.load(launched)
    zero = Zero.load(settings.deepspeed)
    if launched != "none" and Zero.load(launched).values != zero.values:
        raise ConfigError(
            f"The launcher sets deepspeed_config_file: {launched}, the config engine.deepspeed ="
            f" {settings.deepspeed!r}, and the files differ. Remove one of the two settings."
        )
    stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
    if (
        launched == "none"
        and stage.isdecimal()
        and _is_on(environment, "ACCELERATE_USE_DEEPSPEED")
        and int(stage) != zero.stage
    ):
        raise ConfigError(
            f"The launcher sets zero_stage: {stage}, the config engine.deepspeed = {settings.deepspeed!r}, which is stage"
            f" {zero.stage}. Remove zero_stage from the accelerate config."
        )
    return zero


def refuse_cpu(environment: Mapping[str, str]) -> None:
    """Refuse a launcher that asks for the CPU where the config computes on GPUs.

    Raises:
        ConfigError: it asks for the CPU.
    """
    if _is_on(environment, "ACCELERATE_USE_CPU"):
        raise ConfigError(
            "The launcher sets use_cpu: true, the config engine.device = 'auto', and there are GPUs. Set engine.device=cpu to"
            " compute on the CPU, or remove use_cpu from the accelerate config (ACCELERATE_USE_CPU)."
        )


def overrule(environment: MutableMapping[str, str]) -> None:
    """Remove what the launcher tells accelerate: it has been checked against the config, which alone decides.

    `ACCELERATE_USE_CPU=true`, for example, would turn DeepSpeed into plain DDP without a word.
    """
    for name in [name for name in environment if name.startswith(OVERRULED) and name not in HARMLESS]:
        del environment[name]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "false").lower() in ("true", "1", "yes", "on", "y", "t")
