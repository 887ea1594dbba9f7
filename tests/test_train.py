"""Full runs: the same numbers on any number of processes, and after any interruption."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from launching import ROOT, TIMEOUT, command, environment, lines, outcome, train
from ranks import on_ranks
from whole_runs import main_here, newest_checkpoint, pid_of_rank, steps_done, wait_for_steps

from hbdist.data.build.build import build
from hbdist.launch.entry import main

TINY = ["optimizer.lr=1e-3", "batch.size=16", "steps=12", "checkpoint.every=3", "run.log_batches=true"]


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tiny_shards: Path) -> list[str]:
    """Return overrides that turn the demo into a run of seconds, on real text and without dropout."""
    sources = [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]"]
    return ["launch/train/demo.toml", "model.dropout=0", *sources, *TINY]


@pytest.fixture(scope="module")
def undisturbed(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train an uninterrupted run of one process."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    done = train(1, *tiny, f"run.folder={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def numbers(folder: Path, *keys: str) -> list[list[float]]:
    return [[step[key] for key in keys] for step in lines(folder / "metrics.jsonl")]


def assert_the_same_run(folder: Path, other: Path, *, rel: float = 5e-5) -> None:
    # Another number of ranks sums in another order, and AdamW divides small gradients by themselves.
    for mine, theirs in zip(
        numbers(folder, "step", "loss", "grad_norm", "lr", "masked", "accuracy"),
        numbers(other, "step", "loss", "grad_norm", "lr", "masked", "accuracy"),
        strict=True,
    ):
        assert mine == pytest.approx(theirs, rel=rel)
    assert lines(folder / "batches.jsonl") == lines(other / "batches.jsonl")


@pytest.fixture(scope="module")
def demo_shards() -> Path:
    return build(ROOT / "shards/recipes/demo.toml").root


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_steps_of_the_demo_are_alike_on_one_two_and_three_processes(demo_shards: Path, tmp_path: Path) -> None:
    size = ["batch.size=16", "model.dropout=0", "steps=10", f"data.shards={demo_shards}"]
    ways = [(1, 8192, "never"), (2, 400, "always"), (3, 1024, "auto")]  # 16 pairs on 3 ranks: 6, 5 and 5
    for processes, chunk_tokens, cache in ways:
        chunks = [f"loss.chunk_tokens={chunk_tokens}", f"loss.gradient_cache={cache}"]
        folder = tmp_path / str(processes)
        done = train(processes, "launch/train/demo.toml", *size, *chunks, f"run.folder={folder}")
        assert done.returncode == 0, done.stderr
    for (one, *_), (other, *_) in itertools.pairwise(ways):
        for mine, theirs in zip(
            numbers(tmp_path / str(one), "loss", "grad_norm"),
            numbers(tmp_path / str(other), "loss", "grad_norm"),
            strict=True,
        ):
            assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("again_on", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_that_lost_a_rank_resumes_with_the_same_batches_and_losses(
    again_on: int, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    started = subprocess.Popen(
        command(2, *tiny, f"run.folder={folder}"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_steps(folder, 5)
        os.kill(pid_of_rank(folder, 1), signal.SIGKILL)
        assert started.wait(timeout=TIMEOUT) != 0
    finally:
        if started.poll() is None:
            started.terminate()
    assert not (folder / "model").exists()

    done = train(again_on, *tiny, f"run.folder={folder}")
    assert done.returncode == 0, done.stderr
    assert "resuming after step" in done.stdout
    assert_the_same_run(folder, undisturbed)
    assert outcome(folder)["state"] == "done"


def test_an_interrupted_run_saves_reports_and_resumes(tiny: list[str], undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = [*tiny, "checkpoint.every=100", "data.workers=1", f"run.folder={folder}"]
    started = subprocess.Popen(
        command(1, *arguments),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_steps(folder, 2)
    os.killpg(started.pid, signal.SIGTERM)  # a scheduler's signal reaches the data workers too
    assert started.wait(timeout=TIMEOUT) == 75
    assert outcome(folder)["state"] == "interrupted"
    assert newest_checkpoint(folder) == steps_done(folder)

    assert train(1, *arguments).returncode == 0
    assert_the_same_run(folder, undisturbed, rel=1e-7)


def train_until_rank_1_is_told_to_stop(arguments: list[str], folder: Path) -> tuple[int, int]:
    """Return this rank's exit status, and the number of steps in the log when it returned."""

    def stop_this_rank() -> None:
        wait_for_steps(folder, 2)
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ["RANK"] == "1":
        threading.Thread(target=stop_this_rank, daemon=True).start()
    return main([*arguments, f"run.folder={folder}"]), steps_done(folder)


