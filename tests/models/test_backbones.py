"""XLM-R, LaBSE and the encoders of M2M100 and NLLB: loading their real file formats, training, resuming, exporting."""

import contextlib
import io
import json
import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import lines, outcome
from launching import train as launch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shard_sources import parallel, row
from tiny_backbones import POSITIONS, make_labse, make_m2m100, make_nllb, make_xlm_r, tiny_m2m100
from transformers import AutoTokenizer

from hbdist.config.config import Config
from hbdist.config.sections import ModelSection
from hbdist.data.build.build import build
from hbdist.data.shards.manifest import Manifest
from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.evaluate import evaluate
from hbdist.evaluation.tasks.corpus import Candidate
from hbdist.evaluation.tasks.task import Query, RetrievalTask
from hbdist.models.encoder import Encoder, settings_of
from hbdist.models.parameter_count import count_parameters
from hbdist.models.tokenizer import Tokenize, pad
from hbdist.train import train
from hbdist.training.export import export
from hbdist.training.loader import Batches, measure_token_rates

TEXTS = ["a", "two words", "Eine etwas längere Meldung, ในสองภาษา, und noch ein wenig mehr davon", ""]
LANGUAGES = ["en", "de", "th", "en"]
CODES = {"en": "eng_Latn", "de": "deu_Latn", "th": "tha_Thai"}
"""hbdist code → NLLB code."""


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folders of the small models by name."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "bert": tiny_model,
        "xlm-r": make_xlm_r(folder / "xlm-r"),
        "labse": make_labse(folder / "labse", tiny_model),
        "m2m100": make_m2m100(folder / "m2m100"),
        "nllb": make_nllb(folder / "nllb"),
        "old-nllb": make_nllb(folder / "old-nllb", legacy=True),
    }


def section(models: dict[str, Path], model: str, **changes: Any) -> ModelSection:
    limits = {"max_query_tokens": 96, "max_document_tokens": 96}
    pooling = "cls" if model == "labse" else "mean"
    return ModelSection(name=str(models[model]), **{**limits, "dropout": 0.0, "pooling": pooling, **changes})


def tokenize_of(settings: ModelSection) -> Tokenize:
    return Tokenize(tokenizer_of(settings.name), settings)


@cache
def tokenizer_of(folder: str) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def make_config(models: dict[str, Path], shards: Path, folder: Path, model: str, **changes: Any) -> Config:
    values = {
        "steps": 2,
        "run": {"folder": str(folder)},
        "data": {"shards": str(shards)},
        "model": section(models, model, **changes).model_dump(exclude_none=True),
        "batch": {"size": 8},
        "optimizer": {"lr": 1e-3},
        "checkpoint": {"every": 1},
        "loss": {"chunk_tokens": 200, "hard_negatives": 1},
    }
    return Config.check(values, source="test")


@pytest.mark.parametrize("model", ["xlm-r", "labse", "m2m100"])
def test_a_resumed_run_exports_the_same_model_and_a_card_whose_code_works(
    model: str, models: dict[str, Path], tiny_shards: Path, tmp_path: Path
) -> None:
    config = make_config(models, tiny_shards, tmp_path / "run", model)
    assert train(config).state == "done"
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "run", again)
    shutil.rmtree(again / "model")
    (again / "outcome.json").unlink()
    (again / "checkpoints/latest").write_text("000000001", encoding="utf-8")
    # The config of an older run does not have these keys.
    stored = re.sub(r"(language_token|fixed_language) = .*\n", "", (again / "config.toml").read_text(encoding="utf-8"))
    (again / "config.toml").write_text(stored, encoding="utf-8")
    train(config.model_copy(update={"run": config.run.model_copy(update={"folder": str(again)})}))
    assert [step["loss"] for step in lines(again / "metrics.jsonl")] == [
        step["loss"] for step in lines(tmp_path / "run/metrics.jsonl")
    ]
    weights = {path.relative_to(again): load_file(path) for path in (again / "model").rglob("*.safetensors")}
    assert len(weights) == (2 if model == "labse" else 1)
    for path, tensors in weights.items():
        for name, tensor in load_file(tmp_path / "run" / path).items():
            assert torch.equal(tensors[name], tensor), name
    before = Encoder.load(config.model).state_dict()
    for path, tensors in weights.items():
        part = "head.0" if path.parent.name == "2_Dense" else "backbone"
        assert any(not torch.equal(tensor, before[f"{part}.{name}"]) for name, tensor in tensors.items()), path
    assert_card_gives_our_embeddings(again / "model", languages=model == "m2m100")


