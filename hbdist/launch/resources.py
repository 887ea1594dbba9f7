"""Resources of a job: nodes, GPUs, time, and where it runs."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from hbdist.config.explain import explain
from hbdist.config.sections import Section
from hbdist.errors import ConfigError
from hbdist.utils.json_toml import read_toml

SBATCH: dict[str, dict[str, str]] = read_toml(Path(__file__).with_name("sbatch.toml"))
"""Options of sbatch that follow from something else ("owned"), and variables with a user's defaults ("defaults")."""


class Resources(Section, strict=True):
    """Resources of each job of a submission. There is one rank per GPU, or `tasks_per_node` ranks per node without GPUs.

    Raises:
        ConfigError: a value is wrong, or contradicts another.
    """

    cluster: Literal["slurm", "local", "debug"] = "slurm"
    """slurm: a batch job; local: processes on this workstation that outlive the submitting one; debug: this process."""
    nodes: int = Field(1, ge=1)
    """Number of nodes."""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs on each node; 0: ranks train on the CPU."""
    tasks_per_node: int | None = Field(None, ge=1)
    """Ranks on each node; unset: one per GPU, or one."""
    cpus_per_task: int | None = Field(None, ge=1)
    """CPUs of each rank; unset: Slurm decides."""
    memory: str = ""
    """Main memory per node, as for sbatch's --mem: 64G; empty: Slurm decides."""
    hours: float = Field(12.0, gt=0)
    """Time limit in hours of each start, after which a run resumes; only on Slurm."""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    setup: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Lines of shell to run before a job begins: module load cuda, export NCCL_SOCKET_IFNAME=ib0."""
    extra: Mapping[str, str | int | bool] = Field(default_factory=dict)
    """Further options of sbatch: {"reservation": "mine", "exclusive": True}."""
    signal_delay_s: int = Field(120, ge=1)
    """Seconds before the time limit at which a run is told to save; longer than a step and a checkpoint take."""
    max_timeouts: int = Field(1000, ge=0)
    """Number of times that a job which has reached its time limit is started again."""
    snapshot: bool = True
    """Run the code as it is at submission, not as it is when the job starts."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain(error, type(self))) from None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise ValueError(
                f"tasks_per_node = {self.tasks_per_node} and gpus_per_node = {self.gpus_per_node}: a rank trains on one GPU."
                " Leave tasks_per_node out"
            )
        if self.cluster == "local" and self.nodes > 1:
            raise ValueError(f'nodes = {self.nodes}, but cluster = "local" runs on this machine alone. Set nodes = 1')
        if 60 * self.minutes <= self.signal_delay_s:
            raise ValueError(
                f"hours = {self.hours:g} is no more than signal_delay_s = {self.signal_delay_s}: a run would be told to stop"
                " as soon as it starts. Set signal_delay_s lower, or hours higher"
            )
        for name in self.extra:
            if owner := SBATCH["owned"].get(option_name(name)):
                raise ValueError(f"extra has {name!r}, which follows from {owner}. Leave it out of extra")
        return self

    @classmethod
    def read(cls, table: Mapping[str, Any], *, source: str) -> Self:
        """Read a table of TOML; error messages name `source`.

        Raises:
            ConfigError: a key is unknown, or a value is wrong.
        """
        try:
            return cls(**table)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @property
    def tasks(self) -> int:
        """Ranks on each node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def minutes(self) -> int:
        """Time limit in minutes, rounded up."""
        return math.ceil(60 * self.hours)

    def sbatch(self) -> dict[str, Any]:
        """Return the parameters of Submitit's SlurmExecutor."""
        copied = {"signal_delay_s", "cpus_per_task", "gpus_per_node", "partition", "account", "qos", "constraint"}
        values = {"nodes": self.nodes, "ntasks_per_node": self.tasks, "time": self.minutes, "mem": self.memory}
        values |= self.model_dump(include=copied)
        # Only some versions of srun take this over from sbatch.
        cpus = [f"--cpus-per-task={self.cpus_per_task}"] if self.cpus_per_task else []
        extra = {option_name(name): value for name, value in self.extra.items()}
        return (
            {name: value for name, value in values.items() if value}
            | {
                "srun_args": ["--kill-on-bad-exit=1", *cpus],
                "stderr_to_stdout": True,
                "wckey": None,  # Submitit's own is "submitit", which a cluster that checks wckeys refuses; extra may have one
                "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **extra},
            }
        )


def option_name(name: str) -> str:
    """Return an option's name as sbatch writes it."""
    return name.lstrip("-").replace("_", "-")
