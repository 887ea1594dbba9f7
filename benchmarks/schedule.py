"""The schedule at scale: time and memory to open hundreds of thousands of shards and to plan global batches of 65,536.

The shards are fictitious: only their manifest exists, which is all that a schedule reads. Each case runs in a separate
process, which measures its own memory.
"""

import hashlib
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measure import arguments, quartiles, say, write

from hbdist.config.config import Config
from hbdist.data.batching.schedule import Schedule
from hbdist.data.shards.groups import Group, Shards
from hbdist.data.shards.manifest import Manifest

SHARD_ROWS = 3_333
WARM = 4
"""Number of steps after the first that are not counted."""
CASES: dict[str, dict[str, Any]] = {
    # Long enough for every group to begin its second window: all have equally many pairs here, so all begin it together.
    "each pair draws its languages": {"datasets": 1, "steps": 1_100, "batch": {"mono_share": 0.0}},
    "the same, four data sets": {"datasets": 4, "steps": 150, "batch": {"mono_share": 0.0}},
    "both kinds in each batch": {"datasets": 1, "steps": 150, "batch": {"mix": "blocks", "mono_share": 0.5}},
    "blocks of 256 pairs": {"datasets": 1, "steps": 150, "batch": {"mono_block": 256, "cross_block": 256}},
}


def made_up_manifest(root: Path, *, groups: int, datasets: int, shards: int) -> Manifest:
    """Return about `groups` groups of `shards` shards: each data set has all pairs of as many languages as that requires."""
    languages = [f"l{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(round((groups / datasets) ** 0.5))]
    made = [
        Group(f"set{number}", query, document, made_up_shards(f"set{number}/{query}-{document}", shards))
        for number in range(datasets)
        for query in languages
        for document in languages
    ]
    return Manifest(root, tuple(made))


def made_up_shards(folder: str, count: int) -> Shards:
    paths = [f"{folder}/{number:06d}" for number in range(count)]
    digests = [hashlib.sha256(path.encode()).hexdigest() for path in paths]
    sizes = np.random.default_rng(len(folder)).integers(1_000_000, 2_000_000, count)
    return Shards(
        tuple(f"{path}.tar" for path in paths),
        (SHARD_ROWS,) * count,
        tuple(sizes.tolist()),
        tuple(digests),
        tuple(f"{path}.index.npy" for path in paths),
        tuple(digest[::-1] for digest in digests),
    )


def megabytes() -> dict[str, float]:
    """Return the memory of this process, now and at its peak."""
    # Not getrusage: its peak includes that of the parent process.
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[key].split()[0]) / 1e3 for name, key in (("now", "VmRSS"), ("highest", "VmHWM"))}


def timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Return the wall-clock time and this process's CPU time, which other load affects less, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}, result


def one_case(root: Path, batch: dict[str, Any], size: int, steps: int) -> dict[str, Any]:
    """Measure one case, in a separate process."""
    values = {
        "steps": steps,
        "data": {"shards": str(root)},
        "model": {"name": "none"},
        "batch": {"size": size, **batch},
    }
    config = Config.check(values, source="the benchmark")
    before = megabytes()
    load, manifest = timed(lambda: Manifest.load(root))
    make, schedule = timed(lambda: Schedule.of(config, manifest))
    opened = megabytes()
    first, _ = timed(lambda: schedule.batch(0))
    batches = [timed(lambda step=step: schedule.batch(step))[0] for step in range(1, steps)]
    planned = megabytes()
    far, _ = timed(lambda: Schedule.of(config, manifest).batch(1_000_000))
    return {
        "shards": sum(len(group.shards) for group in manifest.groups),
        "groups": len(manifest.groups),
        "pairs": manifest.rows,
        "manifest_megabytes": (root / "manifest.json").stat().st_size / 1e6,
        "seconds": {"load manifest": load, "make schedule": make, "first batch": first, "new schedule, step 10^6": far},
        "seconds_a_batch": {clock: [one[clock] for one in batches[WARM:]] for clock in ("wall", "cpu")},
        "megabytes": {"before": before, "opened": opened, "planned": planned},
    }


def measure(*, quick: bool) -> dict[str, Any]:
    shape = {"groups": 100, "shards": 20} if quick else {"groups": 2_500, "shards": 120}
    size = 4_096 if quick else 65_536
    cases = {}
    spawn = multiprocessing.get_context("spawn")
    for name, case in CASES.items():
        say(name)
        with tempfile.TemporaryDirectory() as folder:
            made_up_manifest(Path(folder), datasets=case["datasets"], **shape).save(folder)
            # A process that made the manifest uses memory that one that only opens it would not.
            with spawn.Pool(1) as pool:
                given = (Path(folder), case["batch"], size, 20 if quick else case["steps"])
                cases[name] = pool.apply_async(one_case, given).get(timeout=900)
    return {"settings": {"batch": size, **shape, "shard_rows": SHARD_ROWS}, "cases": cases}


def table(result: dict[str, Any]) -> str:
    """Return Markdown: one row per mixture."""
    heads = ("open, s", "first batch, s", "per batch, ms", "highest, ms", "new schedule, step 10⁶, s", "memory, MB")
    lines = [f"| | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name, case in result["cases"].items():
        taken, memory = case["seconds"], case["megabytes"]
        of_batches = case["seconds_a_batch"]["wall"]
        one = {key: 1e3 * value for key, value in quartiles(of_batches).items()}
        cells = (
            f"{taken['load manifest']['wall'] + taken['make schedule']['wall']:.2f}",
            f"{taken['first batch']['wall']:.2f}",
            f"{one['median']:.1f} ({one['low']:.1f}–{one['high']:.1f})",
            f"{1e3 * max(of_batches):.1f}",
            f"{taken['new schedule, step 10^6']['wall']:.2f}",
            f"{memory['planned']['highest'] - memory['before']['now']:,.0f}",
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    most = max(result["cases"].values(), key=lambda case: case["shards"])
    shape = f"{most['shards']:,} shards in {most['groups']:,} groups, {most['pairs']:,} pairs"
    return "\n".join([*lines, "", f"{shape}; global batches of {result['settings']['batch']:,}."])


if __name__ == "__main__":
    given = arguments(__doc__)
    result = measure(quick=given.quick)
    write(given.out, "schedule", result)
    print(table(result))
