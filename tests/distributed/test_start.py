"""A start: ranks with other settings, or of another start, cannot take part. Real ranks, without a launcher."""

import socket
import time
from pathlib import Path

import pytest
from jobs import overrides
from launching import lines, outcome
from started_ranks import StartedRanks
from whole_runs import steps_done, wait_for_steps

HOST = socket.gethostname()


@pytest.fixture
def keys(tiny_model: Path, tiny_shards: Path, tmp_path: Path) -> list[str]:
    tiny = overrides(tiny_model, tiny_shards)
    return ["launch/train/demo.toml", *tiny, "steps=2", f"run.folder={tmp_path / 'run'}"]


@pytest.mark.parametrize(
    ("other", "values"),
    [
        ("optimizer.lr=0.003", ["optimizer.lr = 0.003 (rank 0: 0.0001)"]),
        pytest.param("seed=7", ["seed = 7 (rank 0: 1)"], marks=pytest.mark.slow),
        pytest.param("steps=3", ["steps = 3 (rank 0: 2)"], marks=pytest.mark.slow),
    ],
)
def test_a_rank_with_another_config_is_refused_by_all(
    other: str, values: list[str], keys: list[str], tmp_path: Path
) -> None:
    with StartedRanks(tmp_path) as ranks:
        ranks.start(0, *keys)
        second = ranks.start(1, *keys, other)
        (status, said), (other_status, other_said) = ranks.end(0), ranks.end(1)
    assert (status, other_status) == (2, 2)
    for value in (*values, f"rank 1 ({HOST}, process {second.pid})", "start them with the same config"):
        assert value in said
    assert said.count("hbdist: ") == 1
    assert "Traceback" not in said + other_said
    assert "hbdist" not in other_said, "rank 0 reports for all"
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_folders_may_differ_between_ranks_if_their_content_does_not(
    keys: list[str], tiny_shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "shards").symlink_to(tiny_shards)
    with StartedRanks(tmp_path) as ranks:
        ranks.start(0, *keys)
        ranks.start(1, *keys, f"data.shards={tmp_path / 'shards'}", "data.cache_gb=3")
        assert [ranks.end(0)[0], ranks.end(1)[0]] == [0, 0], ranks.said(0)
    assert outcome(tmp_path / "run")["state"] == "done"


@pytest.mark.slow
def test_a_rank_that_an_earlier_start_has_left_behind_cannot_join(keys: list[str], tmp_path: Path) -> None:
    """It waits at the same port, with another config; its rank 0 was killed before they met."""
    with StartedRanks(tmp_path) as ranks:
        orphan = ranks.start(1, *keys, "optimizer.lr=0.1", "seed=7")
        time.sleep(5)
        ranks.start(0, *keys)
        ranks.start(1, *keys)
        statuses = [ranks.end(number)[0] for number in range(3)]
        said = "".join(ranks.said(number) for number in range(3))
    assert statuses in ([2, 2, 2], [2, 0, 0]), said
    if statuses[1] == 0:  # the new rank 1 came first
        assert f"process {orphan.pid}) cannot join: another process is rank 1 already" in said
        assert len(lines(tmp_path / "run" / "metrics.jsonl")) == 2
    else:
        assert f"rank 1 ({HOST}, process {orphan.pid})" in said
        assert "optimizer.lr = 0.1 (rank 0: 0.0001)" in said
        assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.slow
def test_a_second_process_of_the_same_rank_is_refused_and_disturbs_nothing(keys: list[str], tmp_path: Path) -> None:
    keys = [*keys, "steps=100000"]
    with StartedRanks(tmp_path) as ranks:
        ranks.start(0, *keys)
        first = ranks.start(1, *keys)
        wait_for_steps(tmp_path / "run", 1)
        ranks.start(1, *keys)
        status, said = ranks.end(2)
        wait_for_steps(tmp_path / "run", steps_done(tmp_path / "run") + 2)
    assert status == 2
    assert f"cannot join: another process is rank 1 already: rank 1 ({HOST}, process {first.pid})" in said


def test_a_rank_that_never_comes_is_named_in_time(keys: list[str], tmp_path: Path) -> None:
    with StartedRanks(tmp_path, world=3) as ranks:
        ranks.start(0, *keys, "engine.timeout_s=6")
        ranks.start(1, *keys, "engine.timeout_s=6")
        (status, said), (other_status, _) = ranks.end(0, timeout=90), ranks.end(1, timeout=30)
    assert (status, other_status) == (1, 1)
    assert "rank 2 of 3 has not come within 6 s (engine.timeout_s)" in said
    assert "Traceback" not in said


def test_a_rank_without_a_rank_0_ends_in_time(keys: list[str], tmp_path: Path) -> None:
    with StartedRanks(tmp_path) as ranks:
        ranks.start(1, *keys, "engine.timeout_s=3")
        status, said = ranks.end(0, timeout=90)
    assert status == 1
    assert "has found no rank 0 within 3 s (engine.timeout_s) at 127.0.0.1:" in said
    assert "Traceback" not in said
