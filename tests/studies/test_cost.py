"""Cost model of a study, compared with what real training counts and what `plan --fit` predicts."""

import subprocess
import sys
from pathlib import Path

import pytest
from launching import ROOT, lines, train
from small_studies import write_base, write_study

from hbdist.cli import main
from hbdist.config.config import Config
from hbdist.distributed.zero import Zero
from hbdist.studies.api import Study
from hbdist.studies.cost import Cost, plan_text
from hbdist.studies.schema import Assumptions

NOTHING = Assumptions()


def config(folder: Path, *overrides: str) -> Config:
    return Config.load(write_base(folder), [f"run.folder={folder / 'run'}", *overrides])


def cost(config: Config, gpus: int, stage: int | None = None, assumed: Assumptions = NOTHING) -> Cost:
    zero = None if stage is None else Zero.load(ROOT / f"launch/deepspeed/zero{stage}.json")
    return Cost(config, gpus, 1000, 32, assumed, zero)


@pytest.mark.slow
def test_loss_bytes_are_those_in_the_metrics_of_two_ranks(tiny_model: Path, tiny_shards: Path, tmp_path: Path) -> None:
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
    assert 0 < per_pair <= predicted.tokens_per_pair


def test_one_gpu_receives_nothing(tmp_path: Path) -> None:
    alone = cost(config(tmp_path), 1)
    assert (alone.loss_bytes, alone.gradient_bytes, alone.wire_bytes) == (0, 0, 0)


@pytest.mark.slow
def test_memory_is_what_plan_fit_predicts(tiny_model: Path, tiny_shards: Path, tmp_path: Path) -> None:
    from hbdist.data.shards.manifest import Manifest
    from hbdist.memory.estimate import MemoryEstimate

    base = write_base(tmp_path, shards=tiny_shards, model=tiny_model)
    settings = Config.load(base, ["batch.size=24", f"run.folder={tmp_path / 'run'}"])
    for ranks in (1, 2):
        estimate = MemoryEstimate.measure(settings, Manifest.load(tiny_shards), ranks=ranks, memory=10**11)
        predicted = estimate.peak(24, settings.loss.chunk_tokens).parts
        measured = estimate.trial
        planned = Cost(settings, ranks, measured.parameters, measured.dimensions, NOTHING).memory
        assert planned
        assert {name: predicted[name] for name in planned if name != "activations"} == {
            name: size for name, size in planned.items() if name != "activations"
        }


def test_sharding_trades_memory_for_traffic(tmp_path: Path) -> None:
    stages = [cost(config(tmp_path, "batch.size=64"), 8, stage) for stage in (0, 1, 2, 3)]
    states = [
        sum(one.memory[name] for name in ("parameters", "gradients", "optimizer")) for one in stages if one.memory
    ]
    # 16 bytes per parameter; then moments and a copy are shared by eight ranks, then gradients, then parameters too.
    assert states == [16_000, 8_000 + 12 * 125, 4_000 + 16 * 125, 20 * 125]
    once = 4 * 1000 * 7 / 8
    assert stages[0].chunks == 3
    assert not stages[0].two_passes
    wire = [one.gradient_bytes for one in stages]
    assert wire == [2 * once, 3 * once, 3 * once, (3 + 1 + 1) * once]


def test_the_gradient_cache_encodes_twice_and_keeps_one_chunk_in_memory(tmp_path: Path) -> None:
    assumed = Assumptions(activation_bytes=10.0)
    settings = [config(tmp_path, "batch.size=64", f"loss.gradient_cache={cache}") for cache in ("always", "never")]
    cached, whole = (cost(one, 4, 3, assumed) for one in settings)
    assert cached.memory
    assert whole.memory
    assert (cached.memory["activations"], whole.memory["activations"]) == (10 * 512, 10 * 16 * 80)
    once = 4 * 1000 * 3 / 4
    assert cached.chunks == 4
    assert (cached.gradient_bytes, whole.gradient_bytes) == ((8 + 4 + 4) * once, (4 + 1 + 1) * once)
    # Stage 2 reduces gradients in each backward pass, stage 1 once per step.
    by_stage = [[cost(one, 4, stage).gradient_bytes for one in settings] for stage in (1, 2)]
    assert by_stage == [[3 * once, 3 * once], [(2 * 4 + 1) * once, 3 * once]]