def assert_card_gives_our_embeddings(folder: Path, *, languages: bool) -> None:
    """Check that the code in the model card gives the embeddings that hbdist gives."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    code, *_ = re.findall(r"^```python\n(.*?)^```$", card, re.M | re.S)
    text, variables = TEXTS[2].lower(), dict[str, Any]()
    with contextlib.redirect_stderr(io.StringIO()):
        exec(code.replace("path/of/this/folder", str(folder)).replace("…", text), variables)
    encoder = Encoder.load_for_use(settings_of(str(folder)))
    for kind, language in (("query", "en"), ("document", "de")):
        expected_1D = encoder.encode([text], kind, languages=[language] if languages else None)
        np.testing.assert_allclose(variables[kind], expected_1D[0], atol=1e-5)
    assert variables["score"] == pytest.approx(float(variables["query"] @ variables["document"]))


@pytest.mark.parametrize("mode", ["keep", "fixed", "drop"])
@pytest.mark.parametrize("model", ["m2m100", "nllb", "old-nllb"])
def test_an_exported_model_gives_the_embeddings_of_the_trained_one(
    model: str, mode: str, models: dict[str, Path], tiny_shards: Path, tmp_path: Path
) -> None:
    config = make_config(models, tiny_shards, tmp_path, model, language_token=mode, fixed_language="th")
    encoder = Encoder.load(config.model).eval()
    folder = export(encoder, tmp_path / "model", config, fingerprint="0", steps=2)
    with safe_open(folder / "model.safetensors", framework="np") as file:
        assert "embed_tokens.weight" in file.keys()  # noqa: SIM118
        assert not [name for name in file.keys() if "decoder" in name]  # noqa: SIM118
    saved = settings_of(str(folder))
    assert (saved.language_token, saved.fixed_language) == (mode, "th")
    trained_ND, exported_ND = (
        one.encode(TEXTS, "query", languages=LANGUAGES) for one in (encoder, Encoder.load(saved))
    )
    np.testing.assert_allclose(exported_ND, trained_ND, atol=1e-6)
    assert_card_gives_our_embeddings(folder, languages=True)


@pytest.mark.parametrize("model", ["m2m100", "nllb", "old-nllb"])
@settings(max_examples=25)
@given(data=st.data())
def test_texts_of_many_languages_get_the_ids_that_the_tokenizer_gives_one_language_at_a_time(
    model: str, data: st.DataObject, models: dict[str, Path]
) -> None:
    tokenize = tokenize_of(section(models, model, max_query_tokens=14))
    texts = data.draw(st.lists(st.text("ab zä กx.", max_size=30), min_size=1, max_size=6))
    languages = data.draw(st.lists(st.sampled_from(sorted(CODES)), min_size=len(texts), max_size=len(texts)))
    tokenizer, expected, cut = tokenize.tokenizer, [], 0
    for text, language in zip(texts, languages, strict=True):
        tokenizer.src_lang = language if model == "m2m100" else CODES[language]
        expected.append(list(tokenizer(f"query: {text}", truncation=True, max_length=14)["input_ids"]))
        cut += len(tokenizer(f"query: {text}")["input_ids"]) > 14
    assert tokenize(texts, "query", languages) == (expected, cut)


def test_the_language_token_is_kept_fixed_or_dropped(models: dict[str, Path]) -> None:
    def ids(mode: str, language: str) -> list[int]:
        tokenize = tokenize_of(section(models, "m2m100", language_token=mode, fixed_language="de"))
        return tokenize(["two words"], "query", [language])[0][0]

    token = tokenize_of(section(models, "m2m100")).tokenizer.get_lang_id
    dropped = ids("drop", "en")
    assert ids("keep", "en") == [token("en"), *dropped]
    assert ids("keep", "th") == [token("th"), *dropped]
    assert ids("fixed", "en") == ids("fixed", "th") == [token("de"), *dropped]
    assert ids("drop", "th") == dropped
    assert dropped[-1] == tokenize_of(section(models, "m2m100")).tokenizer.eos_token_id


def test_counting_tokens_needs_no_languages(models: dict[str, Path]) -> None:
    for mode in ("keep", "fixed", "drop"):
        tokenize = tokenize_of(section(models, "m2m100", language_token=mode))
        assert tokenize.count(TEXTS) == sum(map(len, tokenize(TEXTS, "document", LANGUAGES)[0]))
        assert tokenize.count([]) == 0


def test_texts_without_languages_are_refused_only_if_the_model_needs_them(models: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match=r"no languages are given for these texts\. Give them, or set"):
        tokenize_of(section(models, "m2m100"))(["a"], "query")
    for mode in ("fixed", "drop"):
        ids, _ = tokenize_of(section(models, "m2m100", language_token=mode))(["a"], "query")
        assert len(ids) == 1


@pytest.mark.parametrize(("dataset", "mono_share", "pools"), [("ntrex", 0.5, 4), ("made", 1.0, 2)])
def test_each_text_of_a_batch_has_the_language_token_of_its_pair(
    dataset: str, mono_share: float, pools: int, models: dict[str, Path], tiny_shards: Path
) -> None:
    manifest = Manifest.load(tiny_shards)
    config = make_config(models, tiny_shards, tiny_shards, "m2m100")
    changes = {
        "data": {"datasets": (dataset,)},
        "loss": {"hard_negatives": 2},
        "batch": {"mono_block": 2, "cross_block": 2, "mono_share": mono_share},
    }
    config = config.model_copy(
        update={name: getattr(config, name).model_copy(update=change) for name, change in changes.items()}
    )
    tokenize = tokenize_of(config.model)
    batches = Batches(config, manifest, tokenize, token_rates=measure_token_rates(manifest, tokenize))
    token, seen, of_negatives = tokenize.tokenizer.get_lang_id, set(), [set()]
    for step in range(4):
        batch, planned = batches[step], batches.schedule.batch(step)
        # A single rank has the batch in the schedule's order; the hard negatives that there are follow all documents.
        groups = [manifest.groups[number] for number in planned.group]
        documents = [token(group.document_lang) for group in groups]
        pairs = batches.reader.read(planned.group, planned.row)
        negatives = [
            one for one, pair in zip(documents, pairs, strict=True) for _ in range(min(2, len(pair.negatives)))
        ]
        assert first_tokens(batch.query_chunks) == [token(group.query_lang) for group in groups]
        assert first_tokens(batch.document_chunks) == documents + negatives
        seen |= {(group.query_lang, group.document_lang) for group in groups}
        of_negatives.append(set(negatives))
    assert len(seen) >= pools
    assert max(map(len, of_negatives)) == (2 if dataset == "made" else 0), "any order of languages would be right"


def first_tokens(chunks: list[Any]) -> list[int]:
    places = torch.cat([chunk.index_B for chunk in chunks])
    return torch.cat([chunk.input_ids_BL[:, 0] for chunk in chunks])[torch.argsort(places)].tolist()


def test_a_language_without_a_token_is_refused_before_the_first_step(models: dict[str, Path], tmp_path: Path) -> None:
    languages = ("en", "te")  # M2M100 does not support Telugu
    recipe = parallel(tmp_path, {language: [row(number, language) for number in range(20)] for language in languages})
    manifest = build(recipe, tmp_path / "shards", workers=1)
    tokenize = tokenize_of(section(models, "m2m100"))
    rates = measure_token_rates(manifest, tokenize)  # of all languages, whether they are trained on or not
    config = make_config(models, tmp_path / "shards", tmp_path, "m2m100")
    with pytest.raises(ConfigError, match=r"has no token for the language te; it supports 100 languages, the closest"):
        Batches(config, manifest, tokenize, token_rates=rates)
    english = config.model_copy(
        update={
            "data": config.data.model_copy(update={"languages": ("en",)}),
            "batch": config.batch.model_copy(update={"mono_share": 1.0}),
        }
    )
    assert len(Batches(english, manifest, tokenize, token_rates=rates)[0].block_B) == 8
    dropped = tokenize_of(section(models, "m2m100", language_token="drop"))
    assert len(Batches(config, manifest, dropped, token_rates=rates)[0].block_B) == 8


@pytest.mark.parametrize("model", ["bert", "xlm-r", "labse", "m2m100"])
def test_every_parameter_is_trained_and_counted_once(model: str, models: dict[str, Path]) -> None:
    # DistributedDataParallel fails if a parameter has no gradient, for instance because its layer is skipped at random.
    encoder = Encoder.load(section(models, model)).train()
    tokens = pad(encoder.tokenize(TEXTS, "query", LANGUAGES)[0], encoder.tokenize.pad_token_id)
    for _ in range(20):
        encoder.zero_grad()
        encoder(*tokens)[:, 0].sum().backward()
        assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
    trained = sum(parameter.numel() for parameter in encoder.parameters())
    assert count_parameters(str(models[model])) == trained
    # The files of the other models contain more: a decoder or a pooler.
    stored = [load_file(path) for path in models[model].rglob("*.safetensors")]
    assert sum(tensor.numel() for tensors in stored for tensor in tensors.values()) >= trained + (model != "bert")


def test_an_embedding_that_is_stored_twice_is_counted_once(models: dict[str, Path], tmp_path: Path) -> None:
    weights = load_file(models["m2m100"] / "model.safetensors")
    weights["model.encoder.embed_tokens.weight"] = weights["model.shared.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors")
    assert count_parameters(str(tmp_path)) == count_parameters(str(models["m2m100"]))


def test_a_dense_head_gives_the_embeddings_of_sentence_transformers(models: dict[str, Path]) -> None:
    from sentence_transformers import SentenceTransformer

    settings = settings_of(str(models["labse"]))
    assert (settings.pooling, settings.query_prefix, settings.document_prefix) == ("cls", "", "")
    encoder = Encoder.load_for_use(settings)
    assert encoder.dimensions == 24
    expected_ND = SentenceTransformer(str(models["labse"]), device="cpu").encode(TEXTS, show_progress_bar=False)
    np.testing.assert_allclose(encoder.encode(TEXTS, "query"), expected_ND, atol=1e-5)


def test_several_dense_layers_and_pickled_weights_are_read(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    first = Dense(32, 48, bias=False, activation_function=torch.nn.Identity())
    folder = make_labse(tmp_path / "two", tiny_model, first, Dense(48, 16))
    expected_ND = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, show_progress_bar=False)
    weights = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))  # the format before safetensors
    weights.unlink()
    encoder = Encoder.load_for_use(settings_of(str(folder)))
    np.testing.assert_allclose(encoder.encode(TEXTS, "query"), expected_ND, atol=1e-5)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["Transformer", "Pooling", "LayerNorm"], "has a LayerNorm module of sentence-transformers. Expected only Tr"),
        (["WordWeights", "Router"], "has a Router and a WordWeights module"),
        (["Transformer", "Dense", "Pooling"], "has the modules Transformer, Dense, Pooling of sentence-transformers"),
        (["Transformer", "Dense"], "has the modules Transformer, Dense of"),
    ],
)
def test_unsupported_modules_are_named(
    modules: list[str], message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(models["labse"], tmp_path / "model")
    content = [
        {"path": f"{index}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for index, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(content), encoding="utf-8")
    for load in (settings_of, lambda name: Encoder.load(ModelSection(name=name, pooling="cls"))):
        with pytest.raises(ConfigError, match=re.escape(message)):
            load(str(folder))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.ReLU"}, "activation_function = 'ReLU'"),
        ({"module_input_name": "token_embeddings"}, "module_input_name = 'token_embeddings'"),
        ({"use_residual": True}, "use_residual = True"),
    ],
)
def test_a_dense_layer_with_an_unsupported_setting_is_refused(
    values: dict[str, Any], message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(models["labse"], tmp_path / "model")
    change(folder / "2_Dense/config.json", **values)
    with pytest.raises(ConfigError, match=rf"has a dense layer \(2_Dense\) with {message}, which is not supported"):
        Encoder.load(settings_of(str(folder)))


@pytest.mark.parametrize("damage", ["no config", "no weights", "cut short", "other shape", "other width"])
def test_a_damaged_dense_layer_is_named(damage: str, models: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(models["labse"], tmp_path / "model")
    dense = folder / "2_Dense"
    if damage == "no config":
        (dense / "config.json").unlink()
    elif damage == "no weights":
        (dense / "model.safetensors").unlink()
    elif damage == "cut short":
        (dense / "model.safetensors").write_bytes((dense / "model.safetensors").read_bytes()[:50])
    else:
        change(dense / "config.json", out_features=99)
        if damage == "other width":
            change(dense / "config.json", in_features=16)
            weights = {"linear.weight": torch.zeros(99, 16), "linear.bias": torch.zeros(99)}
            save_file(weights, dense / "model.safetensors")
    with pytest.raises(DataError, match=r"its dense layer 2_Dense cannot be loaded: .*Copy or download the model"):
        Encoder.load(settings_of(str(folder)))


def test_settings_that_do_not_fit_the_model_are_refused(models: dict[str, Path]) -> None:
    for model, changes, message in (
        ("xlm-r", {"language_token": "drop"}, "has no language tokens. Remove the key"),
        ("m2m100", {"language_token": "fixed", "fixed_language": "tlh"}, "model.fixed_language = 'tlh' must be one"),
        ("labse", {"pooling": "mean"}, "was trained with another pooling. Set"),
        ("xlm-r", {"max_document_tokens": 128}, "model.max_document_tokens = 128, but .* has positions for 100 tokens"),
        ("xlm-r", {"max_query_tokens": 101}, "model.max_query_tokens = 101, but .* has positions for 100 tokens"),
    ):
        with pytest.raises(ConfigError, match=message):
            Encoder.load(section(models, model, **changes))


def test_texts_with_more_tokens_than_positions_are_truncated_and_counted(models: dict[str, Path]) -> None:
    settings = settings_of(str(models["xlm-r"]))
    assert (settings.max_query_tokens, settings.max_document_tokens) == (POSITIONS, POSITIONS)
    encoder = Encoder.load_for_use(settings)
    long = [" ".join(["word"] * count) for count in (10, POSITIONS - 10, POSITIONS, 1000)]
    embedding_ND = encoder.encode(long, "document")
    assert np.isfinite(embedding_ND).all()
    assert encoder.cut == {"document": 2}
    encoder.encode(long[-1:], "query")
    assert encoder.cut == {"document": 2, "query": 1}
    np.testing.assert_allclose(embedding_ND[2], embedding_ND[3], atol=1e-6)


def test_an_evaluation_encodes_each_text_in_its_language(models: dict[str, Path]) -> None:
    words = {"de": "wort", "en": "word", "th": "คำ"}
    task = RetrievalTask(
        name="made",
        languages=("de", "en", "th"),
        queries=tuple(Query(str(n), language, f"{word} {n}") for language, word in words.items() for n in range(3)),
        candidates=tuple(
            Candidate(language, n, 0, f"{word} {n}!") for language, word in words.items() for n in range(3)
        ),
        relevance={str(n): (n, n + 3, n + 6) for n in range(3)},
    )
    encoder = Encoder.load_for_use(settings_of(str(models["m2m100"])))
    score_QK = evaluate(encoder, task, model="m2m100").ranking.top_score_NK
    query_QD, candidate_CD = (
        np.concatenate([encoder.encode([one.text], kind, languages=[one.language]) for one in texts])
        for kind, texts in (("query", task.queries), ("document", task.candidates))
    )
    expected_QC = -np.sort(-(query_QD @ candidate_CD.T), axis=1)
    np.testing.assert_allclose(score_QK, expected_QC[:, : score_QK.shape[1]], atol=1e-5)


def test_an_unsupported_language_token_is_refused(models: dict[str, Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"language_token = 'keeps' is not supported\. Expected one of keep, fixed, drop"
    ):
        settings_of(str(models["m2m100"]), language_token="keeps")
    assert settings_of(str(models["m2m100"]), language_token="drop").language_token == "drop"


def test_other_encoder_decoder_models_are_refused(tmp_path: Path) -> None:
    from transformers import T5Config

    T5Config(vocab_size=10, d_model=8, d_ff=8, num_layers=1).save_pretrained(tmp_path)
    with pytest.raises(
        ConfigError, match=r"is a t5 model, which has an encoder and a decoder\. The only supported ones are"
    ):
        Encoder.load(ModelSection(name=str(tmp_path)))


def test_making_the_tiny_m2m100_twice_gives_the_same_files(models: dict[str, Path], tmp_path: Path) -> None:
    make_m2m100(tmp_path / "m2m100")
    for path in sorted(models["m2m100"].iterdir()):
        assert (tmp_path / "m2m100" / path.name).read_bytes() == path.read_bytes(), path.name
    assert sum(1 for _ in tiny_m2m100().demo_texts()) == 28160


@pytest.mark.slow
@pytest.mark.parametrize("model", ["labse", "m2m100"])
def test_zero_3_exports_the_model_that_a_single_process_trains(
    model: str, models: dict[str, Path], tiny_model: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    from sentence_transformers.sentence_transformer.modules import Dense

    # ZeRO-3 does not shard a parameter of fewer than 100,000 elements, so one layer has more.
    wide = make_labse(tmp_path / "labse", tiny_model, Dense(32, 4096)) if model == "labse" else models[model]
    config = make_config(models | {model: wide}, tiny_shards, tmp_path / "one", model)
    assert train(config).state == "done"
    (tmp_path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    done = launch(2, str(tmp_path / "config.toml"), f"run.folder={tmp_path / 'three'}", launch="zero3")
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "three")["state"] == "done"
    one, three = (Encoder.load(settings_of(str(tmp_path / run / "model"))) for run in ("one", "three"))
    assert len(one.head) == (model == "labse")
    for name, tensor in one.state_dict().items():
        if not name.endswith(("key.bias", "k_proj.bias")):  # their gradient is only rounding error
            # AdamW moves each element by up to 2e-3, and in a random direction if its gradient is almost zero.
            assert float((three.state_dict()[name] - tensor).abs().mean()) < 2e-5, name
    assert_card_gives_our_embeddings(tmp_path / "three/model", languages=model == "m2m100")
