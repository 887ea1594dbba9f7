"""Validation in real runs: the same loss on any number of ranks, export of the best model, early stopping."""

import contextlib
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from launching import lines, outcome, train
from safetensors.torch import load_file
from whole_runs import main_here

from hbdist.config.config import Config
from hbdist.data.batching.held_out import held_out_shards, set_name, validation_config
from hbdist.data.batching.mixture import plan_mixture
from hbdist.data.batching.schedule import Schedule
from hbdist.data.shards.manifest import Manifest
from hbdist.errors import ConfigError
from hbdist.runs.plan import Plan


def config(data: Path, **validation: object) -> Config:
    values = {
        "steps": 2,
        "data": {"shards": str(data), "languages": ["en"], "datasets": ["made"]},
        "model": {"name": "m"},
        "batch": {"size": 8},
        "validation": {"every": 1, **validation},
    }
    return Config.check(values, source="test")


def test_shards_without_held_out_pairs_are_refused(tiny_shards: Path) -> None:
    with pytest.raises(ConfigError, match=r"validation\.every = 1.*holds nothing out.*validation\.shards"):
        held_out_shards(config(tiny_shards))
    assert held_out_shards(config(tiny_shards, shards=["elsewhere"])) == ("elsewhere",)


def test_a_set_is_named_after_the_shards_it_was_held_out_of() -> None:
    assert [set_name(location) for location in ("a/b", "a/b/", "shards/mix/validation", "s3://a/mix/validation")] == [
        "b",
        "b",
        "mix",
        "mix",
    ]


def test_a_set_without_cross_lingual_pairs_is_validated_on_monolingual_pairs(tiny_shards: Path) -> None:
    manifest = Manifest.load(tiny_shards)
    alone = Manifest(tiny_shards, tuple(group for group in manifest.groups if group.monolingual))
    asked = config(tiny_shards)
    everything = asked.model_copy(update={"data": asked.data.model_copy(update={"languages": (), "datasets": ()})})
    assert validation_config(everything, manifest, filtered=True).batch.mono_share == everything.batch.mono_share
    assert validation_config(everything, alone, filtered=True).batch.mono_share == 1
    # Of the languages and data sets of this training, there are only monolingual groups.
    assert validation_config(asked, manifest, filtered=True).batch.mono_share == 1


def test_languages_that_a_set_lacks_are_left_out_and_a_set_without_any_is_refused(tiny_shards: Path) -> None:
    manifest = Manifest.load(tiny_shards)
    asked = config(tiny_shards)
    more = asked.model_copy(update={"data": asked.data.model_copy(update={"languages": ("sw", "en")})})
    assert validation_config(more, manifest, filtered=True).data.languages == ("en",)
    other = asked.model_copy(update={"data": asked.data.model_copy(update={"languages": ("sw",)})})
    with pytest.raises(ConfigError, match=r"holds out nothing of data\.languages .* Name other shards in validation\."):
        validation_config(other, manifest, filtered=True)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ({"size": 1000, "mono_block": 100}, [("mono", 256, 64), ("cross", 256, 1)]),
        ({"size": 1000, "mix": "blocks", "mono_share": 0.3}, [("mono", 77, 77), ("cross", 179, 1)]),
        ({"size": 1000, "mix": "blocks", "mono_share": 0.001, "cross_block": 9}, [("mono", 1, 1), ("cross", 255, 5)]),
        ({"size": 4, "mix": "blocks", "mono_share": 1.0}, [("mono", 256, 256)]),
    ],
)
def test_a_validation_batch_follows_the_mixture_of_the_training_as_far_as_it_goes(
    batch: dict[str, object], expected: list[tuple[str, int, int]], tiny_shards: Path
) -> None:
    manifest, asked = Manifest.load(tiny_shards), config(tiny_shards, shards=["elsewhere"])
    asked = asked.model_copy(update={"batch": asked.batch.model_validate(batch)})
    made = Schedule.of(validation_config(asked, manifest, filtered=False), manifest)
    assert [(kind.name, kind.part, kind.block) for kind in made.mixture.kinds] == expected
    assert made.batch(0).group.size == 256