def test_gpu_hours_are_tokens_over_speed_plus_transfer_time(tmp_path: Path) -> None:
    settings = config(tmp_path, "batch.size=64", "steps=100")
    compute = Assumptions(tokens_per_second=1000.0, tokens_per_pair=50.0)
    for gpus in (1, 2, 64):
        hours = cost(settings, gpus, assumed=compute).gpu_hours
        assert hours is not None
        assert round(hours * 3600, 6) == 100 * 64 * 50 / 1000
    slow = cost(settings, 2, assumed=compute.model_copy(update={"gigabytes_per_second": 1e-6}))
    assert slow.wire_bytes
    assert slow.step_seconds == 32 * 50 / 1000 + slow.wire_bytes / 1000
    assert cost(settings, 2).gpu_hours is None


def test_the_plan_says_that_it_is_a_model_and_what_it_assumes(tiny_model: Path, tmp_path: Path) -> None:
    write_base(tmp_path, model=tiny_model)
    axes = '[grid]\n"batch.size" = [8, 16]\n[plan]\ngpus = [1, 2, 16]\ntokens_per_second = 5000\n'
    top = ('lr_rule = "none"', 'equal = "pairs"', "pairs_seen = 32")
    study = Study.load(write_study(tmp_path, *top, axes=axes, seeds=[1, 2]))
    text = plan_text(study)
    assert "4 runs: 2 points × seeds 1, 2" in text
    assert "A model, not a measurement" in text
    assert "5,000 tokens/s per GPU" in text
    assert "2 runs of 4 steps × 8 pairs = 32 pairs" in text
    assert "2 runs of 2 steps × 16 pairs = 32 pairs" in text
    assert text.count("  fewer pairs than GPUs\n") == 1
    assert "all runs on 16 GPUs each" in text
    assert "without 2 runs of fewer pairs than GPUs" in text
    assert "7,000 tokens/s" in plan_text(study, [4], 7000.0)
    assert "8 GPUs per node" in text


def test_a_model_of_unknown_size_is_named(tmp_path: Path) -> None:
    text = plan_text(Study.load(write_study(tmp_path)), [8])
    assert "? not known: parameters or dimensions of none. Write them into [plan]" in text


def refused(capsys: pytest.CaptureFixture[str], study: str | Path, *arguments: str) -> str:
    assert main(["study", "plan", str(study), *arguments]) == 2
    written = capsys.readouterr()
    assert written.err.startswith("hbdist: ")
    assert "Traceback" not in written.err
    return written.err


@pytest.mark.parametrize("gpus", ["8;64", "8 64", "8,,64", "8,", "eight", "-8", "2.5", "²"])
def test_gpus_that_are_not_numbers_are_refused(gpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, write_study(tmp_path), f"--gpus={gpus}")
    assert f"--gpus {gpus}: " in message
    assert "is not a whole number. Write --gpus 8,64,1024" in message


def test_zero_gpus_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "A run needs at least one" in refused(capsys, write_study(tmp_path), "--gpus", "8,0")
    empty = write_study(tmp_path, axes='[grid]\n"optimizer.lr" = [1.0]\n[plan]\ngpus = []\n')
    assert "0 numbers of GPUs: none" in refused(capsys, empty)


def test_a_missing_study_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in refused(capsys, tmp_path / "none.toml")
    assert "contains no study.toml" in refused(capsys, tmp_path)


def test_a_misspelt_assumption_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = '[grid]\n"batch.mono_share" = [0.0, 1.0]\n[plan]\ntokens_per_sec = 5\n'
    assert "Did you mean tokens_per_second?" in refused(capsys, write_study(tmp_path, axes=axes))


def test_a_missing_deepspeed_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = '[set]\n"engine.deepspeed" = "zero9.json"\n[grid]\n"batch.mono_share" = [0.0, 1.0]\n'
    assert "zero9.json does not exist" in refused(capsys, write_study(tmp_path, axes=axes))


def test_wrong_resources_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = '[grid]\n"batch.mono_share" = [0.0, 1.0]\n[resources]\ngpus_per_node = "eight"\n'
    assert "gpus_per_node = 'eight': input should be a valid integer" in refused(
        capsys, write_study(tmp_path, axes=axes)
    )


def test_sizes_of_a_model_that_no_run_trains_are_pointed_out(tmp_path: Path) -> None:
    axes = '[grid]\n"batch.mono_share" = [0.0, 1.0]\n[plan]\nparameters = { "nobody" = 1000 }\n'
    text = plan_text(Study.load(write_study(tmp_path, axes=axes)), [8])
    assert "[plan] has nobody, which no run trains; they train none." in text


def test_the_plan_of_a_study_loads_no_torch() -> None:
    code = (
        "import sys; from hbdist.cli import main; statuses = [main(['study', 'plan', name]) for name in sys.argv[1:]];"
        " print(statuses, sorted({'torch', 'transformers', 'accelerate', 'deepspeed'} & set(sys.modules)))"
    )
    names = [f"launch/studies/{name}.toml" for name in ("batch-size", "batch-size-small")]
    done = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[0, 0] []"
