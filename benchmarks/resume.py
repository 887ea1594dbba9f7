"""Resuming after a kill at 37 % and 90 % of an epoch: seconds to the first batch, and whether the later batches are the same.

192 shards of 1,000 pairs of about 1 KB; batches of 256 texts, in the system's memory. hbdist opens the manifest, plans the step
and reads it; webdataset skips undecoded samples (`slice`); Hugging Face `datasets` streams the same pairs from parquet, as
it resumes with `skip`, and with its `state_dict`. The streaming libraries run in two orders: shards in random order, their
fastest, and in addition a shuffle buffer of 1,000. hbdist's order is random over all pairs of a language. The process of the
streams is killed by SIGKILL, and another process reads them to their end.
"""

import hashlib
import json
import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from made_up import LANGUAGES, make_config, make_shards, monolingual, tars
from measure import RunError, arguments, interleave, launch, quartiles, ratio, say, write
from peers import version_of

BATCH, SHARD_ROWS = 256, 1_000
STOPS = (0.37, 0.9)
REPETITIONS, WARMUPS = 5, 2
BUFFER = 1_000
SEED = 5
OURS = "hbdist"
STREAMS = {
    OURS: "hbdist",
    "webdataset, slice": "webdataset",
    f"webdataset, slice, buffer of {BUFFER:,}": "webdataset",
    "datasets, skip": "datasets",
    f"datasets, skip, buffer of {BUFFER:,}": "datasets",
    "datasets, state_dict": "datasets",
    f"datasets, state_dict, buffer of {BUFFER:,}": "datasets",
}
"""Name of a stream → distribution that it needs."""
Ids = Iterator[list[str]]
"""Ids of the pairs, batch by batch."""


