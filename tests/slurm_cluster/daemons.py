"""The daemons of an emulated cluster: their configuration, their start, and how they and their jobs' tasks are found again.

All of a cluster lives in one folder, and every daemon carries that folder's name in its environment, by which it is found.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import string
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NEEDED = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")
FOREIGN = ("SLURM", "SBATCH_", "SRUN_", "MUNGE_", "HBDIST_SLURM_")
"""What a job or another cluster may have put into the environment; it would leak into every daemon and task."""
PORTS = range(10_000, 15_000, 16)
"""Where a cluster's own ports begin; jobs take theirs from 15,000 on."""
CPUS = GPUS = 4
"""Of a node; pretended."""


class MissingError(Exception):
    """Packages that are not installed; with what to install."""


def require_packages() -> None:
    """Nothing, where all that a cluster needs is installed.

    Raises:
        MissingError: it is not.
    """
    missing = [name for name in NEEDED if shutil.which(name, path=path_of_commands()) is None]
    if missing:
        packages = (HERE / "packages.txt").read_text(encoding="utf-8").split()
        raise MissingError(
            f"An emulated Slurm cluster needs {', '.join(missing)}. Install Debian's packages: apt-get install"
            f" --no-install-recommends {' '.join(packages)}"
        )


def start_all(folder: Path, nodes: Sequence[str], variables: dict[str, str]) -> None:
    """Configure and start every daemon in an empty folder; nodes need a moment more until they are idle.

    Args:
        variables: what makes a process use this cluster.
    """
    for name in ("conf", "log", "munge", "pid", "sql", "state", "gpu"):
        (folder / name).mkdir(parents=True)
    port = _free_ports()
    _configure(folder, nodes, port)
    exports = [f"export {name}={value}" for name, value in variables.items()]
    (folder / "env.sh").write_text("\n".join(exports) + "\n", encoding="utf-8")
    _start_munge(folder)
    _start_accounting(folder, port + 1)
    start(folder, "slurmctld", "-c")
    for node in nodes:
        start_node(folder, node)


def _configure(folder: Path, nodes: Sequence[str], port: int) -> None:
    conf, many = folder / "conf", len(nodes)
    known = {
        "folder": folder,
        "user": _me(),
        "host": socket.gethostname().partition(".")[0],
        "controller_port": port,
        "accounting_port": port + 1,
        "node_ports": f"[{port + 2}-{port + 1 + many}]",
        "nodes": f"node[1-{many}]",
        "cpus": CPUS,
        "memory": 4096,
        "gpus": GPUS,
        "first_job": 1 + (port - PORTS.start) // PORTS.step * 50,
    }
    for name in ("slurm.conf", "slurmdbd.conf"):
        text = string.Template((HERE / name).read_text(encoding="utf-8")).substitute(known)
        (conf / name).write_text(text, encoding="utf-8")
    (conf / "slurmdbd.conf").chmod(0o600)
    for number in range(GPUS):
        _make_device(folder / "gpu" / str(number))
    (conf / "gres.conf").write_text(f"Name=gpu Flags=nvidia_gpu_env File={folder}/gpu/[0-{GPUS - 1}]\n")
    # Named, because slurmd would else look for control groups, and end where none are mounted.
    (conf / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    (conf / "plugstack.conf").touch()


def _start_munge(folder: Path) -> None:
    munge = folder / "munge"
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o600)
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    start(folder, "munged", "--num-threads=2", *(f"--{name}={munge / file}" for name, file in files.items()))


def _start_accounting(folder: Path, port: int) -> None:
    sql = folder / "sql"
    # Nobody but this user reaches the socket, so there are no users in it and no passwords.
    sql.chmod(0o700)
    small = ["--innodb-log-file-size=4M", "--innodb-data-file-path=ibdata1:4M:autoextend"]
    fast = ["--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--performance-schema=off"]
    common = ["mariadbd", "--no-defaults", f"--datadir={sql}/data", f"--user={_me()}", *small, *fast]
    tables = Path("/usr/share/mysql/mysql_system_tables.sql").read_text(encoding="utf-8")
    (sql / "data").mkdir(mode=0o700)
    start(folder, *common, "--bootstrap", stdin=f"CREATE DATABASE mysql;\nUSE mysql;\n{tables}")
    served = [f"--socket={sql}/socket", f"--pid-file={folder}/pid/mariadbd", "--skip-networking"]
    start(folder, "setsid", "--fork", *common, *served, "--skip-grant-tables", "--innodb-lock-wait-timeout=900")
    # The socket is there before the server is: one that is asked too early can crash.
    said = folder / "log" / "setsid.start"
    until(
        lambda: "ready for connections" in said.read_text(errors="replace"), "mariadbd stays down", lambda: logs(folder)
    )
    start(folder, "slurmdbd", MYSQL_UNIX_PORT=f"{sql}/socket")
    until(lambda: _listens(port), "slurmdbd does not come up", lambda: logs(folder))


