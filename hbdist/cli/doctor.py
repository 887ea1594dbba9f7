"""Examination of a machine for training: versions, devices, communication between processes, memory, disk, scheduler."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REQUIRED = ("torch", "accelerate", "transformers", "webdataset", "submitit", "pydantic")
TWO_PROCESSES = """
import sys, torch, torch.distributed as dist, torch.multiprocessing as mp
def one(rank, file):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    number = torch.tensor(rank + 1)
    dist.all_reduce(number)
    assert number.item() == 3
    dist.destroy_process_group()
if __name__ == "__main__":
    mp.start_processes(one, (sys.argv[1],), nprocs=2, start_method="spawn")
"""


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    ok: bool
    text: str
    """State of one thing and, if it is not well, advice."""
    optional: bool = False
    """True if training works without it."""


def examine() -> list[Finding]:
    """Return all findings. Takes some seconds, as it starts processes."""
    return [*_packages(), *_devices(), _processes(), _memory(), _room(), _scheduler()]


def _packages() -> Iterator[Finding]:
    yield Finding(sys.version_info >= (3, 11), f"Python {sys.version.split()[0]} (3.11 or newer)")
    missing = {name: f"{name} is not installed: pip install -e ." for name in REQUIRED}
    missing["deepspeed"] = "no deepspeed: launch/accelerate/zero*.yaml will not start"
    for name, text in missing.items():
        try:
            yield Finding(True, f"{name} {version(name)}", optional=name not in REQUIRED)
        except PackageNotFoundError:
            yield Finding(False, text, optional=name not in REQUIRED)
    found = importlib.util.find_spec("faiss") is not None
    remedy = "searches are exact matrix products; pip install -e '.[cpu]' or '.[gpu]' for FAISS"
    yield Finding(found, "faiss" if found else f"no faiss: {remedy}", optional=True)


def _devices() -> Iterator[Finding]:
    import torch

    count = torch.cuda.device_count()
    names = ", ".join(sorted({torch.cuda.get_device_name(index) for index in range(count)}))
    yield Finding(count > 0, f"{count} GPUs: {names}" if count else "no GPU: gloo on CPU", optional=True)
    yield Finding(True, f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch in one process")


def _processes() -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "two.py"
        script.write_text(TWO_PROCESSES)
        command = [sys.executable, str(script), f"{folder}/rendezvous"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0:
        return Finding(True, "two processes add up a number over gloo")
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return Finding(False, f"two processes cannot communicate over gloo: {last}. Try GLOO_SOCKET_IFNAME=lo.")


def _memory() -> Finding:
    if not Path("/dev/shm").is_dir():
        return Finding(True, "no /dev/shm", optional=True)
    free = shutil.disk_usage("/dev/shm").free
    enough = free > 1 << 28
    remedy = "" if enough else ": data workers need more; set data.workers=0, or start the container with --shm-size=2g"
    return Finding(enough, f"/dev/shm has {free / 1e9:.1f} GB free{remedy}", optional=True)


def _room() -> Finding:
    existing = Path("runs") if Path("runs").is_dir() else Path(".")
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
    except OSError as error:
        remedy = "set run.folder to a folder that can be"
        return Finding(False, f"{existing.resolve()} cannot be written ({error}): {remedy}")
    return Finding(True, f"{existing.resolve()} can be written, {shutil.disk_usage(existing).free / 1e9:.0f} GB free")


def _scheduler() -> Finding:
    commands = [name for name in ("sbatch", "srun", "squeue", "scontrol", "sacct") if shutil.which(name)]
    text = f"Slurm: {', '.join(commands)}" if commands else "no Slurm: runs start on this machine"
    return Finding(bool(commands), text, optional=True)