def measure(*, quick: bool) -> dict[str, Any]:
    groups, rows, repetitions, warmups = (2, 4_000, 2, 1) if quick else (8, 24_000, REPETITIONS, WARMUPS)
    batches = groups * rows // BATCH
    names = [name for name, needs in STREAMS.items() if version_of(needs)]
    result: dict[str, Any] = {
        "settings": {"pairs": groups * rows, "batch": BATCH, "stops": STOPS, "repetitions": repetitions},
        "versions": {name: version_of(name) for name in ("webdataset", "datasets", "pyarrow")},
        "skipped": {name: f"{STREAMS[name]} is not installed" for name in STREAMS if name not in names},
        "runs": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        say(f"shards of {groups * rows:,} pairs, and the same as parquet")
        launch(make_data, timeout=400, folder=folder, groups=groups, rows=rows)
        given = {"folder": folder, "names": names}
        dones = [int(stop * batches) for stop in STOPS]
        say("undisturbed")
        undisturbed = launch(read_all, timeout=900, dones=dones, **given)[0]
        for stop, done in zip(STOPS, dones, strict=True):
            say(f"killed after {done} of {batches} batches")
            kill(done=done, **given)
            resumed = launch(read_rest, timeout=900, done=done, **given)[0]
            same = {name: _same(undisturbed[name], resumed[name], done) for name in names}
            say("seconds to the first batch")
            timed = launch(first_batches, timeout=900, done=done, repetitions=repetitions, warmups=warmups, **given)[0]
            result["runs"][str(stop)] = {"batches_done": done, "same": same, "seconds": timed}
    return result


def _same(undisturbed: dict[str, str], resumed: dict[str, str], done: int) -> bool | str:
    reason = undisturbed.get("reason") or resumed.get("reason")
    return reason or undisturbed[str(done)] == resumed[str(done)]


def make_data(folder: str, groups: int, rows: int) -> None:
    """Make shards in `folder`/shards, and each of them as parquet in `folder`/parquet."""
    from made_up import pairs_of

    languages = monolingual(LANGUAGES[:groups])
    manifest = make_shards(Path(folder, "shards"), languages, rows=rows, shard_rows=SHARD_ROWS)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return
    Path(folder, "parquet").mkdir()
    number = 0
    for language in sorted(languages):
        pairs = pairs_of(language, rows)
        for start in range(0, rows, SHARD_ROWS):
            columns = ("id", "query", "document", "query_lang", "document_lang")
            table = {name: [getattr(pair, name) for pair in pairs[start : start + SHARD_ROWS]] for name in columns}
            parquet.write_table(pyarrow.table(table), Path(folder, "parquet", f"{number:03d}.parquet"))
            number += 1
    assert number == len(tars(manifest))


def stream(name: str, folder: str, done: int = 0, state: Any = None) -> tuple[Ids, Callable[[], Any]]:
    """Return the ids from batch `done` on, and a function that returns the state to save, for streams that need one."""
    if name == OURS:
        return _ours(folder, done), lambda: None
    buffer = BUFFER if "buffer" in name else 0
    if STREAMS[name] == "webdataset":
        return _batches(_webdataset(folder, done * BATCH, buffer)), lambda: None
    dataset = _dataset(folder, buffer)
    if "state_dict" in name:
        if state is not None:
            dataset.load_state_dict(state)
        return _batches(one["id"] for one in dataset), dataset.state_dict
    return _batches(one["id"] for one in dataset.skip(done * BATCH)), lambda: None


def _ours(folder: str, done: int) -> Ids:
    from hbdist.data.batching.sampler import HybridBatchSampler, PairDataset
    from hbdist.data.batching.schedule import Schedule
    from hbdist.data.shards.manifest import Manifest

    manifest = Manifest.load(Path(folder, "shards"))
    steps = manifest.rows // BATCH
    config = make_config(manifest.root, steps=steps, batch={"size": BATCH, "mono_share": 1.0})
    sampler = HybridBatchSampler(Schedule.of(config, manifest), 0, 1, start=done, steps=steps)
    dataset = PairDataset(manifest)
    return ([pair.id for pair in dataset.__getitems__(places)] for places in sampler)


def _webdataset(folder: str, skipped: int, buffer: int) -> Iterable[str]:
    import webdataset

    paths = sorted(map(str, Path(folder, "shards").rglob("*.tar")))
    random.Random(SEED).shuffle(paths)
    samples = webdataset.WebDataset(paths, shardshuffle=False)
    if buffer:
        samples = samples.shuffle(buffer, seed=SEED)
    return (one["json"]["id"] for one in samples.slice(skipped, None).map_dict(json=json.loads))


def _dataset(folder: str, buffer: int) -> Any:
    import datasets

    paths = sorted(map(str, Path(folder, "parquet").glob("*.parquet")))
    random.Random(SEED).shuffle(paths)
    dataset = datasets.load_dataset("parquet", data_files=paths, split="train", streaming=True)
    # Several input shards are read by threads, which end seconds after their stream.
    return dataset.shuffle(seed=SEED, buffer_size=buffer, max_buffer_input_shards=1) if buffer else dataset


def _batches(ids: Iterable[str]) -> Ids:
    iterator = iter(ids)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def kill(folder: str, names: list[str], done: int) -> None:
    """Let a process read this many batches of every stream, save its state, and be killed in the next one.

    Raises:
        RunError: the process ended in another way.
    """
    try:
        launch(read_and_die, timeout=900, folder=folder, names=names, done=done)
    except RunError as error:
        if "signal 9" in str(error):
            return
        raise
    raise RunError("the reader was not killed")


def read_and_die(folder: str, names: list[str], done: int) -> None:
    _quiet()
    reading = []
    for name in names:
        try:
            ids, state = stream(name, folder)
            assert sum(1 for _ in islice(ids, done)) == done
            _saved(folder, name, done).write_text(json.dumps(state()))
            next(ids)
            reading.append(ids)
        except Exception as error:  # whatever another library raises is its result
            print(f"{name}: {error}")
    os.kill(os.getpid(), signal.SIGKILL)


def read_all(folder: str, names: list[str], dones: list[int]) -> dict[str, dict[str, str]]:
    """Return digests of the ids of every stream after this many batches, read from the start."""
    _quiet()
    return {name: _digests(name, folder, dones) for name in names}


def read_rest(folder: str, names: list[str], done: int) -> dict[str, dict[str, str]]:
    """Return the same, read by a process that resumes after `done` batches."""
    _quiet()
    return {name: _digests(name, folder, [done], restarted=True) for name in names}


def _digests(name: str, folder: str, dones: list[int], *, restarted: bool = False) -> dict[str, str]:
    digests = {done: hashlib.sha256() for done in dones}
    try:
        ids = _restarted(name, folder, dones[0]) if restarted else stream(name, folder)[0]
        for number, batch in enumerate(ids, start=dones[0] if restarted else 0):
            for done, digest in digests.items():
                if number >= done:
                    digest.update("\n".join((*batch, "")).encode())
    except Exception as error:  # whatever another library raises is its result
        return {"reason": f"{type(error).__name__}: {error}"[:200]}
    return {str(done): digest.hexdigest() for done, digest in digests.items()}


def _restarted(name: str, folder: str, done: int) -> Ids:
    return stream(name, folder, done, json.loads(_saved(folder, name, done).read_text()))[0]


def _saved(folder: str, name: str, done: int) -> Path:
    return Path(folder, f"{hashlib.sha256(name.encode()).hexdigest()[:16]}-{done}.json")


def first_batches(folder: str, names: list[str], done: int, repetitions: int, warmups: int) -> dict[str, Any]:
    """Return the seconds of every turn from imports to the first batch of a process that resumes after `done` batches."""
    _quiet()
    reading: list[Ids] = []  # closing a stream is not part of its time

    def first(name: str) -> None:
        reading.append(_restarted(name, folder, done))
        next(reading[-1])

    cases = {name: partial(first, name) for name in names if _saved(folder, name, done).is_file()}
    return interleave(cases, repetitions=repetitions, warmups=warmups, before=reading.clear)


def _quiet() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


def table(result: dict[str, Any]) -> str:
    """Return Markdown: one row per way to resume."""
    stops = list(result["runs"])
    heads = [f"first batch at {float(stop):.0%}, s | ÷ hbdist | same batches" for stop in stops]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (1 + 3 * len(stops)) + "|"]
    for name in STREAMS:
        if name in result["skipped"]:
            lines.append(f"| {name} | not run: {result['skipped'][name]} |" + " |" * (3 * len(stops) - 1))
        else:
            cells = [cell for stop in stops for cell in _cells(name, result["runs"][stop])]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(name: str, run: dict[str, Any]) -> tuple[str, str, str]:
    same = run["same"][name]
    said = same if isinstance(same, str) else "yes" if same else "**no**"
    if name not in run["seconds"]:
        return "–", "–", said
    seconds, times = quartiles(run["seconds"][name]), ratio(run["seconds"][name], run["seconds"][OURS])
    return f"{seconds['median']:.3g}", f"{times['median']:,.1f} ({times['low']:,.1f}–{times['high']:,.1f})", said


if __name__ == "__main__":
    given = arguments(__doc__)
    result = measure(quick=given.quick)
    write(given.out, "resume", result)
    print(table(result))
