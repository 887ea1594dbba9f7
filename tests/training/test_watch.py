"""Watch over the numbers of a run: what stops it, what is left out, what is noted; and the replay of a step."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import lines, outcome
from safetensors.torch import load_file, save_file
from whole_runs import main_here

from hbdist.cli import main as command_line
from hbdist.config.config import Config
from hbdist.errors import NotFiniteError
from hbdist.training.activations import ActivationBudget, describe_remedy, is_out_of_memory
from hbdist.training.replay import replay
from hbdist.training.watch import MOST_IN_A_ROW, NumberWatch

PLAIN = {
    "loss": 2.0,
    "loss_above_chance": -0.5,
    "grad_norm": 1.0,
    "pairs": 8,
    "document_cosine": 0.8,
    "candidates": 8.0,
}


def watch(on_nonfinite: str = "stop") -> NumberWatch:
    values = {"steps": 9, "data": {"shards": "-"}, "model": {"name": "-"}, "batch": {"size": 8}}
    return NumberWatch(Config.check(values | {"optimizer": {"on_nonfinite": on_nonfinite}}, source="test"))


def metrics(step: int = 1, **changes: Any) -> dict[str, Any]:
    return PLAIN | {"step": step} | changes


def test_nothing_is_noted_of_plain_steps() -> None:
    one = watch()
    for step in range(1, 200):
        assert one.check(metrics(step)) == metrics(step)


@pytest.mark.parametrize("changes", [{"grad_norm": math.nan}, {"grad_norm": math.inf}, {"loss": math.nan}])
def test_a_number_that_is_not_finite_stops_the_run_and_names_the_step(changes: dict[str, float]) -> None:
    with pytest.raises(NotFiniteError, match=r"step 17: .*hbdist replay .* --step 17"):
        watch().check(metrics(17, **changes))


def test_updates_that_are_not_finite_are_left_out_if_asked_for_but_not_for_ever() -> None:
    one = watch("skip")
    for step in range(1, 41):
        assert one.check(metrics(step, grad_norm=math.nan if step % 2 else 1.0)).get("notes", []) == (
            ["not finite: no update"] if step % 2 else []
        )
    for step in range(MOST_IN_A_ROW):
        one.check(metrics(step, grad_norm=math.nan))
    with pytest.raises(NotFiniteError, match="the 11th in a row"):
        one.check(metrics(99, grad_norm=math.nan))


def test_a_loss_that_is_not_finite_after_its_update_cannot_be_left_out() -> None:
    with pytest.raises(NotFiniteError):
        watch("skip").check(metrics(loss=math.nan))


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"grad_norm": 1e25}, "diverging: |g| is 1.0e+25"),
        ({"grad_norm": 500.0}, "diverging: |g| is 500 times the recent median"),
        ({"document_cosine": 0.9999}, "collapsed: two documents' mean cosine is 0.9999"),
        ({"loss": 0.0, "accuracy": 1.0, "candidates": 1.0}, "nothing to tell apart"),
    ],
)
def test_what_looks_wrong_is_noted(changes: dict[str, float], note: str) -> None:
    one = watch()
    for step in range(1, 21):
        assert "notes" not in one.check(metrics(step))
    notes = one.check(metrics(21, **changes))["notes"]
    assert len(notes) == 1
    assert notes[0].startswith(note)


def test_a_loss_above_chance_is_noted_once_it_lasts() -> None:
    one = watch()
    noted = [bool(one.check(metrics(step, loss_above_chance=0.8)).get("notes")) for step in range(1, 15)]
    assert noted == [False] * 9 + [True] * 5


@pytest.mark.parametrize(
    ("available", "one_pass", "expected"),
    [
        (5_000, False, "loss.chunk_tokens=512 would fit, now 8192"),
        (50_000_000, True, "loss.chunk_tokens=4096 would fit"),
    ],
)
def test_out_of_memory_names_a_chunk_that_fits(available: int, one_pass: bool, expected: str) -> None:
    sentence = describe_remedy(ActivationBudget(8.0, available), 8192, one_pass=one_pass)
    assert expected in sentence
    assert ('loss.gradient_cache="always"' in sentence) is one_pass


def test_what_counts_as_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tiny_shards: Path) -> list[str]:
    sources = [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]"]
    sizes = ["batch.size=8", "steps=5", "checkpoint.every=2", "optimizer.lr=1e-3", "run.log_batches=true"]
    return ["launch/train/demo.toml", *sources, *sizes]


@pytest.fixture(scope="module")
def trained(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    done = main_here(*tiny, "checkpoint.keep=9", f"run.folder={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_a_replayed_step_has_the_loss_and_the_gradient_of_the_run(step: int, trained: Path) -> None:
    logged = lines(trained / "metrics.jsonl")[step - 1]
    again = replay(trained, step)
    assert again.loss == pytest.approx(logged["loss"], rel=1e-6)
    assert again.grad_norm == pytest.approx(logged["grad_norm"], rel=1e-5)  # sums in another order
    assert {"embeddings", "encoder.layer.0", "encoder.layer.1"} <= set(again.norms)
    assert not again.weights
    assert not again.texts


def poisoned(model: Path, folder: Path, token: int) -> Path:
    """Copy a model and put a NaN into one row of its word embeddings."""
    import shutil

    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "word_embeddings" in name)
    weights[name][token, 3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_nan_in_a_row_that_no_text_uses_is_found_before_the_checkpoint(
    tiny: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    model = poisoned(tiny_model, tmp_path / "model", token=75_000)
    done = main_here(*tiny, f"model.name={model}", f"run.folder={tmp_path / 'run'}")
    assert done.returncode == 1
    assert "word_embeddings.weight has 1 numbers that are not finite, the first at [75000, 3]" in done.stderr
    assert "Traceback" not in done.stderr
    assert outcome(tmp_path / "run")["state"] == "failed"
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "checkpoints" / "latest").exists()


def test_the_texts_that_give_nans_are_named_by_a_replay(
    tiny: list[str], tiny_model: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    tokenizer = json.loads((tiny_model / "tokenizer.json").read_text(encoding="utf-8"))
    token = next(number for number, (piece, _) in enumerate(tokenizer["model"]["vocab"]) if piece == "▁the")
    model = poisoned(tiny_model, tmp_path / "model", token)
    done = main_here(*tiny, f"model.name={model}", f"run.folder={tmp_path / 'run'}")
    assert done.returncode == 1
    step = len(lines(tmp_path / "run" / "metrics.jsonl")) + 1 if (tmp_path / "run" / "metrics.jsonl").is_file() else 1
    assert f"step {step}: the gradient's norm is nan" in done.stderr
    assert command_line(["replay", str(tmp_path / "run"), "--step", str(step)]) == 0
    shown = capsys.readouterr().out
    named = {line.rpartition(" ")[2] for line in shown.splitlines() if "gives a vector that is not finite" in line}
    assert named
    assert named <= set(lines(trained / "batches.jsonl")[step - 1]["ids"])
    assert "not finite before the step: encoder.backbone.embeddings.word_embeddings.weight" in shown


def test_a_step_that_a_run_does_not_have_is_refused(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["replay", str(trained), "--step", "6"]) == 2
    assert "has the steps 1 to 5" in capsys.readouterr().err
