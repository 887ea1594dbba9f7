"""Identity of a rank: which start it belongs to, what it runs, what it was told, what it sees.

Before ranks join a process group they show this to rank 0 (see `meeting`), which refuses the start if one differs. Otherwise
ranks with different configs would train a model that is nobody's, and a rank that an earlier start has left behind could
join the next start at the same port: both would end as "done".
"""

import hashlib
import json
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

from hbdist.config.config import Config, flatten
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError
from hbdist.utils.processes import machine_id, process_start

PACKAGE = Path(__file__).parent.parent
LIBRARIES = ("torch", "accelerate", "deepspeed", "transformers", "tokenizers", "numpy")
"""Libraries whose versions must be the same on all ranks."""
MAY_DIFFER = ("run.folder", "data.shards", "data.cache_gb", "validation.shards", "evaluation.data", "engine.deepspeed")
"""Keys of a config that may differ between ranks: folders and caches. What is in the folders is compared by fingerprints, and
DeepSpeed's settings by their content."""
MOST_NAMED = 4
"""Number of differing settings that a message names."""


@dataclass(frozen=True)
class Identity:
    """Identity of one rank."""

    rank: int
    world: int
    host: str
    machine: str
    """Identity of the machine (see `processes.machine_id`): hosts may have equal names."""
    pid: int
    born: str = ""
    """Time at which the process began (see `processes.process_start`)."""
    local_rank: int | None = None
    """Number of the rank on its machine, if the launcher gives one."""
    start: str = ""
    """What the launcher or the scheduler gives to all ranks of one start; empty if it gives nothing."""
    node: str = ""
    """Group of ranks with one launcher process."""
    launcher: str = ""
    """What a launcher process gives to its own ranks alone; empty if it gives nothing."""
    gpus: int = 0
    """Number of GPUs that the rank sees."""
    gpu: str = ""
    """Identity of the GPU, if it sees exactly one."""
    address: str = ""
    """Address of this rank in the network by which it reaches rank 0."""
    settings: dict[str, str] = field(default_factory=dict)
    """What must be the same on all ranks."""

    @classmethod
    def here(
        cls, rank: int, world: int, settings: Mapping[str, str], environment: Mapping[str, str] = os.environ
    ) -> Self:
        """Return the identity of this process as a rank. `gpus`, `gpu` and `address` are left open."""
        host = environment.get("SLURMD_NODENAME") or socket.gethostname()
        local_rank = environment.get("LOCAL_RANK", environment.get("SLURM_LOCALID", ""))
        # …/RUN_RANDOM/attempt_0/LOCAL_RANK/error.json, in a folder with a random name for each start.
        errors = Path(environment.get("TORCHELASTIC_ERROR_FILE", ""))
        return cls(
            rank,
            world,
            host,
            machine_id(),
            os.getpid(),
            process_start(os.getpid()),
            int(local_rank) if local_rank.isdecimal() else None,
            _name_start(environment, world),
            f"{machine_id()} {environment.get('GROUP_RANK', '')}",
            str(errors.parent.parent) if errors.name else "",
            settings=dict(settings),
        )

    @property
    def name(self) -> str:
        """Description for messages."""
        return f"rank {self.rank} ({self.host}, process {self.pid})"

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the identity that `to_json` has written."""
        return cls(**json.loads(text))


def refuse_differences(identities: Iterable[Identity]) -> None:
    """Check that all ranks belong to the same start and have the same settings as the first of them, rank 0.

    Raises:
        ConfigError: one does not; the message names it, and what differs with both values.
    """
    main, *others = identities
    launchers: dict[str, Identity] = {}
    for one in (main, *others):
        same_node = launchers.setdefault(one.node, one)
        other = main if one.start != main.start else same_node if one.launcher != same_node.launcher else None
        if other is not None:
            raise ConfigError(
                f"{one.name} belongs to another start than {other.name}: {one.start} {one.launcher} is not"
                f" {other.start} {other.launcher}. One of them is left over from an earlier start: end it (kill"
                f" {one.pid} on {one.host} if it is this one), and start again."
            )
    for one in others:
        theirs, ours = ({"world size": str(side.world)} | side.settings for side in (one, main))
        differing = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
        if differing:
            values = [f"{key} = {theirs.get(key)} (rank 0: {ours.get(key)})" for key in differing[:MOST_NAMED]]
            more = f" and {len(differing) - MOST_NAMED} more" if len(differing) > MOST_NAMED else ""
            raise ConfigError(
                f"{one.name} and {main.name} differ: the former has {', '.join(values)}{more}. All ranks must train the"
                " same run: start them with the same config, code and libraries, and end any that an earlier start has left."
            )


def training_settings(config: Config, zero: Zero | None) -> dict[str, str]:
    """Return what all ranks of a training must have in common."""
    keys = {key: repr(value) for key, value in flatten(config.model_dump()) if key not in MAY_DIFFER}
    deepspeed = json.dumps(zero.values, sort_keys=True) if zero else "none"
    return keys | {"DeepSpeed's settings": deepspeed} | software()


def software() -> dict[str, str]:
    """Return the versions of this package and of the libraries that decide what is computed."""
    return {"hbdist's code": code_digest()[:12]} | {name: _version(name) for name in LIBRARIES}


@cache
def code_digest() -> str:
    """Return the SHA-256 of this package's source files: two checkouts have the same version for a long time."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"\0{path.relative_to(PACKAGE).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _name_start(environment: Mapping[str, str], world: int) -> str:
    """Return what tells one start from another, as far as launcher and scheduler say it to all ranks."""
    given = [f"start {environment['HBDIST_START']}"] if "HBDIST_START" in environment else []
    if "SLURM_JOB_ID" in environment:
        job = environment.get("SLURM_HET_JOB_ID", environment["SLURM_JOB_ID"])
        # Only if the ranks are the tasks of one step: launchers may have been started by a step per node.
        is_step = environment.get("SLURM_STEP_NUM_TASKS") == str(world)
        step = f".{environment.get('SLURM_STEP_ID', '')}" if is_step else ""
        given.append(f"job {job}{step} after {environment.get('SLURM_RESTART_COUNT', '0')} restarts")
    if environment.get("TORCHELASTIC_RUN_ID", "none") != "none":
        given.append(f"torchrun's run {environment['TORCHELASTIC_RUN_ID']}")
    return ", ".join(given)
