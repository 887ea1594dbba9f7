"""Tools that all benchmarks share: separate processes, interleaved timings, and JSON files of results.

Such a process runs this file, which calls one function of a benchmark and writes the result to a file.
"""

import argparse
import importlib
import inspect
import json
import os
import platform
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import peers

HERE = Path(__file__).parent
RESULTS = HERE / "results"
CORES = 2
"""Number of threads of one process, or of all ranks together."""
MEMORY_LIMIT = 16 << 30
"""Most bytes that a run may need; larger runs are skipped."""


class RunError(Exception):
    """Failure of a benchmark's process; the message says how it ended."""


def arguments(description: str, argv: Sequence[str] | None = None, *flags: str) -> argparse.Namespace:
    """Parse --quick, --out and the benchmark's other on/off flags."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes and two repetitions: does it run at all")
    parser.add_argument("--out", type=Path, help="folder of the JSON (default: results, or with --quick .cache/quick)")
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args(argv)
    given.out = given.out or (HERE / ".cache" / "quick" if given.quick else RESULTS)
    return given


def write(folder: Path, name: str, result: Mapping[str, Any]) -> None:
    """Write the result of a benchmark and the machine it was measured on, as `name`.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"name": name, "machine": machine(), **result}, indent=1) + "\n", encoding="utf-8")
    say(f"wrote {path}")


def say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def machine() -> dict[str, Any]:
    """Return versions, processor, memory and date."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "python": platform.python_version(),
        "versions": {
            name: peers.version_of(name) for name in ("hbdist", "torch", "numpy", "transformers", *peers.LOADERS)
        },
    }


def _processor() -> str:
    listed = subprocess.run(["lscpu"], capture_output=True, text=True, check=False, timeout=10).stdout
    lines = dict(line.split(":", 1) for line in listed.splitlines() if ":" in line)
    return " ".join(lines.get("Model name", platform.processor()).split())


def launch(function: Callable[..., Any], *, world: int = 1, timeout: float, **settings: Any) -> list[Any]:
    """Return the results of `function(**settings)` in each of `world` new processes.

    Args:
        function: of a benchmark's file, with JSON values as arguments and result. With `world` > 1, or if it calls
            `join`, the processes are ranks of one gloo process group.
        timeout: in seconds; processes that are not done by then are ended.

    Raises:
        RunError: one of them raised, was killed or took too long.
    """
    source, threads = inspect.getfile(function), str(max(1, CORES // world))
    with tempfile.TemporaryDirectory() as folder:
        children: list[subprocess.Popen[bytes]] = []
        for rank in range(world):
            place = {"RANK": str(rank), "WORLD_SIZE": str(world), "BENCHMARK_FOLDER": folder}
            with Path(folder, f"{rank}.log").open("w") as stream:
                children.append(
                    subprocess.Popen(
                        [sys.executable, __file__, source, function.__name__, json.dumps(settings)],
                        env={**os.environ, **place, "OMP_NUM_THREADS": threads, "DS_ACCELERATOR": "cpu"},
                        stdout=stream,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        try:
            _wait(children, folder, timeout)
        finally:
            for child in children:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(world)]


def _wait(children: Sequence[subprocess.Popen[bytes]], folder: str, timeout: float) -> None:
    end = time.monotonic() + timeout
    while any(child.poll() is None for child in children):
        if time.monotonic() > end:
            raise RunError(f"was not done after {timeout:.0f} s")
        _refuse_failed(children, folder)
        time.sleep(0.05)
    _refuse_failed(children, folder)


def _refuse_failed(children: Sequence[subprocess.Popen[bytes]], folder: str) -> None:
    for rank, child in enumerate(children):
        # A process that has written its result is done; gloo's threads sometimes abort a process while it ends.
        if child.poll() and not Path(folder, f"{rank}.json").is_file():
            lines = Path(folder, f"{rank}.log").read_text(errors="replace").splitlines()
            said = [line.strip() for line in lines if line.strip()]
            how = f"killed by signal {-child.returncode}" if child.returncode < 0 else f"status {child.returncode}"
            raise RunError(said[-1][:300] if said else how)


def join() -> tuple[int, int]:
    """Make this process a rank of the gloo process group of its launch; return (rank, world)."""
    import torch.distributed as dist

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meeting = f"file://{os.environ['BENCHMARK_FOLDER']}/rendezvous"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    return rank, world


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def peak_bytes() -> int:
    """Return the peak memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def interleave(
    cases: Mapping[str, Callable[[], object]],
    *,
    repetitions: int,
    warmups: int = 2,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Return the seconds of every case, timed A B C A B C …, so that other load on the machine affects all of them equally.

    Args:
        before: called before each case, outside its time (a barrier, if there are several ranks).
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-warmups, repetitions):
        for name, case in cases.items():
            before()
            start = time.perf_counter()
            case()
            taken = time.perf_counter() - start
            if turn >= 0:
                seconds[name].append(taken)
    return seconds


def quartiles(numbers: Sequence[float]) -> dict[str, float]:
    """Return the median and the quartiles around it."""
    if len(numbers) == 1:
        return {"median": numbers[0], "low": numbers[0], "high": numbers[0], "n": 1}
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high, "n": len(numbers)}


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Return the quartiles of ours ÷ theirs, turn by turn."""
    return quartiles([one / other for one, other in zip(ours, theirs, strict=True)])


def _main(source: str, name: str, settings: str) -> None:
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    sys.path.insert(0, str(Path(source).parent))
    module = importlib.import_module(Path(source).stem)
    returned = getattr(module, name)(**json.loads(settings))
    path = Path(os.environ["BENCHMARK_FOLDER"]) / f"{os.environ['RANK']}.json"
    path.with_suffix(".part").write_text(json.dumps(returned))
    path.with_suffix(".part").rename(path)  # complete or absent
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])
