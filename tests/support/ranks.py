"""Real processes for tests: a function runs on W gloo ranks, and each rank's return value is read from a file."""

import faulthandler
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LIMIT_S = 280
"""Seconds after which a rank that hangs prints where, and ends; below the time-out of a test, which would leave it behind."""
START_METHOD = "spawn"
"""Way to start ranks: a forked copy of a process with running threads can hang."""


def on_ranks(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(*arguments)` on each of `world` ranks and return all results. Any failure fails the test."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(_run_rank, (world, folder, function, arguments), nprocs=world, start_method=START_METHOD)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _run_rank(rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    torch.set_num_threads(1)
    # The variables a launcher sets, for functions that start an engine.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    os.environ["DS_ACCELERATOR"] = "cpu"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
    if dist.is_initialized():  # a whole run leaves its group itself
        dist.barrier()
        dist.destroy_process_group()
