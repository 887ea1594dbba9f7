"""Daemons of an emulated cluster: configuration, start, and search for them and for the tasks of their jobs.

Everything of a cluster is in one folder. Every daemon has the name of that folder in its environment, by which it is found.
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
"""Prefixes of variables of a job or another cluster, which would leak into every daemon and task."""
PORTS = range(10_000, 15_000, 16)
"""First ports of clusters; jobs use ports from 15,000 on."""
CPUS = GPUS = 4
"""Number of simulated CPUs, and of GPUs, on each node."""


class MissingError(Exception):
    """Missing packages; the message says what to install."""


def require_packages() -> None:
    """Check that everything that a cluster needs is installed.

    Raises:
        MissingError: something is not installed.
    """
    missing = [name for name in NEEDED if shutil.which(name, path=path_of_commands()) is None]
    if missing:
        packages = (HERE / "packages.txt").read_text(encoding="utf-8").split()
        raise MissingError(
            f"An emulated Slurm cluster needs {', '.join(missing)}. Install Debian's packages: apt-get install"
            f" --no-install-recommends {' '.join(packages)}"
        )


def start_all(folder: Path, nodes: Sequence[str], variables: dict[str, str]) -> None:
    """Configure and start every daemon in an empty folder; nodes become idle a moment later.

    Args:
        variables: variables that make a process use this cluster.
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
    values = {
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
        text = string.Template((HERE / name).read_text(encoding="utf-8")).substitute(values)
        (conf / name).write_text(text, encoding="utf-8")
    (conf / "slurmdbd.conf").chmod(0o600)
    for number in range(GPUS):
        _make_device(folder / "gpu" / str(number))
    (conf / "gres.conf").write_text(f"Name=gpu Flags=nvidia_gpu_env File={folder}/gpu/[0-{GPUS - 1}]\n")
    # Set explicitly, because slurmd otherwise looks for control groups, and exits if none are mounted.
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
    # Only this user can reach the socket, so the database needs no users and no passwords.
    sql.chmod(0o700)
    small = ["--innodb-log-file-size=4M", "--innodb-data-file-path=ibdata1:4M:autoextend"]
    fast = ["--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync", "--performance-schema=off"]
    common = ["mariadbd", "--no-defaults", f"--datadir={sql}/data", f"--user={_me()}", *small, *fast]
    tables = Path("/usr/share/mysql/mysql_system_tables.sql").read_text(encoding="utf-8")
    (sql / "data").mkdir(mode=0o700)
    start(folder, *common, "--bootstrap", stdin=f"CREATE DATABASE mysql;\nUSE mysql;\n{tables}")
    served = [f"--socket={sql}/socket", f"--pid-file={folder}/pid/mariadbd", "--skip-networking"]
    start(folder, "setsid", "--fork", *common, *served, "--skip-grant-tables", "--innodb-lock-wait-timeout=900")
    # The socket exists before the server is ready, and a server that is used too early can crash.
    log = folder / "log" / "setsid.start"
    until(
        lambda: "ready for connections" in log.read_text(errors="replace"), "mariadbd stays down", lambda: logs(folder)
    )
    start(folder, "slurmdbd", MYSQL_UNIX_PORT=f"{sql}/socket")
    until(lambda: _listens(port), "slurmdbd does not come up", lambda: logs(folder))


def start_node(folder: Path, node: str) -> None:
    """Start the daemon of a node."""
    (folder / "spool" / node).mkdir(parents=True, exist_ok=True)
    start(folder, "slurmd", "-N", node, HBDIST_SLURM_NODE=node)


def start(folder: Path, *command: str, stdin: str = "", **variables: str) -> None:
    """Start a daemon, which puts itself into the background."""
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
    """Return the daemons and the steps they have started, or the tasks of jobs; of one node, or of all."""
    conf = f"SLURM_CONF={folder / 'conf/slurm.conf'}"
    numbers = []
    for number, variables in _environments():
        if tasks:
            ours = conf in variables and any(line.startswith("SLURM_JOB_ID=") for line in variables)
            here = node is None or f"SLURMD_NODENAME={node}" in variables
        else:
            ours = f"HBDIST_SLURM_DAEMON={folder}" in variables
            here = node is None or f"HBDIST_SLURM_NODE={node}" in variables
        if ours and here and number != os.getpid():
            numbers.append(number)
    return numbers


def kill_all(folder: Path, node: str | None = None) -> None:
    """Kill all processes of a node, or of the cluster: daemons and steps first, so that they report nothing about the tasks."""
    while alive := [*processes(folder, node), *processes(folder, node, tasks=True)]:
        for number in alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.02)


def logs(folder: Path) -> str:
    """Return the last lines of every daemon's log."""
    parts = []
    for path in sorted((folder / "log").glob("*")):
        last = path.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        parts.append("\n".join([f"== {path}", *last]))
    return "\n".join(parts)


def until(
    condition: Callable[[], Any], failure: str, explain: Callable[[], str], *, timeout: float = 60, pause: float = 0.05
) -> None:
    """Wait for a condition; fail with an explanation if it does not come true in time."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{failure}\n{explain()}"
        time.sleep(pause)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the variables of a job or another cluster."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | {"PATH": path_of_commands()}


def path_of_commands() -> str:
    """Return the PATH with the folders of daemons."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _me() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _environments() -> Iterator[tuple[int, set[str]]]:
    """Yield id and environment of every running process of this user."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if content:
            yield int(path.parent.name), set(content.decode(errors="replace").split("\0"))


def _free_ports() -> int:
    """Return the first of 16 unused ports in a row. Clusters that start together search from different ports."""
    starts = list(PORTS)
    offset = os.getpid() % len(starts)
    for first in starts[offset:] + starts[:offset]:
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
    """Make a simulated GPU. Slurm tells tasks their devices only if these are device files, which only root can make."""
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))
    except OSError:
        path.touch()
