"""`make soak`: 20,000 tiny steps on two processes; what a process holds must not grow.

Every few seconds each rank's memory, descriptors, threads and CPU time are sampled, and the sizes of the run's files. Growth is
the difference between two windows: the second tenth of the run (after everything has happened once) and the last.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

os.environ |= {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "DS_ACCELERATOR": "cpu",
    "HF_HUB_OFFLINE": "1",
}
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

import psutil  # noqa: E402
from launching import ROOT, lines  # noqa: E402
from material import Material, variables  # noqa: E402
from processes import adopt_orphans, alive_descendants, kill, start_truly  # noqa: E402
from verdict import left_behind, outcome_of  # noqa: E402

RANKS = 2
HELD = ("rss_mb", "descriptors", "threads")
ALLOWED = {"rss_mb": (8.0, 0.02), "descriptors": (0, 0), "threads": (0, 0), "fast_step_ms": (1.0, 0.25)}
"""Most growth of each number: absolute, or as a share of the beginning; the larger one counts. A fast step is one in ten: other
programs on the machine slow the others down."""


def overrides(steps: int) -> list[str]:
    """Return what makes the tiny run a long one: checkpoints, validation and evaluation many times over."""
    size = ["batch.size=4", "batch.cross_block=2", "loss.chunk_tokens=4096", f"steps={steps}", "run.log_batches=false"]
    every = {"checkpoint": steps // 80, "validation": steps // 40, "evaluation": steps // 20}
    return [*size, *(f"{section}.every={max(1, number)}" for section, number in every.items())]


def sample(ranks: list[psutil.Process], run: Path) -> dict[str, Any] | None:
    """Return what the ranks hold now, and the sizes of the run's files; None if a rank has ended."""
    held: list[dict[str, float]] = []
    try:
        for rank in ranks:
            with rank.oneshot():
                cpu = rank.cpu_times()
                held.append(
                    {
                        "rss_mb": rank.memory_info().rss / 1e6,
                        "descriptors": rank.num_fds(),
                        "threads": rank.num_threads(),
                        "cpu_s": cpu.user + cpu.system,
                    }
                )
    except psutil.Error:
        return None
    metrics = run / "metrics.jsonl"
    step = metrics.read_bytes().count(b"\n") if metrics.is_file() else 0
    sizes = {path.name: path.stat().st_size for path in run.glob("*.jsonl")}
    checkpoints = [path.name for path in run.glob("checkpoints/[0-9]*")]
    names = sum(1 for _ in run.rglob("*"))
    return {"step": step, "ranks": held, "log_bytes": sizes, "checkpoints": len(checkpoints), "files": names}


def windows(samples: list[dict[str, Any]], steps: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the samples of the second tenth of the run, and those of the last."""
    first = [one for one in samples if 0.1 * steps <= one["step"] < 0.2 * steps]
    return first, [one for one in samples if one["step"] >= 0.9 * steps]


def growth(samples: list[dict[str, Any]], seconds: list[float]) -> dict[str, dict[str, float]]:
    """Return, of each number, its median at the beginning and at the end, on the rank where it grew most."""
    first, last = windows(samples, len(seconds))
    found: dict[str, dict[str, float]] = {}
    for name in HELD:
        pairs = [
            [median(one["ranks"][rank][name] for one in window) for window in (first, last)] for rank in range(RANKS)
        ]
        before, after = max(pairs, key=lambda pair: pair[1] - pair[0])
        found[name] = {"before": round(before, 3), "after": round(after, 3)}
    tenth = len(seconds) // 10
    fast = [1000 * sorted(part)[len(part) // 10] for part in (seconds[tenth : 2 * tenth], seconds[-tenth:])]
    found["fast_step_ms"] = {"before": round(fast[0], 3), "after": round(fast[1], 3)}
    for name, numbers in found.items():
        absolute, share = ALLOWED[name]
        numbers["allowed"] = round(max(absolute, share * numbers["before"]), 3)
    return found


def watch(work: Path, steps: int, every: float) -> tuple[list[dict[str, Any]], int | None, Path]:
    """Train and sample until the run ends; return the samples, the exit status and the run's folder."""
    folder = work / "soak"
    shutil.rmtree(folder, ignore_errors=True)
    material = Material(work / "material-soak")
    material.make()
    run = folder / "place" / "run"
    arguments = [str(material.config), *overrides(steps), f"run.folder={run}"]
    start = start_truly(folder / "starts", arguments, ranks=RANKS, variables=variables(folder))
    ranks = [psutil.Process(start.pid_of(rank)) for rank in range(RANKS)]
    samples: list[dict[str, Any]] = []
    while (status := start.wait(every)) is None:
        if found := sample(ranks, run):
            samples.append({"seconds": time.time()} | found)
    start.wait_until_gone(60)
    return samples, status, run


def verdict(samples: list[dict[str, Any]], status: int | None, run: Path) -> dict[str, Any]:
    """Return the result: what grew, how large files became, what was left."""
    metrics = lines(run / "metrics.jsonl")
    seconds = [line["seconds"] for line in metrics]
    grew, tenth = growth(samples, seconds), len(seconds) // 10
    sizes = [len(line) for line in (run / "metrics.jsonl").read_bytes().split(b"\n")[:-1]]
    too_much = [name for name, found in grew.items() if found["after"] - found["before"] > found["allowed"]]
    left = left_behind(run.parent, set())
    bad = [*too_much, *(["left behind"] if left else []), *(["status"] if status else [])]
    return {
        "steps": len(metrics),
        "status": status,
        "outcome": outcome_of(run).get("state"),
        "grew": grew,
        "median_step_ms": {
            "second tenth": 1000 * median(seconds[tenth : 2 * tenth]),
            "last tenth": 1000 * median(seconds[-tenth:]),
        },
        "log_line_bytes": {"second tenth": median(sizes[tenth : 2 * tenth]), "last tenth": median(sizes[-tenth:])},
        "checkpoints_kept": max(one["checkpoints"] for one in samples),
        "validations": len(lines(run / "validation.jsonl")),
        "evaluations": len(lines(run / "evaluation.jsonl")),
        "samples": len(samples),
        "minutes": (samples[-1]["seconds"] - samples[0]["seconds"]) / 60,
        "left_behind": left,
        "faults": bad,
    }


def main() -> int:
    """Run the soak and write its result; return 0 if nothing grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between samples")
    parser.add_argument("--work", type=Path, default=ROOT / "runs/soak", help="folder for the run")
    parser.add_argument("--out", type=Path, default=ROOT / "tests/faults/results/soak.json")
    arguments = parser.parse_args()
    adopt_orphans()
    try:
        samples, status, run = watch(arguments.work.absolute(), arguments.steps, arguments.every)
    finally:
        kill(*(process.pid for process in alive_descendants()))
    packages = ("torch", "accelerate", "transformers", "numpy")
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False)
    result = verdict(samples, status, run) | {
        "commit": commit.stdout.strip(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "series": samples[:: max(1, len(samples) // 60)],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "series"}, indent=1))
    return int(bool(result["faults"]))


if __name__ == "__main__":
    sys.exit(main())
