"""Full runs under DeepSpeed: the numbers of one process without it, at every stage, before and after changing the stage."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import ROOT, lines, train
from safetensors.torch import load_file

RUN = [
    "optimizer.lr=1e-3",
    "batch.size=16",
    "steps=5",
    "checkpoint.every=2",
    "checkpoint.keep=9",
    "run.log_batches=true",
]
CHUNKS = ["loss.chunk_tokens=150", "loss.gradient_cache=always"]
"""Chunk size small enough that ranks make different numbers of chunks."""


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tiny_shards: Path) -> list[str]:
    sources = [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]"]
    return ["launch/train/demo.toml", "model.dropout=0", "loss.learn_temperature=true", *sources, *RUN]


STARTS = {
    "one": (1, ""),
    "DDP": (2, ""),
    "ZeRO-1": (2, "zero1"),
    "ZeRO-2": (2, "zero2"),
    "ZeRO-3": (2, "zero3"),
    "ZeRO-3 on four": (4, "zero3"),
}
"""Number of processes of a run, and name of its files in launch/accelerate and launch/deepspeed."""


def start(name: str, *arguments: str, **variables: str) -> str:
    """Train to the end and return the output."""
    processes, launch = STARTS[name]
    done = train(processes, *arguments, *(CHUNKS if launch else []), launch=launch or "two", **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that returns the folder of a run with this start, trained once."""
    folders: dict[str, Path] = {}

    def trained(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("run") / "run"
            compiled = folders[name].with_name("compiled")
            said = start(name, *tiny, f"run.folder={folders[name]}", TORCH_EXTENSIONS_DIR=str(compiled))
            folders[name].with_name("said").write_text(said, encoding="utf-8")
            assert not compiled.exists() or not list(compiled.iterdir()), "DeepSpeed compiled something"
        return folders[name]

    return trained


def assert_the_same_run(folder: Path, other: Path, *, rel: float = 1e-5) -> None:
    mine, theirs = (lines(path / "metrics.jsonl") for path in (folder, other))
    for here, there in zip(mine, theirs, strict=True):
        for key in ("step", "loss", "grad_norm", "lr", "temperature", "masked"):
            # Later steps start from parameters that differ by rounding, which AdamW divides by itself.
            assert here[key] == pytest.approx(there[key], rel=rel * (1 if here["step"] == 1 else 20)), (
                here["step"],
                key,
            )
    assert lines(folder / "batches.jsonl") == lines(other / "batches.jsonl")


def fast_and_slow(*names: Any, fast: Any) -> list[Any]:
    return [pytest.param(*name, marks=[] if name == fast else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", fast_and_slow(("ZeRO-1",), ("ZeRO-2",), ("ZeRO-3",), fast=("ZeRO-3",)))
def test_zero_trains_what_one_process_trains(name: str, run: Callable[[str], Path]) -> None:
    assert f"DeepSpeed {name} (launch/deepspeed/{STARTS[name][1]}.json)" in (run(name).parent / "said").read_text()
    assert_the_same_run(run(name), run("one"))
    exported, theirs = (load_file(run(which) / "model/model.safetensors") for which in (name, "one"))
    assert exported.keys() == theirs.keys()
    # A bias of the attention keys adds the same to every score and cancels: its gradient is only rounding.
    for parameter in exported.keys() - {key for key in exported if key.endswith("key.bias")}:
        torch.testing.assert_close(exported[parameter], theirs[parameter], rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["zero2-offload", "zero3-offload"])
def test_offloading_changes_nothing(file: str, tiny: list[str], run: Callable[[str], Path], tmp_path: Path) -> None:
    done = train(2, *tiny, f"engine.deepspeed=launch/deepspeed/{file}.json", f"run.folder={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "on the CPU" in done.stdout
    assert_the_same_run(tmp_path / "run", run("one"))


def back_to(step: int, run: Path, folder: Path) -> Path:
    """Copy a run as it was after a step."""
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "model")
    (folder / "outcome.json").unlink()
    (folder / "checkpoints/latest").write_text(f"{step:09d}", encoding="utf-8")
    return folder


CHANGES = [("ZeRO-3", "one"), ("ZeRO-2", "ZeRO-3"), ("one", "ZeRO-1"), ("ZeRO-3", "ZeRO-3 on four"), ("DDP", "ZeRO-2")]


@pytest.mark.parametrize(("before", "after"), fast_and_slow(*CHANGES, fast=("ZeRO-3", "one")))
def test_a_run_resumes_at_another_stage_and_number_of_processes(
    before: str, after: str, tiny: list[str], run: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = back_to(2, run(before), tmp_path / "again")
    assert "resuming after step 2" in start(after, *tiny, f"run.folder={folder}")
    assert_the_same_run(folder, run("one"))


@pytest.mark.parametrize("name", fast_and_slow(("ZeRO-1",), ("ZeRO-2",), ("ZeRO-3",), fast=("ZeRO-3",)))
def test_at_the_same_stage_a_run_resumes_exactly(
    name: str, tiny: list[str], run: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = back_to(2, run(name), tmp_path / "again")
    start(name, *tiny, f"run.folder={folder}")
    for key in ("loss", "grad_norm", "temperature"):
        mine, theirs = ([step[key] for step in lines(path / "metrics.jsonl")] for path in (folder, run(name)))
        assert mine == theirs


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_demo_with_256_pairs_is_alike_under_zero_3(tmp_path: Path) -> None:
    from hbdist.data.build.build import build

    build(ROOT / "shards/recipes/demo.toml")
    demo = ["launch/train/demo.toml", "batch.size=256", "steps=3", "loss.chunk_tokens=1024"]
    for processes, launch in ((2, "zero3"), (1, "")):
        done = train(processes, *demo, f"run.folder={tmp_path / str(processes)}", launch=launch, timeout=1400)
        assert done.returncode == 0, done.stderr
    for mine, theirs in itertools.zip_longest(lines(tmp_path / "2/metrics.jsonl"), lines(tmp_path / "1/metrics.jsonl")):
        for key in ("step", "loss", "grad_norm", "masked", "accuracy"):
            assert mine[key] == pytest.approx(theirs[key], rel=1e-5), (mine["step"], key)