def test_a_signal_to_one_rank_stops_all_ranks_after_the_same_step(tiny: list[str], tmp_path: Path) -> None:
    folder, many = tmp_path / "run", ["steps=100000", "checkpoint.every=100000", "batch.size=4"]
    found = on_ranks(2, train_until_rank_1_is_told_to_stop, [*tiny, *many], folder)
    assert found == [(75, steps_done(folder))] * 2
    assert outcome(folder)["state"] == "interrupted"
    assert newest_checkpoint(folder) == steps_done(folder)


def test_a_finished_run_is_not_trained_again(tiny: list[str], undisturbed: Path) -> None:
    before = (undisturbed / "metrics.jsonl").stat().st_mtime_ns
    done = main_here(*tiny, f"run.folder={undisturbed}")
    assert done.returncode == 0
    assert "is done already" in done.stdout
    assert (undisturbed / "metrics.jsonl").stat().st_mtime_ns == before


def test_a_run_folder_contains_everything_in_the_contract(undisturbed: Path) -> None:
    names = {path.name for path in undisturbed.iterdir()}
    assert names >= {"config.toml", "environment.json", "plan.txt", "metrics.jsonl", "batches.jsonl", "checkpoints"}
    keys = "step loss loss_above_chance accuracy grad_norm lr pairs tokens padding masked mono_share groups seconds"
    for number, step in enumerate(lines(undisturbed / "metrics.jsonl"), start=1):
        assert step["step"] == number
        assert set(keys.split()) | {"data_seconds", "peak_bytes"} <= set(step)
        assert sum(step["groups"].values()) == step["pairs"] == 16


def test_training_lowers_the_loss(undisturbed: Path) -> None:
    losses = [step["loss_above_chance"] for step in lines(undisturbed / "metrics.jsonl")]
    assert sum(losses[-4:]) < sum(losses[:4])


def test_the_config_in_the_folder_trains_the_same_run_again(tiny: list[str], undisturbed: Path, tmp_path: Path) -> None:
    done = main_here(str(undisturbed / "config.toml"), f"run.folder={tmp_path / 'again'}")
    assert done.returncode == 0, done.stderr
    assert_the_same_run(tmp_path / "again", undisturbed, rel=1e-7)


def test_dropout_follows_from_seed_and_step(tiny: list[str], tmp_path: Path) -> None:
    folder, arguments = tmp_path / "run", [*tiny, "model.dropout=0.1", "steps=4"]
    assert main_here(*arguments, f"run.folder={folder}").returncode == 0
    assert main_here(*arguments, "checkpoint.every=2", f"run.folder={tmp_path / 'other'}").returncode == 0
    # As after a kill: the newest checkpoint is of step 2.
    (tmp_path / "other/checkpoints/latest").write_text("000000002")
    (tmp_path / "other/outcome.json").unlink()
    assert main_here(*arguments, "checkpoint.every=2", f"run.folder={tmp_path / 'other'}").returncode == 0
    assert numbers(tmp_path / "other", "loss") == numbers(folder, "loss")


def two_machines(by: str, *arguments: str) -> list[list[str]]:
    """Return the commands for two machines with one process each; both run on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = [str(ROOT / "hbdist/train.py"), *arguments]
    if by == "torchrun":
        there = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port]
        start = [sys.executable, "-m", "torch.distributed.run", *there]
        return [[*start, "--node-rank", str(number), *script] for number in range(2)]
    there = ["--num_processes", "2", "--main_process_ip", "127.0.0.1", "--main_process_port", port]
    config = ["--config_file", str(ROOT / "launch/accelerate/multinode.yaml")]
    start = [sys.executable, "-m", "accelerate.commands.launch", *config, *there]
    return [[*start, "--machine_rank", str(number), *script] for number in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["accelerate", "torchrun"])
def test_two_machines_train_what_one_process_trains(
    by: str, tiny: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    started = [
        subprocess.Popen(one, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for one in two_machines(by, *tiny, f"run.folder={tmp_path / 'run'}")
    ]
    try:
        assert [machine.wait(timeout=TIMEOUT) for machine in started] == [0, 0]
    finally:
        for machine in started:
            machine.kill()
    assert_the_same_run(tmp_path / "run", undisturbed)
