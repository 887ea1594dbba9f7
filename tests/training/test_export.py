"""Exported model: other libraries get the same vectors from it, and the config in its card trains it again."""

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from hbdist.config.config import Config
from hbdist.models.encoder import Encoder, pool, settings_of
from hbdist.training.export import export

TEXTS = ["a", "Welsh AMs worried about looking like muppets", "Eine etwas längere Meldung, ในสองภาษา", "Two words"]


def make_config(model: Path, pooling: str = "mean") -> Config:
    values: dict[str, Any] = {
        "steps": 12,
        "seed": 5,
        "run": {"folder": "runs/tiny"},
        "data": {"shards": "shards/built/tiny", "languages": ["en", "de"]},
        "model": {"name": str(model), "pooling": pooling, "query_prefix": "ask: ", "document_prefix": 'say "it": '},
        "batch": {"size": 8, "mono_share": 0.25},
    }
    return Config.check(values, source="test")


@pytest.fixture(scope="module", params=["mean", "cls"])
def exported(request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return an encoder, its config and its exported folder, for both kinds of pooling."""
    config = make_config(tiny_model, request.param)
    encoder = Encoder.load(config.model).eval()
    folder = tmp_path_factory.mktemp("run") / "model"
    return encoder, config, export(encoder, folder, config, fingerprint="0123abcd", steps=12)


def test_sentence_transformers_gives_the_same_vectors(exported: Any) -> None:
    encoder, _, folder = exported
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    for kind in ("query", "document"):
        theirs_ND = model.encode(TEXTS, prompt_name=kind, show_progress_bar=False)
        np.testing.assert_allclose(theirs_ND, encoder.encode(TEXTS, kind), atol=1e-5)


def test_auto_model_gives_the_same_vectors_after_pooling(exported: Any) -> None:
    encoder, config, folder = exported
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    prefixed = [config.model.query_prefix + text for text in TEXTS]
    tokens = tokenizer(prefixed, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden_BLD = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
    pooled_BD = pool(hidden_BLD, tokens.attention_mask, config.model.pooling)
    vectors_BD = torch.nn.functional.normalize(pooled_BD, dim=-1).numpy()
    np.testing.assert_allclose(vectors_BD, encoder.encode(TEXTS, "query"), atol=1e-5)


def test_hbdist_reads_the_settings_from_the_folder(exported: Any) -> None:
    encoder, config, folder = exported
    found = settings_of(str(folder))
    for key in ("pooling", "query_prefix", "document_prefix"):
        assert getattr(found, key) == getattr(config.model, key)
    again = Encoder.load(found)
    for kind in ("query", "document"):
        np.testing.assert_allclose(again.encode(TEXTS, kind), encoder.encode(TEXTS, kind), atol=1e-6)


def test_the_card_contains_the_config_as_toml(exported: Any) -> None:
    _, config, folder = exported
    card = (folder / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```toml\n(.*?)^```$", card, re.M | re.S)
    assert Config.check(tomllib.loads(block), source="the card") == config


def test_the_card_describes_the_model(exported: Any) -> None:
    _, config, folder = exported
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert "\n# tiny\n" in card
    for fact in ("en, de", "0123abcd", "12 steps of 8 pairs", "α = 0.25", config.model.query_prefix, "seed 5"):
        assert fact in card


def test_an_export_replaces_the_folder_completely(tiny_model: Path, tmp_path: Path) -> None:
    config = make_config(tiny_model)
    encoder = Encoder.load(config.model)
    (tmp_path / "model" / "1_Old").mkdir(parents=True)
    (tmp_path / "model" / "old.bin").write_bytes(b"old")
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial" / "half.bin").write_bytes(b"from an export that was killed")
    export(encoder, tmp_path / "model", config, fingerprint="0", steps=12)
    first = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not {path for path in first if "old" in path.name or "half" in path.name or "partial" in str(path)}
    export(encoder, tmp_path / "model", config, fingerprint="0", steps=12)
    again = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert again == first


def test_the_encoder_is_unchanged_by_its_export(tiny_model: Path, tmp_path: Path) -> None:
    config = make_config(tiny_model)
    encoder = Encoder.load(config.model)
    before = encoder.encode(TEXTS, "query")
    export(encoder, tmp_path / "model", config, fingerprint="0", steps=12)
    assert np.array_equal(encoder.encode(TEXTS, "query"), before)
