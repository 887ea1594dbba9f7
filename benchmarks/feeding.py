"""What every rank does for a whole global batch, however many ranks there are: CPU time and memory for 65,536 and 1,048,576
pairs in 50 languages.

A rank plans the batch, looks up the lengths of all its pairs, deals them to the ranks, and counts language pairs and repeats;
only then it reads and tokenises its own share. The indexes are real files with made-up entries; there are no tars, which this
part does not open. Each case runs in a separate process. CPU time of a process is little affected by other load.
"""

import hashlib
import multiprocessing
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from made_up import MODEL, demo_tokenize
from measure import arguments, quartiles, say, write
from schedule import megabytes, timed

from hbdist.config.config import Config
from hbdist.data.batching.schedule import deal_to_rank
from hbdist.data.shards.groups import Group, Shard, Shards, Texts, View
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.sample import INDEX
from hbdist.training.loader import Batches, estimate_tokens

LANGUAGES, SHARDS, SHARD_ROWS = 50, 10, 1_000
"""Languages; shards of each group and rows of each shard."""
SIZES = (1 << 16, 1 << 20)
WORLD = 8
STEPS = 12
"""Steps after the first, which makes the decks' first deals and opens the indexes."""
TARGET = 0.5
"""Seconds for the larger batch."""


def made_up_pairs(root: Path, languages: int) -> Manifest:
    """Make the indexes of a group for each pair of languages."""
    names, generator = _names(languages), np.random.default_rng(0)
    groups = []
    for query in names:
        for document in names:
            folder = f"set/{query}-{document}"
            (root / folder).mkdir(parents=True)
            shards = Shards.of(_shard(root, f"{folder}/{number:06d}", generator) for number in range(SHARDS))
            groups.append(Group("set", query, document, shards))
    return Manifest(root, tuple(groups))


def made_up_views(root: Path, languages: int) -> Manifest:
    """Make the indexes of the texts of each language, and a view for each pair of languages, of the same sizes."""
    names, generator, rows = _names(languages), np.random.default_rng(0), SHARDS * SHARD_ROWS
    texts, groups = [], []
    for name in names:
        (root / "set" / name).mkdir(parents=True)
        shards = Shards.of(_shard(root, f"set/{name}/{number:06d}", generator) for number in range(SHARDS))
        texts.append(Texts("set", name, rows, SHARD_ROWS, tuple(range(SHARDS)), shards))
    for query in names:
        for document in names:
            content, path = _array(generator.permutation(rows).astype("<u4")), f"set/{query}-{document}.npy"
            (root / path).write_bytes(content)
            view = View(path, hashlib.sha256(content).hexdigest(), rows, SHARD_ROWS)
            groups.append(Group("set", query, document, view=view))
    return Manifest(root, tuple(groups), texts=tuple(texts))


MAKERS = {"pairs": made_up_pairs, "parallel": made_up_views}
"""Layout → what makes its files."""


def _names(languages: int) -> list[str]:
    return [f"l{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(languages)]


def _shard(root: Path, stem: str, generator: np.random.Generator) -> Shard:
    entries = np.zeros(SHARD_ROWS, INDEX)
    entries["offset"], entries["size"] = 512, 1
    for column in ("query_chars", "document_chars"):
        entries[column] = generator.lognormal(5, 0.6, SHARD_ROWS).astype(np.int32) + 1
    content = _array(entries)
    (root / f"{stem}.index.npy").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return Shard(f"{stem}.tar", SHARD_ROWS, 10_240, digest, f"{stem}.index.npy", digest, 0)


def _array(array: np.ndarray) -> bytes:
    file = BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def one_case(root: Path, size: int, steps: int) -> dict[str, Any]:
    """Measure one case, in a separate process."""
    manifest = Manifest.load(root)
    values = {
        "steps": steps,
        "data": {"shards": str(root)},
        "model": {"name": str(MODEL)},
        "batch": {"size": size, "mono_share": 0.0},
    }
    rates = dict.fromkeys(manifest.languages, 0.3)
    config = Config.check(values, source="the benchmark")
    batches = Batches(config, manifest, demo_tokenize(), token_rates=rates, rank=1, world=WORLD)
    before = megabytes()
    first, _ = timed(lambda: batches.share(0))
    whole, parts = [], []
    for step in range(1, steps):
        whole.append(timed(lambda step=step: batches.share(step))[0])
        # The same work again, in parts: what is in memory now was there for the whole, too.
        plan, batch = timed(lambda step=step: batches.schedule.batch(step))
        look_up, tokens = timed(lambda batch=batch: estimate_tokens(batches.reader, manifest, batch, rates))
        deal, _ = timed(lambda tokens=tokens: deal_to_rank(tokens.sum(axis=0), 1, WORLD))
        parts.append({"plan": plan["cpu"], "look up": look_up["cpu"], "deal": deal["cpu"]})
    return {
        "first": first,
        "seconds": {clock: [one[clock] for one in whole] for clock in ("wall", "cpu")},
        "parts": {name: [one[name] for one in parts] for name in parts[0]},
        "megabytes": {"before": before, "after": megabytes()},
    }


def measure(*, quick: bool) -> dict[str, Any]:
    languages, sizes = (6, (1 << 12,)) if quick else (LANGUAGES, SIZES)
    cases: dict[str, Any] = {}
    spawn = multiprocessing.get_context("spawn")
    for layout, make in MAKERS.items():
        with tempfile.TemporaryDirectory() as folder:
            say(f"{layout}: files")
            make(Path(folder), languages).save(folder)
            for size in sizes:
                say(f"{layout}: {size:,} pairs")
                with spawn.Pool(1) as pool:
                    case = pool.apply_async(one_case, (Path(folder), size, 4 if quick else 1 + STEPS))
                    cases.setdefault(layout, {})[str(size)] = case.get(timeout=900)
    shape = {"languages": languages, "shards_of_a_group": SHARDS, "shard_rows": SHARD_ROWS, "world": WORLD}
    return {"settings": {**shape, "target": TARGET}, "cases": cases}


def table(result: dict[str, Any]) -> str:
    """Return Markdown: one row per layout and size of the batch."""
    heads = ("layout", "pairs", "CPU, s", "planning", "lengths", "dealing", "first batch, s", "memory, MB")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for layout, cases in result["cases"].items():
        for size, case in cases.items():
            one, memory = quartiles(case["seconds"]["cpu"]), case["megabytes"]
            cells = (
                layout,
                f"{int(size):,}",
                f"{one['median']:.3f} ({one['low']:.3f}–{one['high']:.3f})",
                *(f"{quartiles(case['parts'][name])['median']:.3f}" for name in ("plan", "look up", "deal")),
                f"{case['first']['cpu']:.1f}",
                f"{memory['after']['highest'] - memory['before']['now']:,.0f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
    settings = result["settings"]
    groups = settings["languages"] * (settings["languages"] - 1)
    return "\n".join(
        [
            *lines,
            "",
            f"{groups:,} cross-lingual groups of {settings['shards_of_a_group']} shards of {settings['shard_rows']:,} rows;"
            " each pair draws its languages.",
        ]
    )


if __name__ == "__main__":
    given = arguments(__doc__)
    result = measure(quick=given.quick)
    write(given.out, "feeding", result)
    print(table(result))
