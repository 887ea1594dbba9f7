"""The two layouts of the demo's parallel sets, NTREX and TICO-19: bytes on disk, and the rate at which batches are read.

    python benchmarks/layouts.py [--quick] [--out FOLDER]

Files are in the page cache, so the rates measure seeks, JSON parsing and joining. Both layouts read the same batches.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from measure import HERE, arguments, interleave, quartiles, ratio, say, write

from hbdist.config.config import Config
from hbdist.data.batching.schedule import Schedule
from hbdist.data.build.build import build
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import ShardReader

LAYOUTS = ("pairs", "parallel")
DATA = HERE.parent / "shards" / "demo" / "train"
SETS = ("ntrex", "tico19")
CAPS = (0, 400)
SHARES = (0.0, 0.5, 1.0)
BATCH = 256


def recipe(folder: Path, layout: str, cap: int, languages: int) -> Path:
    """Return the recipe of the demo's parallel sets, in their first languages."""
    lines = [f"pairs_per_group = {cap}"]
    for name in SETS:
        lines += ["[[dataset]]", f'name = "{name}"', 'reader = "jsonl"', "parallel = true", f'layout = "{layout}"']
        files = sorted((DATA / name).glob("*.jsonl.gz"))[:languages]
        lines += [f'files.{file.name.split(".")[0]} = "{file}"' for file in files]
    path = folder / f"{layout}-{cap}.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def sizes(manifest: Manifest) -> dict[str, int]:
    """Return the bytes of the files by kind, and their content."""
    found = {"tars": 0, "indexes": 0, "lists": 0, "manifest": 0}
    for path in manifest.folder.rglob("*"):
        if path.suffix == ".npy":
            found["indexes" if path.name.endswith(".index.npy") else "lists"] += path.stat().st_size
        elif path.is_file():
            found["tars" if path.suffix == ".tar" else "manifest"] += path.stat().st_size
    return {**found, "groups": len(manifest.groups), "pairs": manifest.rows}


def rates(manifests: dict[str, Manifest], mono_share: float, *, steps: int, repetitions: int) -> dict[str, Any]:
    """Return the seconds to read the same `steps` batches, lengths first, from either layout, turn by turn."""
    values = {"steps": steps, "data": {"shards": "x"}, "model": {"name": "x"}}
    config = Config.check(values | {"batch": {"size": BATCH, "mono_share": mono_share}}, source="benchmark")
    planned = [Schedule.of(config, manifests["pairs"]).batch(step) for step in range(steps)]

    def reading(manifest: Manifest) -> Any:
        reader = ShardReader(manifest)

        def run() -> None:
            for batch in planned:
                for group in np.unique(batch.group).tolist():
                    reader.lengths(group, batch.row[batch.group == group])
                reader.read(batch.group, batch.row)

        return run

    seconds = interleave({name: reading(one) for name, one in manifests.items()}, repetitions=repetitions)
    pairs = steps * BATCH
    return {
        "mono_share": mono_share,
        "pairs_a_second": {name: quartiles([pairs / one for one in taken]) for name, taken in seconds.items()},
        "parallel_over_pairs": ratio(seconds["pairs"], seconds["parallel"]),
        "seconds": seconds,
    }


def measure(*, quick: bool) -> dict[str, Any]:
    languages, steps, repetitions = (3, 4, 2) if quick else (11, 40, 15)
    cases = []
    for cap in CAPS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            say(f"at most {cap} pairs a cross-lingual group" if cap else "all pairs")
            made = {layout: build(recipe(folder, layout, cap, languages), folder / layout) for layout in LAYOUTS}
            reading = [rates(made, share, steps=steps, repetitions=repetitions) for share in SHARES]
            cases.append({"cap": cap, "bytes": {key: sizes(one) for key, one in made.items()}, "reading": reading})
    return {"settings": {"batch": BATCH, "steps": steps, "languages": languages}, "cases": cases}


def table(result: dict[str, Any]) -> str:
    """Return Markdown: sizes, then rates, one row per cap and share."""
    lines = ["| pairs per group | layout | tars, MB | indexes, MB | lists, MB | total, MB |", "|---" * 6 + "|"]
    for case in result["cases"]:
        for layout, found in case["bytes"].items():
            parts = [found[key] / 1e6 for key in ("tars", "indexes", "lists")]
            cells = " | ".join(f"{part:.1f}" for part in (*parts, sum(parts)))
            lines.append(f"| {case['cap'] or 'all'} | {layout} | {cells} |")
    lines += ["", "| pairs per group | monolingual | parallel ÷ pairs, rate of reading |", "|---" * 3 + "|"]
    for case in result["cases"]:
        for one in case["reading"]:
            taken = one["parallel_over_pairs"]
            cells = f"{taken['median']:.2f} ({taken['low']:.2f}–{taken['high']:.2f})"
            lines.append(f"| {case['cap'] or 'all'} | {one['mono_share']:.0%} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    given = arguments((__doc__ or "").splitlines()[0])
    result = measure(quick=given.quick)
    write(given.out, "layouts", result)
    print(table(result))