@given(data=st.data())
def test_what_trains_validates(data: st.DataObject, tiny_shards: Path) -> None:
    manifest = Manifest.load(tiny_shards)
    batch = {
        "size": data.draw(st.integers(2, 400)),
        "mono_share": data.draw(st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0.01, 0.99))),
        "mix": data.draw(st.sampled_from(["step", "blocks"])),
        "mono_block": data.draw(st.one_of(st.just("batch"), st.integers(1, 50))),
        "cross_block": data.draw(st.one_of(st.just("batch"), st.integers(1, 50))),
        "small_pool": "repeat",
    }
    asked = config(tiny_shards, shards=["elsewhere"], batch_size=data.draw(st.integers(2, 300)))
    asked = asked.model_copy(update={"batch": asked.batch.model_validate(batch)})
    with contextlib.suppress(ConfigError):
        plan_mixture(manifest.groups, asked.batch, asked.data)
        made = Schedule.of(validation_config(asked, manifest, filtered=False), manifest)
        assert made.batch(3).group.size == asked.validation.batch_size
        return
    # Refused as training: every other refusal is a mistake.
    with pytest.raises(ConfigError):
        plan_mixture(manifest.groups, asked.batch, asked.data)


def test_a_validation_that_cannot_be_made_is_refused_before_the_model_is_looked_for(
    tiny_shards: Path, tmp_path: Path
) -> None:
    folder = f"run.folder={tmp_path / 'run'}"
    data = ("launch/train/demo.toml", f"data.shards={tiny_shards}", "data.languages=[]", "model.name=no/such/model")
    assert main_here(*data, folder, "validation.every=1").returncode == 2
    assert "holds nothing out" in outcome(tmp_path / "run")["message"]
    too_small = [*data, folder, "validation.every=1", f"validation.shards=['{tiny_shards}']"]
    manifest = Manifest.load(tiny_shards)
    asked = Config.load("launch/train/demo.toml", [*too_small[1:], "validation.batch_size=2"])
    with pytest.raises(ConfigError, match=r"validation\.batch_size = 2 is less than the 3 processes"):
        Plan.of(asked, manifest, ranks=3)
    assert "8 batches of 256 pairs" in Plan.of(Config.load("launch/train/demo.toml", too_small[1:]), manifest).text()


def test_other_sets_are_not_filtered_by_the_languages_of_the_training(tiny_shards: Path) -> None:
    manifest = Manifest.load(tiny_shards)
    assert validation_config(config(tiny_shards), manifest, filtered=True).data.languages == ("en",)
    other = validation_config(config(tiny_shards), manifest, filtered=False)
    assert (other.data.languages, other.data.datasets) == ((), ())


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tiny_shards: Path) -> list[str]:
    sources = [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]"]
    settings = ["validation.every=1", "validation.batch_size=30", "validation.batches=3", "checkpoint.keep=1"]
    held_out = [f"validation.shards=['{tiny_shards}']"]
    return ["launch/train/demo.toml", "model.dropout=0.1", "batch.size=16", *sources, *settings, *held_out]


