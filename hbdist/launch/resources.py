"""What a job may use, and where it runs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from hbdist.config.config import nearest
from hbdist.errors import ConfigError

OWNED = {
    "array": "the commands",
    "dependency": "after",
    "error": "the logs",
    "job-name": "names",
    "nodes": "nodes",
    "ntasks": "nodes and tasks_per_node",
    "ntasks-per-node": "tasks_per_node",
    "gpus-per-node": "gpus_per_node",
    "cpus-per-task": "cpus_per_task",
    "mem": "memory",
    "open-mode": "the logs",
    "output": "the logs",
    "requeue": "max_timeouts",
    "signal": "signal_delay_s",
    "time": "hours",
}
"""Options of sbatch that follow from something else here."""


@dataclass(frozen=True)
class Resources:
    """What each of some jobs may use. There is one rank a GPU, or `tasks_per_node` ranks a node without any.

    Raises:
        ConfigError: a value makes no sense, or contradicts another.
    """

    cluster: Literal["slurm", "local", "debug"] = "slurm"
    """slurm: a batch job; local: processes on this workstation that outlive the one that started them; debug: this process."""
    nodes: int = 1
    gpus_per_node: int = 0
    """0: ranks train on the CPU."""
    tasks_per_node: int | None = None
    """Ranks on each node; by default one a GPU, or one."""
    cpus_per_task: int | None = None
    memory: str = ""
    """Main memory of a node, as sbatch's --mem takes it: 64G."""
    hours: float = 12.0
    """Time limit between two starts; a run goes on after it. On Slurm only."""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    setup: tuple[str, ...] = ()
    """Lines of shell before a job begins: module load cuda, export NCCL_SOCKET_IFNAME=ib0."""
    extra: Mapping[str, str | int | bool] = field(default_factory=dict)
    """Further options of sbatch: {"reservation": "mine", "exclusive": True}."""
    signal_delay_s: int = 120
    """Seconds before the time limit at which a run is told to save. Longer than a step and a checkpoint take."""
    max_timeouts: int = 1000
    """How often a job that has reached its time limit goes on."""
    snapshot: bool = True
    """Run the code as it is when submitted, not as it is when the job starts."""

    def __post_init__(self) -> None:
        if self.cluster not in ("slurm", "local", "debug"):
            raise ConfigError(f'cluster = {self.cluster!r}, which is none. It is "slurm", "local" or "debug".')
        for name in ("nodes", "tasks_per_node", "cpus_per_task", "signal_delay_s"):
            value = getattr(self, name)
            if value is not None and (not _whole(value) or value < 1):
                raise ConfigError(f"{name} = {value!r}, and it is a whole number from 1.")
        for name in ("gpus_per_node", "max_timeouts"):
            if not _whole(getattr(self, name)) or getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)!r}, and it is a whole number from 0.")
        if isinstance(self.hours, bool) or not isinstance(self.hours, int | float) or not 0 < self.hours < math.inf:
            raise ConfigError(f"hours = {self.hours!r}, and it is a number above 0.")
        for name in ("memory", "partition", "account", "qos", "constraint"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} = {getattr(self, name)!r}, and it is text.")
        self._check_together()

    def _check_together(self) -> None:
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise ConfigError(
                f"tasks_per_node = {self.tasks_per_node} and gpus_per_node = {self.gpus_per_node}: a rank trains on one GPU."
                " Leave tasks_per_node out."
            )
        if self.cluster == "local" and self.nodes > 1:
            raise ConfigError(f'nodes = {self.nodes}, and cluster = "local" is this one machine. Set nodes = 1.')
        if 60 * self.minutes <= self.signal_delay_s:
            raise ConfigError(
                f"hours = {self.hours:g} is no more than signal_delay_s = {self.signal_delay_s}: a run would be told to stop"
                " as soon as it starts. Set signal_delay_s lower, or hours higher."
            )
        if isinstance(self.setup, str):
            raise ConfigError(f"setup = {self.setup!r}, and it is a list of lines.")
        for name in self.extra:
            if (option := name.lstrip("-").replace("_", "-")) in OWNED:
                raise ConfigError(f"extra has {name!r}, which follows from {OWNED[option]}. Leave it out of extra.")

    @classmethod
    def read(cls, table: Mapping[str, Any], *, source: str) -> Self:
        """Those of a table of TOML; `source` is named in what goes wrong.

        Raises:
            ConfigError: a key is unknown, or a value makes no sense.
        """
        known = [entry.name for entry in fields(cls)]
        for key in table:
            if key not in known:
                raise ConfigError(f"{source}: unknown key {key}.{nearest(key, known)} There are: {', '.join(known)}.")
        try:
            values: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in table.items()}
            return cls(**values)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None

    @property
    def tasks(self) -> int:
        """Ranks on each node."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def minutes(self) -> int:
        """The time limit, rounded up."""
        return math.ceil(60 * self.hours)

    def sbatch(self) -> dict[str, Any]:
        """What Submitit's SlurmExecutor takes of it."""
        chosen = {
            "nodes": self.nodes,
            "ntasks_per_node": self.tasks,
            "time": self.minutes,
            "signal_delay_s": self.signal_delay_s,
            "cpus_per_task": self.cpus_per_task,
            "gpus_per_node": self.gpus_per_node,
            "mem": self.memory,
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
        }
        # srun takes this over from sbatch in some versions only.
        cpus = [f"--cpus-per-task={self.cpus_per_task}"] if self.cpus_per_task else []
        extra = {name.lstrip("-").replace("_", "-"): value for name, value in self.extra.items()}
        return {name: value for name, value in chosen.items() if value} | {
            "srun_args": ["--kill-on-bad-exit=1", *cpus],
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **extra},
        }


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
