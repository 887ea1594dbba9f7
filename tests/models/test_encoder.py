"""The encoder: pooling, padding, chunks, truncated texts, and models that are refused."""

import json
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError, DataError
from hbdist.models.encoder import Encoder, pool, settings_of
from hbdist.models.pretrained import SavedSettings
from hbdist.models.tokenizer import TextKind, make_chunks, pad

ROOT = Path(__file__).parents[2]
TEXTS = [
    "a",
    "Welsh AMs worried about looking like muppets",
    "Eine Meldung, die etwas länger ist als die anderen, damit aufgefüllt werden muss, und zwar um einiges.",
    "ข่าวสั้น",
    "",
    "Two words",
]


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(ModelSection(name=str(tiny_model))).eval()


@pytest.mark.parametrize("length", [1, 2, 7])
def test_pooling_equals_a_plain_loop(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    hidden_BLD = torch.randn(5, length, 8, generator=generator)
    mask_BL = (torch.arange(length)[None, :] < torch.randint(1, length + 1, (5, 1), generator=generator)).long()
    for row in range(5):
        real = [hidden_BLD[row, index] for index in range(length) if mask_BL[row, index]]
        assert torch.equal(pool(hidden_BLD, mask_BL, "cls")[row], hidden_BLD[row, 0])
        torch.testing.assert_close(pool(hidden_BLD, mask_BL, "mean")[row], sum(real) / len(real))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_does_not_change_an_embedding(pooling: str, tiny_model: Path) -> None:
    encoder = Encoder.load(ModelSection(name=str(tiny_model), pooling=pooling)).eval()
    ids, _ = encoder.tokenize(TEXTS, "document")
    together_BD = encoder(*pad(ids, encoder.tokenize.pad_token_id))
    for index, one in enumerate(ids):
        alone_D = encoder(*pad([one], encoder.tokenize.pad_token_id))[0]
        torch.testing.assert_close(together_BD[index], alone_D, atol=1e-5, rtol=0)


def test_padding_is_on_the_right_and_masked() -> None:
    input_ids_BL, attention_mask_BL = pad([[5, 6, 7], [8]], 1)
    assert input_ids_BL.tolist() == [[5, 6, 7], [8, 1, 1]]
    assert attention_mask_BL.tolist() == [[1, 1, 1], [1, 0, 0]]


@given(lengths=st.lists(st.integers(1, 300), max_size=80), chunk_tokens=st.integers(1, 600))
def test_every_text_is_in_one_chunk_within_the_budget(lengths: list[int], chunk_tokens: int) -> None:
    chunks = make_chunks([[0] * length for length in lengths], chunk_tokens)
    assert sorted(index for chunk in chunks for index in chunk) == list(range(len(lengths)))
    for chunk in chunks:
        assert len(chunk) * max(lengths[index] for index in chunk) <= chunk_tokens or len(chunk) == 1
    sizes = [lengths[index] for chunk in chunks for index in chunk]
    assert sizes == sorted(sizes, reverse=True)


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=80), chunk_tokens=st.integers(1, 600))
def test_a_chunk_ends_only_where_the_next_text_would_not_fit(lengths: list[int], chunk_tokens: int) -> None:
    chunks = make_chunks([[0] * length for length in lengths], chunk_tokens)
    for chunk in chunks[:-1]:
        assert (len(chunk) + 1) * lengths[chunk[0]] > chunk_tokens


@pytest.mark.parametrize(("side", "calls"), [("right", 1), ("left", 2)])
def test_a_truncated_text_is_tokenised_once_and_as_the_tokenizer_truncates_it(
    side: str, calls: int, tiny_model: Path
) -> None:
    tokenize = Encoder.load(ModelSection(name=str(tiny_model), max_query_tokens=9)).tokenize
    tokenize.tokenizer.truncation_side = side
    texts = [f"{word} and some more words that are cut {word}" for word in ("one", "two", "three")] + ["short"]
    expected = [tokenize.tokenizer(f"query: {text}", truncation=True, max_length=9)["input_ids"] for text in texts]
    assert tokenize(texts, "query") == (expected, 3)  # also looks once how it truncates
    made: list[int] = []
    own = type(tokenize)._truncate

    def counting(self: object, some: list[str], limit: int, **options: object) -> list[list[int]]:
        made.append(len(some))
        return own(self, some, limit, **options)

    with patch.object(type(tokenize), "_truncate", counting):
        assert tokenize(texts, "query") == (expected, 3)
    assert made == [4, 3][:calls]


def test_a_truncated_text_keeps_its_special_tokens_and_is_counted(tiny_model: Path) -> None:
    settings = ModelSection(name=str(tiny_model), max_query_tokens=8, max_document_tokens=12)
    tokenize = Encoder.load(settings).tokenize
    first, last = tokenize.tokenizer.cls_token_id, tokenize.tokenizer.sep_token_id
    texts = [" ".join(["one"] * count) for count in range(20)]
    limits: dict[TextKind, int] = {"query": 8, "document": 12}
    for kind, limit in limits.items():
        prefix = settings.query_prefix if kind == "query" else settings.document_prefix
        uncut = [tokenize.tokenizer(prefix + text)["input_ids"] for text in texts]
        ids, cut = tokenize(texts, kind)
        assert cut == sum(len(one) > limit for one in uncut) > 0
        for short, long in zip(ids, uncut, strict=True):
            assert short == (long if len(long) <= limit else [*long[: limit - 1], last])
            assert (short[0], short[-1]) == (first, last)