@pytest.fixture(scope="module")
def alone(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run whose learning rate soon makes it worse, until early stopping ends it."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = main_here(*tiny, *WORSE, f"run.folder={folder}")
    assert done.returncode == 0, done.stderr
    return folder


WORSE = [
    *("optimizer.lr=0.03", "optimizer.warmup_steps=0", "steps=30"),
    *("validation.patience=2", "validation.keep=best"),
]


def test_a_run_stops_when_the_loss_no_longer_falls_and_exports_the_best(alone: Path) -> None:
    losses = [next(iter(line["loss"].values())) for line in lines(alone / "validation.jsonl")]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 30
    said = f"trained {len(losses)} steps; the model of step {best + 1}, chosen for the lowest validation loss, is in"
    assert said in outcome(alone)["message"]
    assert f"{best + 1} of 30 steps" in (alone / "model/README.md").read_text()
    assert "chosen for the lowest validation loss" in (alone / "model/README.md").read_text()
    assert (alone / "checkpoints/best").read_text() == f"{best + 1:09d}"
    saved = torch.load(alone / "checkpoints" / f"{best + 1:09d}" / "state.pt")["model"]
    exported = load_file(alone / "model/model.safetensors")
    for name, value in exported.items():
        torch.testing.assert_close(saved[f"encoder.backbone.{name}"], value, rtol=0, atol=0)


def test_a_stopped_run_that_starts_again_trains_no_further(alone: Path, tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    shutil.rmtree(folder / "model")  # killed after its last checkpoint, before it was exported
    (folder / "outcome.json").unlink()
    done = main_here(*tiny, *WORSE, f"run.folder={folder}")
    assert done.returncode == 0, done.stderr
    assert (folder / "validation.jsonl").read_text() == (alone / "validation.jsonl").read_text()
    assert (folder / "model/model.safetensors").read_bytes() == (alone / "model/model.safetensors").read_bytes()


def test_a_run_that_goes_back_forgets_a_best_step_that_came_later(alone: Path, tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(alone, folder)
    shutil.rmtree(folder / "model")
    (folder / "outcome.json").unlink()
    best = (folder / "checkpoints/best").read_text()
    shutil.copytree(folder / "checkpoints" / best, folder / f"checkpoints/{int(best) + 50:09d}")
    (folder / "checkpoints/best").write_text(f"{int(best) + 50:09d}")  # as if a later step had been the best
    (folder / "checkpoints/latest").write_text(best)
    done = main_here(*tiny, *WORSE, f"run.folder={folder}")
    assert done.returncode == 0, done.stderr
    assert f"resuming after step {int(best)}" in done.stdout
    assert (folder / "checkpoints/best").read_text() == best
    assert (folder / "validation.jsonl").read_text() == (alone / "validation.jsonl").read_text()
    assert (folder / "model/model.safetensors").read_bytes() == (alone / "model/model.safetensors").read_bytes()


def test_a_batch_too_small_for_the_ranks_is_refused_before_the_first_step(tiny: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = train(3, *tiny, "steps=2", "validation.batch_size=2", f"run.folder={folder}")
    assert done.returncode != 0
    assert "validation.batch_size = 2 is less than the 3 processes" in outcome(folder)["message"]
    assert outcome(folder)["state"] == "invalid"
    assert not (folder / "metrics.jsonl").exists()


def test_validation_and_evaluation_do_not_change_the_training(tiny: list[str], tmp_path: Path) -> None:
    task = ["evaluation.languages=['en']", "evaluation.questions=3"]
    for every in (0, 1):
        looked = [f"validation.every={every}", f"evaluation.every={every}", f"run.folder={tmp_path / str(every)}"]
        done = main_here(*tiny, "steps=2", "optimizer.lr=1e-3", *task, *looked)
        assert done.returncode == 0, done.stderr
    assert len(lines(tmp_path / "1/evaluation.jsonl")) == len(lines(tmp_path / "1/validation.jsonl")) == 2
    without, with_both = (lines(tmp_path / str(every) / "metrics.jsonl") for every in (0, 1))
    for key in ("loss", "grad_norm", "exchanged_bytes"):
        assert [step[key] for step in without] == [step[key] for step in with_both]


@pytest.mark.parametrize("launch", ["two", pytest.param("zero3", marks=pytest.mark.slow)])
def test_the_validation_loss_is_the_same_on_two_processes(launch: str, tiny: list[str], tmp_path: Path) -> None:
    few = ["steps=2", "optimizer.lr=1e-4", "model.dropout=0", "loss.chunk_tokens=200"]
    for processes in (1, 2):
        done = train(processes, *tiny, *few, f"run.folder={tmp_path / str(processes)}", launch=launch)
        assert done.returncode == 0, done.stderr
    one, two = (lines(tmp_path / str(processes) / "validation.jsonl") for processes in (1, 2))
    assert [line["step"] for line in two] == [1, 2]
    for mine, theirs in zip(two, one, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
