"""The model of a study's cost, held against what real training counts and what `plan --fit` predicts."""

from pathlib import Path

import pytest
from launching import lines, train
from small_studies import write_base, write_study

from hbdist.config import Config
from hbdist.errors import ConfigError
from hbdist.studies.cost import Cost, plan_text
from hbdist.studies.schema import Assumptions
from hbdist.studies.study import Study
from hbdist.zero import Zero

NOTHING = Assumptions()


def config(folder: Path, *overrides: str) -> Config:
    return Config.load(write_base(folder), [f"run.folder={folder / 'run'}", *overrides])


def cost(config: Config, gpus: int, stage: int | None = None, assumed: Assumptions = NOTHING) -> Cost:
    zero = None if stage is None else Zero.load(Path(__file__).parents[2] / f"launch/deepspeed/zero{stage}.json")
    return Cost(config, gpus, 1000, 32, assumed, zero)


def test_bytes_for_the_loss_are_those_that_two_ranks_count(tiny_model: Path, tiny_shards: Path, tmp_path: Path) -> None:
    base = write_base(tmp_path, steps=2, shards=tiny_shards, model=tiny_model)
    uneven = ["batch.size=5", "batch.mono_share=1", "data.datasets=['made']"]
    loss = ["loss.symmetric=true", "loss.hard_negatives=2"]
    done = train(2, str(base), f"run.folder={tmp_path / 'run'}", *uneven, *loss)
    assert done.returncode == 0, done.stderr
    settings = Config.load(tmp_path / "run" / "config.toml")
    measured = lines(tmp_path / "run" / "metrics.jsonl")
    predicted = cost(settings, 2)
    assert {line["exchanged_bytes"] for line in measured} == {predicted.loss_bytes}
    assert {line["pairs"] for line in measured} == {settings.batch.size}
    assert len(measured) == settings.steps
    per_pair = max(line["tokens"] / line["pairs"] for line in measured)
    assert 0 < per_pair <= predicted.tokens_a_pair


def test_one_gpu_receives_nothing(tmp_path: Path) -> None:
    alone = cost(config(tmp_path), 1)
    assert (alone.loss_bytes, alone.gradient_bytes, alone.wire_bytes) == (0, 0, 0)


@pytest.mark.slow
def test_memory_is_what_plan_fit_predicts(tiny_model: Path, tiny_shards: Path, tmp_path: Path) -> None:
    from hbdist.fit import Fit
    from hbdist.shards.manifest import Manifest

    base = write_base(tmp_path, shards=tiny_shards, model=tiny_model)
    settings = Config.load(base, ["batch.size=24", f"run.folder={tmp_path / 'run'}"])
    for ranks in (1, 2):
        fit = Fit.measure(settings, Manifest.load(tiny_shards), ranks=ranks, memory=10**11)
        there = fit.peak(24, settings.loss.chunk_tokens).parts
        measured = fit.rehearsal
        here = Cost(settings, ranks, measured.parameters, measured.dimensions, NOTHING).memory
        assert here
        assert here["states"] == there["parameters"] + there["gradients"] + there["optimizer"]
        assert here["vectors"] == there["vectors and their gradients"]
        assert here["scores"] == there["scores of the loss"]


def test_sharding_states_trades_memory_for_bytes(tmp_path: Path) -> None:
    stages = [cost(config(tmp_path, "batch.size=64"), 8, stage) for stage in (0, 1, 2, 3)]
    states = [one.memory["states"] for one in stages if one.memory]
    # 16 bytes a parameter; the moments and a copy over eight, the gradients too, the parameters too.
    assert states == [16_000, 8_000 + 12 * 125, 4_000 + 16 * 125, 20 * 125]
    once = 4 * 1000 * 7 / 8
    chunks = stages[0].chunks
    assert chunks == 2
    wire = [one.gradient_bytes for one in stages]
    assert wire == [2 * once, 2 * once, 3 * once, (2 + 2 + 2) * once]


def test_the_gradient_cache_encodes_twice_and_keeps_one_chunk(tmp_path: Path) -> None:
    assumed = Assumptions(activation_bytes=10.0)
    cached = cost(config(tmp_path, "batch.size=64", "loss.gradient_cache=always"), 4, 3, assumed)
    whole = cost(config(tmp_path, "batch.size=64", "loss.gradient_cache=never"), 4, 3, assumed)
    assert cached.memory
    assert whole.memory
    assert (cached.memory["activations"], whole.memory["activations"]) == (10 * 512, 10 * 16 * 80)
    once = 4 * 1000 * 3 / 4
    assert cached.chunks == 3
    assert (cached.gradient_bytes, whole.gradient_bytes) == (12 * once, 9 * once)


def test_gpu_hours_are_tokens_over_speed_and_grow_by_what_is_moved(tmp_path: Path) -> None:
    settings = config(tmp_path, "batch.size=64", "steps=100")
    compute = Assumptions(tokens_per_second=1000.0, tokens_per_pair=50.0)
    for gpus in (1, 2, 64):
        found = cost(settings, gpus, assumed=compute).gpu_hours
        assert found is not None
        assert round(found * 3600, 6) == 100 * 64 * 50 / 1000
    slow = cost(settings, 2, assumed=compute.model_copy(update={"gigabytes_per_second": 1e-6}))
    assert slow.wire_bytes
    assert slow.step_seconds == 32 * 50 / 1000 + slow.wire_bytes / 1000
    assert cost(settings, 2).gpu_hours is None


def test_the_plan_says_it_is_a_model_and_what_it_assumes(tiny_model: Path, tmp_path: Path) -> None:
    write_base(tmp_path, model=tiny_model)
    axes = '[grid]\n"batch.size" = [8, 16]\n[plan]\ngpus = [1, 2, 16]\ntokens_per_second = 5000\n'
    top = ('lr_rule = "none"', 'equal = "pairs"', "pairs_seen = 32")
    study = Study.load(write_study(tmp_path, *top, axes=axes, seeds=[1, 2]))
    text = plan_text(study)
    assert "4 runs: 2 points × seeds 1, 2" in text
    assert "A model, not a measurement" in text
    assert "5,000 tokens/s a GPU" in text
    assert "2 runs of 4 steps × 8 pairs = 32 pairs" in text
    assert "2 runs of 2 steps × 16 pairs = 32 pairs" in text
    assert text.count("  fewer pairs than GPUs\n") == 1
    assert "all runs on 16 GPUs each" in text
    assert "without 2 runs of fewer pairs than GPUs" in text
    assert "7,000 tokens/s" in plan_text(study, [4], 7000.0)
    with pytest.raises(ConfigError, match="at least one"):
        plan_text(study, [0])


def test_a_model_that_nobody_knows_is_named(tmp_path: Path) -> None:
    text = plan_text(Study.load(write_study(tmp_path)), [8])
    assert "? not known: parameters or dimensions of none. Write them into [plan]" in text
