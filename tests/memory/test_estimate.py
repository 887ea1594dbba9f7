"""Memory estimate of `hbdist plan --fit`: its arithmetic, refused input, and comparison with real training."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from launching import ROOT, TIMEOUT, environment, lines, train

from hbdist.cli import main
from hbdist.config.config import Config
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError
from hbdist.memory.estimate import LARGEST_BATCH, SMALLEST_CHUNK, UNITS, MemoryEstimate, parse_memory
from hbdist.memory.text_lengths import TextLengths, chunk_shapes
from hbdist.memory.trial_step import TrialStep
from hbdist.models.encoder import Encoder
from hbdist.training.activations import ActivationBudget, Activations
from hbdist.training.loader import Batches, measure_token_rates

GB = 10**9
MEASURED = TrialStep(
    device="cpu",
    interpreter=GB // 2,
    parameters=20_000_000,
    largest=40_000_000,
    dimensions=256,
    activations=Activations(once=1e4, per_token=1e5, per_pair=100.0),
    one_pass=1.25,
    two_passes=1.5,
    chunk=50_000_000,
)


@pytest.fixture(scope="module")
def config(tiny_model: Path, tiny_shards: Path) -> Config:
    return Config.load(
        overrides=[
            *(f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "steps=4"),
            *("batch.size=32", "batch.small_pool=repeat", "loss.chunk_tokens=256"),
        ]
    )


@pytest.fixture(scope="module")
def fit(config: Config) -> MemoryEstimate:
    manifest = Manifest.load(config.data.shards)
    rates = dict.fromkeys(manifest.languages, 0.25)
    return MemoryEstimate(config, 1, 8 * GB, MEASURED, TextLengths(config, manifest, rates, ranks=1))


def with_cache(fit: MemoryEstimate, gradient_cache: str) -> MemoryEstimate:
    loss = fit.config.loss.model_copy(update={"gradient_cache": gradient_cache})
    return replace(fit, config=fit.config.model_copy(update={"loss": loss}))


@given(st.integers(1, 9999), st.sampled_from(sorted(UNITS)), st.sampled_from(["", " "]))
def test_a_size_is_a_number_times_a_unit(number: int, unit: str, between: str) -> None:
    assert parse_memory(f"{number}{between}{unit.lower()}") == number * UNITS[unit]


def test_a_size_may_have_a_fraction() -> None:
    assert parse_memory("1.5GB") == 1_500_000_000
    assert parse_memory("0.5 GiB") == 2**29


@pytest.mark.parametrize("text", ["80", "80 gigs", "GB", "-3GB", "0GB", "80G", "1e3GB"])
def test_a_size_without_a_known_unit_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a size\. Write a number and MB, GB"):
        parse_memory(text)


@given(st.lists(st.integers(2, 128), min_size=1, max_size=80), st.integers(1, 600))
def test_chunk_shapes_contain_all_texts_and_no_more_tokens_than_allowed(tokens: list[int], limit: int) -> None:
    shapes = chunk_shapes(np.array(tokens), limit)
    assert sum(texts for texts, _ in shapes) == len(tokens)
    assert all(texts * length <= limit or texts == 1 for texts, length in shapes)
    assert max(length for _, length in shapes) == max(tokens)


@pytest.mark.parametrize("ranks", [1, 2])
def test_estimated_lengths_are_near_those_of_real_batches(config: Config, ranks: int) -> None:
    manifest = Manifest.load(config.data.shards)
    encoder = Encoder.load(config.model)
    rates = measure_token_rates(manifest, encoder.tokenize)
    batches = Batches(config, manifest, encoder.tokenize, token_rates=rates, rank=0, world=ranks)
    estimated = TextLengths(config, manifest, rates, ranks=ranks).first_steps(config.batch.size)
    assert len(estimated) == config.steps
    for step, (query_B, document_B) in enumerate(estimated):
        batch = batches[step]
        assert len(query_B) == len(document_B) == len(batch.block_B)
        assert query_B.sum() + document_B.sum() == pytest.approx(batch.counts.tokens, rel=0.15)


def test_hard_negatives_count_as_long_as_documents(config: Config) -> None:
    manifest = Manifest.load(config.data.shards)
    loss = config.loss.model_copy(update={"hard_negatives": 2})
    lengths = TextLengths(
        config.model_copy(update={"loss": loss}), manifest, dict.fromkeys(manifest.languages, 0.25), ranks=1
    )
    query_B, document_B = lengths.first_steps(32)[0]
    assert len(document_B) == 3 * len(query_B)
    assert np.array_equal(document_B[:32], document_B[32:64])


def test_the_parts_add_up_to_the_peak_and_one_pass_keeps_all_chunks(fit: MemoryEstimate) -> None:
    one, two = with_cache(fit, "never").peak(32, 256), with_cache(fit, "always").peak(32, 256)
    assert one.one_pass
    assert not two.one_pass
    assert one.bytes == sum(one.parts.values())
    shapes = [
        shape for side_B in max(fit.lengths.first_steps(32), key=tokens_of) for shape in chunk_shapes(side_B, 256)
    ]
    assert one.parts["activations"] == pytest.approx(
        sum(MEASURED.activations.bytes_for(*shape) for shape in shapes), rel=0.05
    )
    assert two.parts["activations"] <= max(MEASURED.activations.bytes_for(*shape) for shape in shapes) * 1.2
    for name in ("parameters", "gradients", "interpreter and libraries"):
        assert one.parts[name] == two.parts[name]


def tokens_of(step: tuple[np.ndarray, np.ndarray]) -> int:
    return int(step[0].sum() + step[1].sum())


def test_one_pass_grows_with_the_batch_and_two_passes_with_the_chunk(fit: MemoryEstimate) -> None:
    one, two = with_cache(fit, "never"), with_cache(fit, "always")
    by_batch = [one.peak(batch, 256).bytes for batch in (16, 32, 64, 128)]
    by_chunk = [two.peak(64, chunk).bytes for chunk in (128, 512, 2048)]
    for grows in (by_batch, by_chunk):
        assert all(less < more for less, more in pairwise(grows))


def test_one_pass_is_predicted_when_the_step_itself_takes_it(fit: MemoryEstimate) -> None:
    parameters = 4 * MEASURED.parameters
    for memory in (GB, 2 * GB, 4 * GB, 64 * GB):
        given = replace(fit, memory=memory)
        peak = given.peak(32, 256)
        # As ContrastiveStep does, at the length of the longest text.
        length = max(int(side_B.max()) for step in fit.lengths.first_steps(32) for side_B in step)
        per_token = MEASURED.activations.bytes_for(256 // length, length) / (256 // length * length)
        budget = ActivationBudget.of(per_token, free=memory - MEASURED.interpreter - parameters, parameters=parameters)
        if abs(peak.tokens * per_token / max(1, budget.available) - 1) > 0.1:
            assert peak.one_pass == budget.fits(peak.tokens)
    assert not replace(fit, memory=GB).peak(32, 256).one_pass
    assert replace(fit, memory=64 * GB).peak(32, 256).one_pass


def test_the_recommendation_fits_and_twice_as_much_does_not(fit: MemoryEstimate) -> None:
    for memory in (int(1.2 * GB), 2 * GB, 3 * GB):
        given = with_cache(replace(fit, memory=memory), "never")
        batch = given.largest_batch()
        assert batch is None or given.fits(batch, 256)
        if batch is not None and batch < LARGEST_BATCH:
            assert not given.fits(2 * batch, 256)
        given = with_cache(replace(fit, memory=memory), "always")
        chunk = given.largest_chunk()
        assert chunk is not None
        assert given.fits(32, chunk)
        assert not given.fits(32, 2 * chunk) or chunk >= 32 * 128
        assert chunk >= SMALLEST_CHUNK


def test_zero_shards_the_states_and_stage_3_keeps_gathered_parameters(fit: MemoryEstimate, tmp_path: Path) -> None:
    def total(stage: int, ranks: int = 4, **settings: int) -> int:
        zero = Zero(tmp_path, stage, False, False, {"zero_optimization": settings})
        return replace(fit, ranks=ranks, zero=zero).without_activations()

    assert total(0) == replace(fit, ranks=4).without_activations()
    assert total(0) > total(1) > total(2) > total(3, stage3_max_live_parameters=0)
    parameters = fit.trial.parameters
    assert total(3) - total(3, stage3_max_live_parameters=0) == 4 * parameters
    assert total(3) - total(3, stage3_max_live_parameters=parameters // 2) == 4 * (parameters - parameters // 2)
    assert total(3, ranks=1) == total(3, ranks=1, stage3_max_live_parameters=0), "one rank gathers nothing"


def test_states_offloaded_on_a_cpu_stay_in_the_same_memory(fit: MemoryEstimate, tmp_path: Path) -> None:
    kept, offloaded = (
        replace(fit, ranks=2, zero=Zero(tmp_path, 2, offload, False, {})).without_activations()
        for offload in (False, True)
    )
    assert kept == offloaded
    on_gpu = replace(fit, trial=replace(MEASURED, device="cuda:0"), ranks=2, zero=Zero(tmp_path, 2, True, False, {}))
    assert on_gpu.without_activations() < offloaded


def test_the_text_fits_a_screen_and_marks_what_does_not_fit(fit: MemoryEstimate) -> None:
    text = replace(fit, memory=int(1.1 * GB)).text()
    assert len(text.splitlines()) <= 25
    assert all(len(line) <= 130 for line in text.splitlines())
    assert "two passes" in text
    assert re.search(r"\(\d+\.\d\d\*?\)", text)
    assert "loss.chunk_tokens=" in text.splitlines()[-2]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["plan", "launch/train/demo.toml", *arguments]) == 2
    written = capsys.readouterr()
    assert "Traceback" not in written.err
    assert written.err.startswith("hbdist: ")
    return written.err


@pytest.fixture
def sources(tiny_model: Path, tiny_shards: Path) -> list[str]:
    return [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "batch.size=8"]


def test_an_unknown_unit_is_refused(sources: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "--memory '80 gigs' is not a size" in refused(capsys, *sources, "--fit", "--memory", "80 gigs")


def test_memory_without_fit_is_refused(sources: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "Add --fit" in refused(capsys, *sources, "--memory", "80GB")


def test_missing_shards_are_refused(sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "hbdist build" in refused(capsys, *sources, f"data.shards={tmp_path}", "--fit")


def test_a_missing_model_is_refused(sources: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "cannot be loaded" in refused(capsys, *sources, f"model.name={tmp_path}", "--fit")


def test_a_batch_smaller_than_the_number_of_ranks_is_refused(
    sources: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "less than the 9 ranks" in refused(capsys, *sources, "--fit", "--ranks", "9")


def test_less_memory_than_the_model_needs_is_refused(sources: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, *sources, "--fit", "--memory", "10MB")
    assert "0.01 GB for a rank is too little" in message
    assert "engine.deepspeed" in message


def test_without_fit_no_torch_is_loaded(sources: list[str]) -> None:
    arguments = ["plan", "launch/train/demo.toml", *sources]
    code = f"import sys; from hbdist.cli import main; main({arguments}); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip().endswith("False")


def small_model(folder: Path) -> Path:
    """Write a random DistilBERT of 22 million parameters: another architecture than the shipped model, with its tokenizer."""
    from transformers import DistilBertConfig, DistilBertModel

    shipped = ROOT / "models" / "me5-small-demo"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        known = json.loads((shipped / "config.json").read_text(encoding="utf-8"))
        config = DistilBertConfig(
            vocab_size=known["vocab_size"], pad_token_id=1, dim=256, n_layers=3, n_heads=8, hidden_dim=1024
        )
        DistilBertModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(shipped / name, folder / name)
    return folder


def predicted_and_measured(arguments: list[str], run: Path) -> tuple[float, float]:
    """Return the peak in GB as predicted by `hbdist plan --fit`, and as measured in real training."""
    planned = subprocess.run(
        [sys.executable, "-m", "hbdist", "plan", *arguments, "--fit"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert planned.returncode == 0, planned.stderr
    found = re.search(r"fp32: (\d+\.\d+) GB of", planned.stdout)
    assert found, planned.stdout
    done = train(1, *arguments, f"run.folder={run}")
    assert done.returncode == 0, done.stderr
    return float(found[1]), lines(run / "metrics.jsonl")[-1]["peak_bytes"] / GB


@pytest.mark.slow
def test_the_predicted_peak_is_that_of_real_training(tiny_shards: Path, tmp_path: Path) -> None:
    sources = [f"model.name={small_model(tmp_path / 'model')}", f"data.shards={tiny_shards}", "data.languages=[]"]
    arguments = ["launch/train/demo.toml", *sources, "batch.size=32", "loss.chunk_tokens=512", "steps=2"]
    predicted, measured = predicted_and_measured([*arguments, "loss.gradient_cache=never"], tmp_path / "run")
    # With other tests on the same cores both vary by a few percent; the slow test below checks the claim of 15 %.
    assert predicted == pytest.approx(measured, rel=0.25)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["shipped", "random"])
@pytest.mark.parametrize(
    ("batch", "chunk_tokens", "gradient_cache"), [(32, 512, "never"), (16, 2048, "always"), (64, 8192, "always")]
)
def test_the_predicted_peak_is_that_of_real_training_at_any_size(
    model: str, batch: int, chunk_tokens: int, gradient_cache: str, tiny_shards: Path, tmp_path: Path
) -> None:
    name = small_model(tmp_path / "model") if model == "random" else ROOT / "models" / "me5-small-demo"
    sources = [f"model.name={name}", f"data.shards={tiny_shards}", "data.languages=[]"]
    sizes = [f"batch.size={batch}", f"loss.chunk_tokens={chunk_tokens}", f"loss.gradient_cache={gradient_cache}"]
    predicted, measured = predicted_and_measured(
        ["launch/train/demo.toml", *sources, *sizes, "batch.small_pool=repeat", "steps=2"], tmp_path / "run"
    )
    assert predicted == pytest.approx(measured, rel=0.15)
