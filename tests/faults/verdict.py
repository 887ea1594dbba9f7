"""What a trial found: the same run, a refusal that says what is wrong, or a fault."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from material import STEPS
from safetensors.torch import load_file

from hbdist.utils.files import sha256

CLOSE = 1e-5
"""Largest relative difference of losses and of all weights together, between other numbers of ranks or strategies."""
MEASURED = ("seconds", "data_seconds", "peak_bytes", "exchanged_bytes")
"""Numbers of a step that depend on the machine; exchanged_bytes on the ranks."""


class Fault(Exception):  # noqa: N818 — it is what the campaign looks for
    """Something that hbdist promises and did not do."""


def log_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a log."""
    text = path.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        raise Fault(f"{path.name} does not end with a line")
    try:
        return [json.loads(line) for line in text[:-1].split("\n")]
    except ValueError as error:
        raise Fault(f"{path.name} is not JSON lines: {error}") from None


def outcome_of(run: Path) -> dict[str, Any]:
    """Return outcome.json; {} if there is none."""
    path = run / "outcome.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def check_the_same(run: Path, reference: Path, *, exact: bool) -> float:
    """Raise Fault unless two finished runs had the same batches, losses and weights; return the largest difference."""
    state = outcome_of(run).get("state")
    if state != "done":
        raise Fault(f"the run is not done: outcome.json has {state}")
    _check_logs(run, reference, exact=exact)
    worst = 0.0
    for mine, theirs in zip(log_lines(run / "metrics.jsonl"), log_lines(reference / "metrics.jsonl"), strict=True):
        for key in ("loss", "grad_norm", "lr", "temperature", "masked"):
            worst = max(worst, abs(mine[key] - theirs[key]) / max(abs(theirs[key]), 1e-12))
    worst = max(
        worst, _distance(load_file(run / "model/model.safetensors"), load_file(reference / "model/model.safetensors"))
    )
    newest = f"checkpoints/{STEPS:09d}/state.pt"
    mine, theirs = (torch.load(one / newest, weights_only=True) for one in (run, reference))
    worst = max(worst, _distance(mine["model"], theirs["model"]))
    if exact:
        worst = max(worst, _distance(_moments(mine), _moments(theirs)))
    if worst > (0 if exact else CLOSE):
        raise Fault(f"done with other numbers than the undisturbed run: they differ by {worst:.2g}")
    return worst


def _moments(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {f"{name} {kind}": value for name, both in state["moments"].items() for kind, value in both.items()}


def _check_logs(run: Path, reference: Path, *, exact: bool) -> None:
    for name in ("metrics.jsonl", "batches.jsonl", "validation.jsonl", "evaluation.jsonl"):
        mine, theirs = log_lines(run / name), log_lines(reference / name)
        if [line["step"] for line in mine] != [line["step"] for line in theirs]:
            raise Fault(
                f"{name} has the steps {[line['step'] for line in mine]}, expected {[line['step'] for line in theirs]}"
            )
        if name == "batches.jsonl" and mine != theirs:
            raise Fault("other batches than the undisturbed run's")
        if exact and [_timeless(line) for line in mine] != [_timeless(line) for line in theirs]:
            raise Fault(f"{name} has other numbers than the undisturbed run's")


def _timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in MEASURED}


def _distance(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Return the distance of two sets of tensors, relative to the second; 0 only if all bits are the same."""
    if mine.keys() != theirs.keys():
        raise Fault(f"other tensors: {sorted(mine.keys() ^ theirs.keys())[:3]}")
    if all(torch.equal(mine[name], theirs[name]) for name in theirs):
        return 0.0
    apart = sum(float((mine[name].double() - theirs[name].double()).square().sum()) for name in theirs)
    size = sum(float(theirs[name].double().square().sum()) for name in theirs)
    return max((apart / size) ** 0.5, 1e-300)


def check_refusal(status: int | None, output: str, *, named: str = "") -> str:
    """Return the sentence with which a start was refused; raise Fault unless it is one, without a traceback.

    Args:
        named: regular expression of what the sentence must name.
    """
    if "Traceback (most recent call last)" in output:
        raise Fault(f"a traceback: {output.strip().splitlines()[-1][:300]}")
    found = re.findall(r"^hbdist(?:, rank \d+)?: (.+)$", output, re.MULTILINE)
    if status not in (1, 2) or not found:
        raise Fault(f"status {status} and no sentence: {output.strip()[-300:]!r}")
    if named and not re.search(named, "\n".join(found)):
        raise Fault(f"the refusal does not name {named}: {found[0][:300]}")
    return str(found[0])


def left_behind(place: Path, pids: set[int]) -> list[str]:
    """Return what finished work has left and should not have: temporary files, a run's lock, shared memory.

    Args:
        place: folder that holds the work; beside it are `tmp` and `cache`, for temporary and cached files.
        pids: processes that were started.
    """
    names = (".*", "*.partial", "*.old", "running.json*", "*.lock")
    found = [path for folder in (place, place.parent / "cache") for name in names for path in folder.rglob(name)]
    # torchrun's own folder of logs, which a killed launcher cannot remove, is not ours.
    found += [path for path in (place.parent / "tmp").iterdir() if not path.name.startswith("torchelastic_")]
    shared = Path("/dev/shm")
    for path in shared.iterdir() if shared.is_dir() else ():
        if any(str(pid) in re.findall(r"\d+", path.name) for pid in pids):
            found.append(path)
    return sorted({str(path) for path in found})


def scores_of(folder: Path) -> dict[str, Any]:
    """Return scores.json without what depends on the machine."""
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    return {key: value for key, value in scores.items() if key not in ("seconds", "command", "model")}


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of each file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}
