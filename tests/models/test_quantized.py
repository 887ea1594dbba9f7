"""Encoders in 4 bits: exact dequantization, the cache of unpacked folders, and damaged files."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from hbdist.errors import DataError
from hbdist.models.quantized import WEIGHTS, dequantize, is_packed, read_weights, unpack
from hbdist.utils.files import cache_folder

DEMO = Path(__file__).parents[2] / "models" / "me5-small-demo"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo encoder, unpacked."""
    return unpack(DEMO, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a packed folder of a few hundred bytes."""
    folder = tmp_path / "small"
    (folder / "1_Pooling").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "1_Pooling/config.json"):
        (folder / name).write_text("{}")
    random = np.random.default_rng(1)
    q4 = random.integers(0, 256, (3, 32), dtype=np.uint8)
    scale = random.normal(size=(3, 2)).astype(np.float16)
    save_file({"a.weight.q4": q4, "a.weight.scale": scale, "a.bias": np.ones(3, np.float32)}, folder / WEIGHTS)
    return folder


def reference(q4: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Dequantize one weight after another, in float64."""
    weights = np.zeros((q4.shape[0], q4.shape[1] * 2))
    for row, column in np.ndindex(*weights.shape):
        block, index = divmod(column, 32)
        byte = int(q4[row, block * 16 + index % 16])
        weights[row, column] = ((byte >> 4 if index >= 16 else byte & 15) - 8) * float(scale[row, block])
    return weights


@given(rows=st.integers(0, 5), blocks=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_dequantize_equals_the_formula_exactly(rows, blocks, seed):
    random = np.random.default_rng(seed)
    q4 = random.integers(0, 256, (rows, blocks * 16), dtype=np.uint8)
    scale = random.normal(scale=10.0 ** random.integers(-6, 4), size=(rows, blocks)).astype(np.float16)
    weights = dequantize(q4, scale)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, reference(q4, scale))


def test_a_folder_that_is_not_packed_is_returned_unchanged(tmp_path):
    assert not is_packed(tmp_path)
    assert unpack(tmp_path, tmp_path / "cache") == tmp_path
    assert not (tmp_path / "cache").exists()


def test_the_demo_encoder_loads_in_transformers(demo):
    model = AutoModel.from_pretrained(demo, add_pooling_layer=False)
    tokens = AutoTokenizer.from_pretrained(demo)(
        ["query: Wie geht es?", "query: 你好"], padding=True, return_tensors="pt"
    )
    assert model.get_input_embeddings().weight.shape == (len(AutoTokenizer.from_pretrained(demo)), 384)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokens["input_ids"][0, 0] == 0
    assert torch.isfinite(model(**tokens).last_hidden_state).all()


def test_the_demo_encoder_loads_in_sentence_transformers_with_its_prompts(demo):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(demo), device="cpu")
    assert {"query": "query: ", "document": "passage: "}.items() <= model.prompts.items()
    assert model.max_seq_length == 512
    query, relevant, irrelevant = (
        model.encode("Where is the Eiffel Tower?", prompt_name="query"),
        model.encode("La tour Eiffel se trouve à Paris.", prompt_name="document"),
        model.encode("Die Milchstraße ist eine Galaxie.", prompt_name="document"),
    )
    np.testing.assert_allclose(np.linalg.norm(query), 1, rtol=1e-5)
    assert query @ relevant > query @ irrelevant


def test_all_files_except_the_packed_weights_are_copied(small, tmp_path):
    target = unpack(small, tmp_path / "cache")
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert files == {"config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors"}
    tensors, expected = load_file(target / "model.safetensors"), load_file(small / WEIGHTS)
    assert set(tensors) == {"a.weight", "a.bias"}
    np.testing.assert_array_equal(tensors["a.weight"], reference(expected["a.weight.q4"], expected["a.weight.scale"]))


def test_an_entry_is_reused_and_a_changed_folder_gets_a_new_one(small, tmp_path):
    cache = tmp_path / "cache"
    first = unpack(small, cache)
    written = (first / "model.safetensors").stat().st_mtime_ns
    assert unpack(small, cache) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == written
    (small / "config.json").write_text(json.dumps({"changed": True}))
    assert unpack(small, cache) != first


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("HBDIST_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "hbdist"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "hbdist"
    monkeypatch.setenv("HBDIST_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_concurrent_processes_make_one_complete_entry(small, tmp_path):
    code = f"""
import pathlib, sys
from hbdist.models.quantized import unpack
print("ready", flush=True)
sys.stdin.readline()
print(unpack(pathlib.Path({str(small)!r}), pathlib.Path({str(tmp_path / "cache")!r})))
"""
    start = partial(subprocess.Popen, [sys.executable, "-c", code], text=True)
    processes = [start(stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:  # all have finished their imports, so that they race for the entry
        process.stdin.write("go\n")
        process.stdin.flush()
    targets = {Path(process.communicate(timeout=60)[0].strip()) for process in processes}
    assert {process.returncode for process in processes} == {0}
    assert targets == set((tmp_path / "cache").iterdir())  # one entry and no leftovers
    assert set(load_file(targets.pop() / "model.safetensors")) == {"a.weight", "a.bias"}


def test_a_process_that_loses_the_race_uses_the_winners_entry(small, tmp_path, monkeypatch):
    winner = unpack(small, tmp_path / "cache")
    aside = shutil.move(winner, tmp_path / "aside")

    def finish_first(path: Path):
        shutil.move(aside, winner)
        return read_weights(path)

    monkeypatch.setattr("hbdist.models.quantized.read_weights", finish_first)
    assert unpack(small, tmp_path / "cache") == winner
    assert list((tmp_path / "cache").iterdir()) == [winner]


@pytest.mark.parametrize("damage", ["cut short", "no safetensors", "empty"])
def test_a_damaged_weights_file_is_named(small, tmp_path, damage):
    content = (small / WEIGHTS).read_bytes()
    text = b"version https://git-lfs.github.com/spec/v1\n"
    (small / WEIGHTS).write_bytes({"cut short": content[:-7], "no safetensors": text, "empty": b""}[damage])
    with pytest.raises(DataError, match=rf"{WEIGHTS}: .*Expected .*Copy the file again"):
        unpack(small, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("scale", [None, np.ones((3, 1), np.float16), np.ones((2, 2), np.float16)])
def test_weights_without_matching_scales_are_named(small, scale):
    stored = load_file(small / WEIGHTS)
    del stored["a.weight.scale"]
    save_file(stored | ({} if scale is None else {"a.weight.scale": scale}), small / WEIGHTS)
    with pytest.raises(DataError, match=r"a\.weight: its scales are"):
        read_weights(small / WEIGHTS)


def test_a_read_only_folder_can_be_unpacked(small, tmp_path):
    for path in (small / "1_Pooling", small):
        path.chmod(0o555)
    target = unpack(small, tmp_path / "cache")
    assert all(path.stat().st_mode & 0o200 for path in (target, *target.rglob("*")))


def test_a_cache_that_cannot_be_written_is_named(small, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(DataError, match="HBDIST_CACHE"):
        unpack(small, tmp_path / "cache")
