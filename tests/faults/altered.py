"""Files that are not what was written: cut, emptied, deleted, with lost blocks or turned bits."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from material import PATIENCE_S, Way, evaluation_words
from trial import Trial, scenario
from verdict import Fault, scores_of

from hbdist.runs import logs

Alteration = Callable[[bytes, random.Random], bytes | None]


def cut(data: bytes, rng: random.Random) -> bytes:
    """End the file early."""
    return data[: rng.randrange(len(data))] if data else data


def lost_block(data: bytes, rng: random.Random) -> bytes:
    """Replace up to 4,096 bytes by zeros, as a lost write does."""
    at = rng.randrange(max(1, len(data)))
    size = min(rng.choice([1, 16, 512, 4096]), len(data) - at)
    return data[:at] + bytes(size) + data[at + size :]


def garbage(data: bytes, rng: random.Random) -> bytes:
    """Replace some bytes by others that no text has."""
    at = rng.randrange(max(1, len(data)))
    size = min(rng.choice([1, 4, 64]), len(data) - at)
    return data[:at] + b"\xff" * size + data[at + size :]


def turned_bit(data: bytes, rng: random.Random) -> bytes:
    """Turn one bit."""
    at = rng.randrange(max(1, len(data)))
    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :] if data else data


def appended(data: bytes, rng: random.Random) -> bytes:
    """Append what is no line of the file."""
    return data + rng.choice([b"\0" * 512, b"{", b"nonsense\n", b'{"step": 7, "text": "\xe2\x80\xa8\xc2\x85"}'])


def empty(_data: bytes, _rng: random.Random) -> bytes:
    """Empty the file."""
    return b""


def gone(_data: bytes, _rng: random.Random) -> None:
    """Delete the file."""


STRUCTURAL: tuple[Alteration, ...] = (cut, lost_block, garbage, appended, empty, gone)
"""Alterations that leave no valid text; a digit that becomes another cannot be noticed in a log."""


def alter(trial: Trial, path: Path, alterations: tuple[Alteration, ...]) -> Callable[[], None]:
    """Alter a file, and return a function that restores it."""
    alteration, data = trial.rng.choice(alterations), path.read_bytes()
    changed = alteration(data, trial.rng)
    trial.details |= {"file": str(path.relative_to(trial.place)), "alteration": alteration.__name__}
    if changed is None:
        path.unlink()
    else:
        path.write_bytes(changed)

    def restore() -> None:
        path.write_bytes(data)

    return restore


def _resume_altered(trial: Trial, names: tuple[str, ...], alterations: tuple[Alteration, ...]) -> str:
    """Alter a file of a run that was killed after step 7, and resume it."""
    shutil.copytree(trial.material.midway(), trial.run)
    paths = sorted({path for name in names for path in trial.run.glob(name) if path.is_file()})
    chosen = trial.rng.choice(paths)
    restore = alter(trial, chosen, alterations)
    start = trial.start(Way())
    status = trial.wait(start)
    trial.wait_until_gone(start)
    if status == 0:
        return _check_done_or_named(trial, chosen, start.output)
    trial.check_refused(start, status, named=trial.run.name)
    restore()
    trial.finish(Way())
    return "refused"


def _check_done_or_named(trial: Trial, chosen: Path, output: str) -> str:
    try:
        return trial.check_done(Way())
    except (Fault, UnicodeDecodeError):
        # What is lost of a log cannot be made again: the rest must be right, and the loss named, by the resume or a reader.
        if chosen.suffix != ".jsonl" or not (chosen.name in output or logs.read(chosen)[1]):
            raise
        reference = trial.material.reference(Way()) / "run"
        mine, theirs = (logs.read(one / "metrics.jsonl")[0][-1]["loss"] for one in (trial.run, reference))
        weights = [(one / "model/model.safetensors").read_bytes() for one in (trial.run, reference)]
        if mine != theirs or weights[0] != weights[1]:
            raise
        trial.details["named"] = True
        return "equal"


@scenario("altered files", share=3, short=True)
def altered_checkpoint(trial: Trial) -> str:
    return _resume_altered(trial, ("checkpoints/*/*", "checkpoints/*/*"), (*STRUCTURAL, turned_bit, turned_bit))


@scenario("altered files")
def altered_pointer(trial: Trial) -> str:
    return _resume_altered(trial, ("checkpoints/latest", "checkpoints/best"), STRUCTURAL)


@scenario("altered files", share=3)
def altered_log(trial: Trial) -> str:
    return _resume_altered(trial, ("*.jsonl",), STRUCTURAL)


@scenario("altered files", share=2)
def altered_run_file(trial: Trial) -> str:
    """Alter config, manifest, environment, plan or the dead owner's lock."""
    return _resume_altered(trial, ("*.toml", "*.json", "plan.txt"), STRUCTURAL)


@scenario("altered files")
def altered_outcome(trial: Trial) -> str:
    """Alter the outcome of a run that was done."""
    shutil.copytree(trial.material.reference(Way()) / "run", trial.run)
    alter(trial, trial.run / "outcome.json", STRUCTURAL)
    start = trial.start(Way())
    status = trial.wait(start)
    if status:
        return trial.check_refused(start, status, named="outcome")
    return trial.check_done(Way())


@scenario("altered files", share=3)
def altered_shards(trial: Trial) -> str:
    """Train from altered shards, views, indexes or manifests: the same bits, or a refusal; repaired, the same bits."""
    shards = trial.place / "shards"
    shutil.copytree(trial.material.shards, shards)
    paths = sorted(path for path in shards.rglob("*") if path.is_file() and "statistics" not in path.name)
    restore = alter(trial, trial.rng.choice(paths), (*STRUCTURAL, turned_bit, turned_bit))
    start = trial.start(Way(), f"data.shards={shards}")
    status = trial.wait(start)
    trial.wait_until_gone(start)
    if status == 0:
        return trial.check_done(Way())
    trial.check_refused(start, status, named=str(trial.place))
    restore()
    trial.finish(Way(), f"data.shards={shards}")
    return "refused"


@scenario("altered files", share=2)
def altered_model(trial: Trial) -> str:
    """Evaluate an exported model of which a file was altered: the same scores, or a refusal."""
    model = trial.place / "model"
    shutil.copytree(trial.material.reference(Way()) / "run/model", model)
    paths = sorted(path for path in model.rglob("*") if path.is_file())
    chosen = trial.rng.choice(paths)
    # The format has no checksum of weights, and a folder without sentence-transformers' files is a model too: only what breaks
    # a file can be noticed.
    alter(trial, chosen, (cut, empty) if chosen.suffix == ".safetensors" else (cut, lost_block, garbage, empty))
    out = trial.place / "scores"
    start = trial.start_command(evaluation_words(trial.material, model, out))
    status = start.wait(PATIENCE_S)
    if status:
        return trial.check_refused(start, status)
    if scores_of(out) != scores_of(trial.material.outputs() / "scores"):
        raise Fault("other scores, without a word")
    return "equal"
