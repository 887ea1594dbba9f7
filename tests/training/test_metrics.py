"""Metrics of a step: the keys of metrics.jsonl, their values, and the progress line."""

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hbdist.config.config import Config
from hbdist.loss.infonce import LossParts
from hbdist.runs.progress import is_worth_a_line, progress_line
from hbdist.training.batch import BatchCounts, RankBatch
from hbdist.training.metrics import StepMeter

METRICS = {
    *("temperature", "suspected", "exchanged_bytes", "skipped", "negatives", "candidates", "document_cosine"),
    *("step", "loss", "loss_above_chance", "accuracy", "grad_norm", "lr", "pairs", "tokens", "padding", "masked"),
    *("repeats", "truncated", "mono_share", "groups", "seconds", "data_seconds", "peak_bytes"),
}
"""Keys of metrics.jsonl, a contract with other programs."""
CONFIG = Config.check(
    {"steps": 9, "data": {"shards": "s"}, "model": {"name": "m"}, "batch": {"size": 4}}, source="test"
)


def make_batch(step: int = 6) -> RankBatch:
    none = torch.zeros(0, dtype=torch.int64)
    counts = BatchCounts(
        {"en-en": 3, "en-de": 1}, mono_share=0.75, repeats=1, tokens=80, padded_tokens=100, truncated=2
    )
    return RankBatch(step, [], [], none, none, none, none, counts, None)


def make_parts(loss: float = 6.0, candidates: int = 12, masked: int = 4) -> LossParts:
    graph = torch.tensor(loss, requires_grad=True) * 1
    return LossParts(graph, torch.tensor(3), torch.tensor(candidates), torch.tensor(masked))


def measured(**parts: Any) -> dict[str, Any]:
    meter = StepMeter(CONFIG, torch.device("cpu"))
    return meter.measure(
        make_batch(), make_parts(**parts), lr=1e-5, grad_norm=2.5, temperature=0.05, document_sum_D=torch.zeros(4)
    )


def test_metrics_have_the_keys_of_the_contract() -> None:
    assert set(measured()) == METRICS


def test_metrics_of_a_handmade_case_are_exact() -> None:
    metrics = measured()
    exact = {key: metrics[key] for key in METRICS - {"seconds", "data_seconds", "peak_bytes"}}
    assert exact == {
        "step": 7,  # from 1; it used batch 6
        "loss": 1.5,
        "loss_above_chance": pytest.approx(1.5 - math.log(3)),
        "accuracy": 0.75,
        "candidates": 3.0,
        "document_cosine": pytest.approx(-1 / 3),
        "grad_norm": 2.5,
        "lr": 1e-5,
        "temperature": 0.05,
        "suspected": 0.0,
        "exchanged_bytes": 0,
        "skipped": 0,
        "negatives": 0,
        "pairs": 4,
        "tokens": 80,
        "padding": 0.25,
        "masked": 0.25,
        "repeats": 1,
        "truncated": 2,
        "mono_share": 0.75,
        "groups": {"en-en": 3, "en-de": 1},
    }
    assert metrics["seconds"] > 0
    assert metrics["peak_bytes"] > 10**7  # Python and torch alone take more


@given(candidates=st.integers(4, 4000))
def test_loss_above_chance_is_zero_if_all_candidates_score_alike(candidates: int) -> None:
    chance = 4 * math.log(candidates / 4)
    assert measured(loss=chance, candidates=candidates)["loss_above_chance"] == pytest.approx(0, abs=1e-6)


def test_timed_yields_the_batches_and_measures_only_the_wait_for_them() -> None:
    def slow() -> Iterator[RankBatch]:
        for step in range(3):
            time.sleep(0.05)
            yield make_batch(step)

    meter = StepMeter(CONFIG, torch.device("cpu"))
    seen = []
    for batch in meter.timed(slow()):
        time.sleep(0.1)  # the training
        metrics = meter.measure(
            batch, make_parts(), lr=1e-5, grad_norm=1.0, temperature=0.05, document_sum_D=torch.zeros(4)
        )
        seen.append(batch.step)
        assert 0.05 <= metrics["data_seconds"] < metrics["seconds"] - 0.09
    assert seen == [0, 1, 2]


def test_lines_become_rarer() -> None:
    shown = [step for step in range(1, 2001) if is_worth_a_line(step, 2000)]
    assert shown == [*range(1, 51), *range(60, 501, 10), *range(600, 2001, 100)]


@given(steps=st.integers(1, 10**6))
def test_the_last_step_is_always_shown(steps: int) -> None:
    assert is_worth_a_line(steps, steps)


def line(**changes: Any) -> str:
    return progress_line(measured() | {"seconds": 0.5, "data_seconds": 0.1} | changes, steps=1000, rate=2.0)


def test_the_line_shows_the_measurements() -> None:
    shown = " ".join(line(step=400, peak_bytes=3_210_000_000, loss=2.0, loss_above_chance=-0.5, lr=2e-5).split())
    for part in (
        *("step 400/1000 40%", "mixed", "loss 2.000", "-0.50 to chance", "acc 75%", "|g| 2.50", "lr 2.0e-05"),
        *("8 pairs/s", "160 tok/s", "pad 25%", "3.2 GB", "data 20%", "eta 5m00"),
    ):
        assert part in shown


@given(
    step=st.integers(1, 1000),
    loss=st.floats(0, 99),
    loss_above_chance=st.floats(-9, 9),
    accuracy=st.floats(0, 1),
    grad_norm=st.floats(0, 999),
    lr=st.floats(1e-9, 1),
    pairs=st.integers(1, 40_000),
    tokens=st.integers(1, 4_000_000),
    padding=st.floats(0, 9),
    peak_bytes=st.integers(0, 10**11),
    mono_share=st.sampled_from([0, 0.5, 1]),
)
def test_columns_keep_their_positions(**metrics: Any) -> None:
    labels = ("loss", "to chance", "acc", "|g|", "lr", "pairs/s", "tok/s", "pad", "GB", "data", "eta")
    one, other = line(), line(**metrics)
    assert [other.index(label) for label in labels] == [one.index(label) for label in labels]


@pytest.mark.parametrize(("share", "word"), [(0, "cross"), (0.5, "mixed"), (1, "mono ")])
def test_the_line_names_the_kind_of_batch(share: float, word: str) -> None:
    assert f"  {word}  loss" in line(mono_share=share)
