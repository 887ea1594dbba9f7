"""What a launcher says through the environment, held against the config: neither may change a run behind the other's back."""

from collections.abc import Mapping

from hbdist.config.sections import EngineSection
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError


def check_launcher(settings: EngineSection, environment: Mapping[str, str]) -> None:
    """Refuse launcher settings that would change the run behind the config's back.

    Raises:
        ConfigError: naming both places.
    """
    mixed = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    ours = "bf16" if settings.precision == "bf16" else "no"
    if mixed not in ("no", ours):
        raise ConfigError(
            f"The launcher says mixed_precision: {mixed}, the config engine.precision = {settings.precision!r}."
            " Take mixed_precision out of the accelerate config; precision is set by engine.precision alone."
        )
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", "auto"):
        raise ConfigError(
            f"The launcher says gradient_accumulation_steps: {steps}. Accumulation adds no negatives to a contrastive"
            " batch: take it out of the accelerate config and set batch.size; loss.chunk_tokens bounds the memory."
        )
    tasks = environment.get("SLURM_STEP_NUM_TASKS", environment.get("OMPI_COMM_WORLD_SIZE", "1"))
    if tasks != "1" and "WORLD_SIZE" not in environment:
        raise ConfigError(
            f"{tasks} tasks were started, but none of them knows of the others (WORLD_SIZE is not set): each would train"
            " alone. Start one task with `accelerate launch` or `torchrun`, which start the processes."
        )
    compiler = environment.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if compiler.lower() != "no":
        raise ConfigError(
            f"The launcher says dynamo_backend: {compiler}. Models are not compiled here, where chunks have ever other"
            " shapes: take it out of the accelerate config."
        )
    for name, what in (("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"), ("ACCELERATE_USE_PARALLELISM_CONFIG", "a mesh")):
        if _on(environment, name):
            raise ConfigError(
                f"The launcher asks for {what}, which hbdist does not train with. Launch with one of launch/accelerate/*.yaml."
            )
    if _on(environment, "ACCELERATE_USE_FSDP"):
        raise ConfigError(
            "The launcher asks for FSDP, which hbdist does not train with. Launch with"
            " launch/accelerate/zero3.yaml, which shards the same by DeepSpeed, or with launch/accelerate/gpu.yaml."
        )


def find_zero(settings: EngineSection, environment: Mapping[str, str]) -> Zero | None:
    """DeepSpeed's settings: of the config's `engine.deepspeed`, else of the file that the launcher names; None for neither.

    Raises:
        ConfigError: the two name different files, the launcher wants DeepSpeed but names no file, or the file is wrong.
    """
    theirs = environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
    if _on(environment, "ACCELERATE_USE_DEEPSPEED") and theirs == "none" and not settings.deepspeed:
        raise ConfigError(
            "The launcher asks for DeepSpeed and names no file for it. Put deepspeed_config_file:"
            " launch/deepspeed/zero2.json (or another) under deepspeed_config in the accelerate config, as"
            " launch/accelerate/zero2.yaml has it, or set engine.deepspeed in the config."
        )
    if settings.deepspeed:
        ours = Zero.load(settings.deepspeed)
        if theirs != "none" and Zero.load(theirs).values != ours.values:
            raise ConfigError(
                f"The launcher says deepspeed_config_file: {theirs}, the config engine.deepspeed ="
                f" {settings.deepspeed!r}, and they differ. Leave one of them out."
            )
        return ours
    return None if theirs == "none" else Zero.load(theirs)


def _on(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "false").lower() in ("true", "1")