def test_prefixes_are_part_of_the_text(tiny_model: Path) -> None:
    plain = Encoder.load(ModelSection(name=str(tiny_model), query_prefix="", document_prefix="")).tokenize
    prefixed = Encoder.load(ModelSection(name=str(tiny_model), query_prefix="ask ", document_prefix="say ")).tokenize
    assert prefixed(["this"], "query") == plain(["ask this"], "query") == plain(["ask this"], "document")
    assert prefixed(["this"], "document") == plain(["say this"], "document")


def test_embeddings_are_in_the_order_of_the_texts_and_have_unit_length(encoder: Encoder) -> None:
    embedding_ND = encoder.encode(TEXTS, "query")
    assert embedding_ND.shape == (len(TEXTS), encoder.dimensions)
    assert embedding_ND.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding_ND, axis=1), 1, atol=1e-6)
    one_by_one_ND = np.concatenate([encoder.encode([text], "query") for text in TEXTS])
    np.testing.assert_allclose(embedding_ND, one_by_one_ND, atol=1e-5)
    reversed_ND = encoder.encode(TEXTS[::-1], "query")
    np.testing.assert_allclose(reversed_ND[::-1], embedding_ND, atol=1e-5)


def test_no_texts_give_no_embeddings(encoder: Encoder) -> None:
    assert encoder.encode([], "query").shape == (0, encoder.dimensions)


@pytest.mark.parametrize("training", [True, False])
def test_encoding_uses_no_dropout_and_restores_the_mode(training: bool, encoder: Encoder) -> None:
    encoder.train(training)
    first, second = encoder.encode(TEXTS, "query"), encoder.encode(TEXTS, "query")
    assert np.array_equal(first, second)
    assert encoder.training == encoder.backbone.training == training
    encoder.eval()


def test_progress_counts_all_texts(encoder: Encoder) -> None:
    calls: list[tuple[int, int]] = []
    encoder.encode(TEXTS * 40, "document", progress=lambda done, total: calls.append((done, total)))
    assert len(calls) > 1
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert {total for _, total in calls} == {6 * 40}
    assert calls[-1] == (240, 240)


def test_dropout_in_the_settings_replaces_the_models(tiny_model: Path) -> None:
    def dropouts(setting: float | None) -> set[float]:
        encoder = Encoder.load(ModelSection(name=str(tiny_model), dropout=setting))
        config = encoder.backbone.config
        modules = {module.p for module in encoder.modules() if isinstance(module, nn.Dropout)}
        return modules | {config.hidden_dropout_prob, config.attention_probs_dropout_prob}

    assert dropouts(None) == {0.1}
    assert dropouts(0.0) == {0.0}
    assert dropouts(0.3) == {0.3}


def test_without_dropout_training_and_evaluation_mode_agree(tiny_model: Path) -> None:
    encoder = Encoder.load(ModelSection(name=str(tiny_model), dropout=0.0))
    tokens = pad(encoder.tokenize(TEXTS, "query")[0], encoder.tokenize.pad_token_id)
    torch.testing.assert_close(encoder.train()(*tokens), encoder.eval()(*tokens))


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        Encoder.load(ModelSection(name=str(folder)))
    return str(caught.value)


def test_a_model_without_some_of_its_weights_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert (
        "lacks 1 weights of its architecture (or has them in another shape), among them encoder.layer.1.output.dense.weight"
        in refusal(folder)
    )


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    assert f"model.name = {str(tmp_path)!r} cannot be loaded" in refusal(tmp_path)


def test_the_folder_of_a_run_is_refused_and_its_model_named(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "run" / "model")
    assert f"use its model, {tmp_path}/run/model." in refusal(tmp_path / "run")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut short", "empty", "gone"])
def test_a_damaged_model_is_refused_with_a_remedy(name: str, damage: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    if damage == "gone":
        (folder / name).unlink()
    else:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2] if damage == "cut short" else b"")
    assert f"model.name = {str(folder)!r} cannot be loaded" in (message := refusal(folder))
    assert "Give the name of a model on the Hugging Face hub, or the path of a folder" in message


def test_weights_of_another_shape_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 128}), encoding="utf-8")
    assert "(or has them in another shape), among them encoder.layer.0.intermediate.dense.bias" in refusal(folder)


def test_a_folder_without_saved_settings_gets_the_defaults(tiny_model: Path) -> None:
    expected = ModelSection(name=str(tiny_model), max_query_tokens=512, max_document_tokens=512)
    assert settings_of(str(tiny_model)) == expected


def test_saved_settings_are_used() -> None:
    shipped = ROOT / "models" / "me5-small-demo"
    assert SavedSettings.read(shipped) == SavedSettings(
        "mean", "query: ", "passage: ", max_query_tokens=512, max_document_tokens=512
    )
    assert settings_of(str(shipped)).document_prefix == "passage: "


def test_overrides_win_over_saved_settings() -> None:
    settings = settings_of(str(ROOT / "models" / "me5-small-demo"), pooling="cls", query_prefix="", dropout=None)
    assert (settings.pooling, settings.query_prefix, settings.dropout) == ("cls", "", None)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "mean+max"),
        ({"word_embedding_dimension": 32}, None),
        ({}, None),
    ],
)
def test_pooling_is_read_in_all_formats_of_sentence_transformers(
    pooling: dict[str, object], expected: str | None, tmp_path: Path
) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    prompts = {"prompts": {"query": "q: ", "passage": "p: "}}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    assert SavedSettings.read(tmp_path) == SavedSettings(expected, "q: ", "p: ")


@pytest.mark.parametrize("pooling", [{"pooling_mode": "lasttoken"}, {"pooling_mode_max_tokens": True}])
def test_a_model_with_an_unsupported_pooling_is_refused(pooling: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"pooling = '(lasttoken|max)' is not supported\. Expected one of mean, cls"):
        settings_of(str(tmp_path))
    assert settings_of(str(tmp_path), pooling="mean").pooling == "mean"