def start_node(folder: Path, node: str) -> None:
    """Start the daemon of a node."""
    (folder / "spool" / node).mkdir(parents=True, exist_ok=True)
    start(folder, "slurmd", "-N", node, HBDIST_SLURM_NODE=node)


def start(folder: Path, *command: str, stdin: str = "", **variables: str) -> None:
    """Start a daemon, which goes on by itself in the background."""
    marked = {"SLURM_CONF": str(folder / "conf/slurm.conf"), "HBDIST_SLURM_DAEMON": str(folder)}
    with (folder / "log" / f"{command[0]}.start").open("a") as log:
        done = subprocess.run(
            command,
            env=clean_environment() | marked | variables,
            input=stdin.encode(),
            stdout=log,
            stderr=log,
            start_new_session=True,
            timeout=60,
        )
    assert done.returncode == 0, f"{command} did not start: {logs(folder)}"


def processes(folder: Path, node: str | None = None, *, tasks: bool = False) -> list[int]:
    """Daemons with the steps they started, or else the tasks of jobs; of one node, or of all."""
    conf = f"SLURM_CONF={folder / 'conf/slurm.conf'}"
    found = []
    for number, told in _environments():
        if tasks:
            ours = conf in told and any(line.startswith("SLURM_JOB_ID=") for line in told)
            here = node is None or f"SLURMD_NODENAME={node}" in told
        else:
            ours = f"HBDIST_SLURM_DAEMON={folder}" in told
            here = node is None or f"HBDIST_SLURM_NODE={node}" in told
        if ours and here and number != os.getpid():
            found.append(number)
    return found


def kill_all(folder: Path, node: str | None = None) -> None:
    """End all processes of a node, or of the cluster: daemons and steps first, so that they report nothing of the tasks."""
    while found := [*processes(folder, node), *processes(folder, node, tasks=True)]:
        for number in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.02)


def logs(folder: Path) -> str:
    """The last lines of every daemon's log."""
    parts = []
    for path in sorted((folder / "log").glob("*")):
        last = path.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        parts.append("\n".join([f"== {path}", *last]))
    return "\n".join(parts)


def until(
    condition: Callable[[], Any], failure: str, explain: Callable[[], str], *, timeout: float = 60, pause: float = 0.05
) -> None:
    """Wait for a condition; an AssertionError with an explanation where it does not come about."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{failure}\n{explain()}"
        time.sleep(pause)


def clean_environment() -> dict[str, str]:
    """This process's environment, without what belongs to a job or another cluster."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {"PATH": path_of_commands()}


def path_of_commands() -> str:
    """The PATH, with the places of daemons."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _me() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _environments() -> Iterator[tuple[int, set[str]]]:
    """Of every process of this user that has one: a process that has ended has none."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            told = path.read_bytes()
        except OSError:
            continue
        if told:
            yield int(path.parent.name), set(told.decode(errors="replace").split("\0"))


def _free_ports() -> int:
    """The first of 16 ports in a row that nobody uses. Clusters that come up at once begin to look at different places."""
    starts = list(PORTS)
    turn = os.getpid() % len(starts)
    for first in starts[turn:] + starts[:turn]:
        if not any(_taken(port) for port in range(first, first + PORTS.step)):
            return first
    raise AssertionError(f"no free ports from {PORTS.start} to {PORTS.stop}")


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _make_device(path: Path) -> None:
    """A pretended GPU. Slurm names devices to tasks only where they are real ones, which root alone can make."""
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))
    except OSError:
        path.touch()
