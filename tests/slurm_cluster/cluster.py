"""A real Slurm cluster on one machine: controller, several nodes, munge and accounting, ready in seconds.

It uses only the standard library: `python3 tests/slurm_cluster up` works before anything is installed.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slurm_cluster.daemons import (
    clean_environment,
    kill_all,
    logs,
    path_of_commands,
    processes,
    require_packages,
    start,
    start_all,
    start_node,
    until,
)

ROOT = Path(__file__).parent.parent.parent
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")
"""Final states; NODE_FAIL and PREEMPTED are not, because a job passes through them on its way back into the queue."""


class RefusedError(Exception):
    """Refusal of a job, with the message of sbatch."""


def home(name: str = "") -> Path:
    """Return the folder of a cluster of this user: in memory if there is enough, because the database syncs a lot."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 500_000_000
    base = memory if roomy else Path(tempfile.gettempdir())
    return base / "-".join(["hbdist-slurm", str(os.getuid()), *filter(None, [name])])


@dataclass(frozen=True)
class Cluster:
    """A running cluster, identified by its folder; any process may use it."""

    folder: Path
    nodes: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path) -> "Cluster":
        """Return the cluster that is running in this folder."""
        return cls(folder, tuple(json.loads((folder / "cluster.json").read_text(encoding="utf-8"))["nodes"]))

    @classmethod
    def up(cls, folder: Path, *, nodes: int = 4, owner: int | None = None) -> "Cluster":
        """Start a cluster, after stopping the one in this folder and those whose owner has ended.

        Args:
            owner: process that needs this cluster; None: it runs until `down`.

        Raises:
            MissingError: packages are not installed.
        """
        require_packages()
        _sweep()
        cluster = cls(folder, tuple(f"node{number}" for number in range(1, nodes + 1)))
        cluster.down()
        folder.mkdir(parents=True)
        description = {"nodes": cluster.nodes, "owner": owner}
        (folder / "cluster.json").write_text(json.dumps(description), encoding="utf-8")
        start_all(folder, cluster.nodes, cluster.environment())
        until(lambda: cluster._idle() == set(cluster.nodes), "nodes are not idle", cluster.logs)
        return cluster

    def down(self) -> None:
        """Kill every process of the cluster and delete its folder; its state is worthless, so nothing is shut down gently."""
        kill_all(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def environment(self) -> dict[str, str]:
        """Return variables that make a process use this cluster. Processes use one thread each, as CPUs are simulated."""
        return {
            "SLURM_CONF": str(self.folder / "conf/slurm.conf"),
            "HBDIST_MASTER_ADDR": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *command: str, timeout: float = 60, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run a command on the cluster. Slurm's commands block while a daemon is down, hence the timeout."""
        options = {"cwd": ROOT, "env": clean_environment() | self.environment(), **more}
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)

    def sbatch(self, *arguments: str, cwd: Path = ROOT, **variables: str) -> int:
        """Submit a job and return its id.

        Raises:
            RefusedError: sbatch refuses the job.
        """
        environment = clean_environment() | self.environment() | variables
        done = self.run("sbatch", "--parsable", *arguments, cwd=cwd, env=environment)
        if done.returncode:
            raise RefusedError(done.stderr.strip())
        return int(done.stdout.partition(";")[0])

    def job(self, job: int) -> dict[str, str]:
        """Return the fields of `scontrol show job`."""
        done = self.run("scontrol", "show", "job", "--oneliner", str(job), check=True)
        return dict(re.findall(r"(\S+?)=(\S*)", done.stdout))

    def wait(self, job: int, *states: str, timeout: float = 240) -> str:
        """Wait until the job is in one of these states, by default until it has ended, and return the state."""

        def explain() -> str:
            return f"{self.run('scontrol', 'show', 'job', str(job)).stdout}\n{self.output(job)}\n{self.logs()}"

        wanted = f"job {job} is not {' or '.join(states) or 'at its end'} after {timeout} s"
        until(lambda: self.job(job)["JobState"] in (states or ENDED), wanted, explain, timeout=timeout, pause=0.2)
        return self.job(job)["JobState"]

    def nodes_of(self, job: int) -> list[str]:
        """Return the nodes that the job runs on, or last ran on."""
        return self.run("scontrol", "show", "hostnames", self.job(job)["NodeList"], check=True).stdout.split()

    def output(self, job: int) -> str:
        """Return what the job's batch script has printed so far."""
        path = Path(self.job(job)["StdOut"])
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    def accounting(self, job: int) -> list[tuple[str, ...]]:
        """Return state and exit code of each start of the job, from sacct, which learns of a job up to a second late."""
        command = ["sacct", "--duplicates", "-X", "--noheader", "--parsable2", "--format=State,ExitCode", "--jobs"]
        until(lambda: self.run(*command, str(job), check=True).stdout, f"sacct does not know job {job}", self.logs)
        return [tuple(line.split("|")) for line in self.run(*command, str(job)).stdout.splitlines()]

    def kill_node(self, node: str, *, told: bool = True) -> None:
        """Kill a node with everything that runs on it, as a power failure would.

        Args:
            told: tell the controller at once; otherwise it notices by itself, after about 25 seconds.
        """
        kill_all(self.folder, node)
        if told:
            self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=killed", check=True)

    def start_node(self, node: str) -> None:
        """Start a node again, empty."""
        shutil.rmtree(self.folder / "spool" / node, ignore_errors=True)
        start_node(self.folder, node)
        until(lambda: node in self._idle(), f"{node} does not come back", self.logs)

    def restart_controller(self) -> None:
        """Stop slurmctld as an upgrade would, and start it again from its saved state."""
        number = int((self.folder / "pid/slurmctld").read_text())
        os.kill(number, signal.SIGTERM)
        until(lambda: number not in processes(self.folder), "slurmctld does not end", self.logs)
        start(self.folder, "slurmctld")
        until(lambda: not self.run("scontrol", "ping").returncode, "slurmctld does not come back", self.logs)

    def path_without(self, *commands: str) -> str:
        """Return a PATH without these commands, but with all others."""
        folders = []
        for number, folder in enumerate(dict.fromkeys(path_of_commands().split(":"))):
            if any(Path(folder, command).exists() for command in commands):
                other = self.folder / "path" / "-".join([str(number), *commands])
                other.mkdir(parents=True, exist_ok=True)
                for path in Path(folder).iterdir():
                    if path.name not in commands and not (other / path.name).is_symlink():
                        (other / path.name).symlink_to(path)
                folder = str(other)
            folders.append(folder)
        return ":".join(folders)

    def clear(self) -> None:
        """Return the cluster to its state after `up`: no jobs, all nodes idle."""
        everyone = f"--user={os.getuid()}"
        self.run("scancel", "--full", "--signal=KILL", "--state=RUNNING", everyone)
        self.run("scancel", everyone)
        for node in self.nodes:
            if not processes(self.folder, node):
                self.start_node(node)
        until(lambda: not self.run("squeue", "--noheader").stdout, "jobs do not go away", self.logs)
        until(lambda: self._idle() == set(self.nodes), "nodes do not become idle", self.logs)

    def logs(self) -> str:
        """Return the last lines of every daemon's log."""
        return logs(self.folder)

    def _idle(self) -> set[str]:
        done = self.run("sinfo", "--noheader", "--Node", "--partition=debug", "--format=%N %T")
        return {line.split()[0] for line in done.stdout.splitlines() if line.split()[1] == "idle"}


def _sweep() -> None:
    """Stop clusters of this user whose owner ended without stopping them."""
    for description in home().parent.glob(f"{home().name}-*/cluster.json"):
        owner = json.loads(description.read_text(encoding="utf-8"))["owner"]
        if owner is not None and not Path("/proc", str(owner)).exists():
            Cluster.of(description.parent).down()
