"""Model folders as they are published, copied and broken: honoured, or refused with the file and the remedy."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import ROOT, outcome
from launching import train as launch
from safetensors.torch import load_file
from tiny_backbones import make_unused

from hbdist.config.config import Config
from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError, DataError, HbdistError
from hbdist.models.encoder import Encoder, settings_of
from hbdist.train import train

TEXTS = ["A Short Text", "ÄPFEL und BIRNEN", "long " * 60, "CAPITALS " * 20, ""]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture(scope="module")
def published(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a sentence-transformers model as that library writes it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    folder = tmp_path_factory.mktemp("published") / "model"
    parts = [modules.Transformer(str(tiny_model)), modules.Pooling(32, pooling_mode="mean")]
    model = SentenceTransformer(modules=parts, device="cpu", prompts={"query": "ask: ", "document": "say: "})
    model.save(str(folder))
    return folder


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "model"))


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(content | values), encoding="utf-8")


def refusal(folder: Path, **overrides: Any) -> str:
    """Return the message with which a model is refused, the same for training and for evaluation."""
    with pytest.raises(HbdistError) as caught:
        Encoder.load(ModelSection(name=str(folder), **overrides))
    with pytest.raises(HbdistError) as again:
        Encoder.load_for_use(settings_of(str(folder), **overrides))
    assert str(caught.value) == str(again.value)
    return str(caught.value)


def assert_as_sentence_transformers(folder: Path) -> None:
    """Check that a model gives the vectors that sentence-transformers gives, for queries and documents."""
    from sentence_transformers import SentenceTransformer

    theirs, ours = SentenceTransformer(str(folder), device="cpu"), Encoder.load_for_use(settings_of(str(folder)))
    options: dict[str, Any] = {"normalize_embeddings": True, "batch_size": 1}
    np.testing.assert_allclose(ours.encode(TEXTS, "query"), theirs.encode_query(TEXTS, **options), atol=1e-5)
    np.testing.assert_allclose(ours.encode(TEXTS, "document"), theirs.encode_document(TEXTS, **options), atol=1e-5)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("sentence_bert_config.json", {}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("sentence_bert_config.json", {"max_seq_length": 16}),
        ("sentence_bert_config.json", {"query_length": 8, "document_length": 24}),
        ("tokenizer_config.json", {"model_max_length": 20}),
        ("config_sentence_transformers.json", {"truncate_dim": 12}),
        ("config_sentence_transformers.json", {"prompts": {"x": "mine: "}, "default_prompt_name": "x"}),
        ("config_sentence_transformers.json", {"prompts": {"query": "q: ", "document": "d: ", "x": "other: "}}),
    ],
)
def test_what_a_sentence_transformers_folder_says_is_honoured(file: str, values: dict[str, Any], folder: Path) -> None:
    before = Encoder.load_for_use(settings_of(str(folder))).encode(TEXTS, "document")
    change(folder / file, **values)
    assert_as_sentence_transformers(folder)
    after = Encoder.load_for_use(settings_of(str(folder))).encode(TEXTS, "document")
    assert not values or before.shape != after.shape or not np.allclose(before, after, atol=1e-3)


def test_an_exported_model_is_still_lower_cased_and_truncated(folder: Path, tiny_shards: Path, tmp_path: Path) -> None:
    change(folder / "sentence_bert_config.json", do_lower_case=True)
    change(folder / "config_sentence_transformers.json", truncate_dim=12)
    assert train(config(folder, tiny_shards, tmp_path / "run")).state == "done"
    exported = tmp_path / "run" / "model"
    assert Encoder.load_for_use(settings_of(str(exported))).dimensions == 12
    assert_as_sentence_transformers(exported)
    lower = Encoder.load_for_use(settings_of(str(exported))).encode(["ABC", "abc"], "query")
    np.testing.assert_array_equal(lower[0], lower[1])


def test_a_prefix_that_is_not_pooled_is_refused_and_without_a_prefix_it_makes_no_difference(folder: Path) -> None:
    change(folder / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(ConfigError, match=r"include_prompt = false.*'ask: ' and 'say: '. Set model.query_prefix"):
        Encoder.load_for_use(settings_of(str(folder)))
    assert "include_prompt = false" in refusal(folder, query_prefix="", document_prefix="x")
    change(folder / "config_sentence_transformers.json", prompts={})
    assert_as_sentence_transformers(folder)


@pytest.mark.parametrize("function", ["dot", "euclidean"])
def test_another_similarity_is_refused_in_evaluation_and_said_in_training(function: str, folder: Path) -> None:
    change(folder / "config_sentence_transformers.json", similarity_fn_name=function)
    with pytest.raises(ConfigError, match=rf"are not normalised by {function} \(similarity_fn_name\)"):
        Encoder.load_for_use(settings_of(str(folder)))
    (note,) = Encoder.load(ModelSection(name=str(folder))).notes
    assert f"made for {function}; here its vectors are compared by cosine" in note
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    normalize = {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}
    (folder / "modules.json").write_text(json.dumps([*modules, normalize]), encoding="utf-8")
    assert Encoder.load_for_use(settings_of(str(folder))).notes == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"transformer_task": "fill-mask"}, "has transformer_task = 'fill-mask' in the settings"),
        ({"query_expansion": {"length": 32}}, "has query_expansion = {'length': 32} in the settings"),
        ({"processing_kwargs": {"text": {"padding": "max_length"}}}, "has processing_kwargs = "),
    ],
)
def test_unsupported_settings_of_a_transformer_module_are_refused(
    values: dict[str, Any], message: str, folder: Path
) -> None:
    change(folder / "sentence_bert_config.json", **values)
    assert message in refusal(folder)


def test_a_module_of_another_package_is_refused(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[0]["type"] = "custom_st.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    assert "has a custom_st.Transformer module of sentence-transformers. Expected only" in refusal(folder)


@pytest.mark.parametrize("file", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_the_layout_of_earlier_sentence_transformers_is_followed(file: str, folder: Path) -> None:
    expected = Encoder.load_for_use(settings_of(str(folder), max_tokens=16)).encode(TEXTS, "document")
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in [path for path in folder.iterdir() if path.is_file()]:
        if path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    (inner / "sentence_bert_config.json").rename(inner / file)
    change(inner / file, max_seq_length=16)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[0] |= {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    assert_as_sentence_transformers(folder)
    found = Encoder.load_for_use(settings_of(str(folder))).encode(TEXTS, "document")
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_folder_without_a_tokenizer_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    assert f"model.name = {str(folder)!r} has no tokenizer: found none of tokenizer.json, vocab.txt." in refusal(folder)


def test_a_tokenizer_with_more_pieces_than_embeddings_is_refused_before_weights_are_read(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    change(folder / "config.json", vocab_size=75_999)
    (folder / "model.safetensors").write_bytes(b"")
    assert "has a tokenizer with 76,000 pieces, but only 75,999 embeddings" in refusal(folder)


def test_the_embeddings_themselves_are_counted_too(tmp_path: Path) -> None:
    # Of XLM the config has n_words, and vocab_size only by another name.
    folder = make_unused("xlm", tmp_path / "xlm", pieces=70_000)
    assert "has a tokenizer with 76,000 pieces, but only 70,000 embeddings" in refusal(folder)


@pytest.mark.parametrize(
    "file", ["pytorch_model.bin", "model.safetensors", "tokenizer.json", "config.json", "1_Pooling/config.json"]
)
def test_a_pointer_of_git_lfs_is_named(file: str, folder: Path) -> None:
    if file == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / file).write_text(POINTER, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        Encoder.load(ModelSection(name=str(folder)))
    where = folder / file
    if file.endswith("config.json"):  # read before, for the settings in it
        assert f"{where} is not JSON" in str(caught.value) or str(where) in str(caught.value)
    else:
        assert f"{where} is a pointer of git-lfs" in str(caught.value)


JSON_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "sentence_bert_config.json"),
    *("1_Pooling/config.json", "config_sentence_transformers.json", "hbdist.json"),
)


@pytest.mark.parametrize(
    ("file", "damage"),
    [*((file, "cut") for file in JSON_FILES), *(("config.json", damage) for damage in ("array", "bytes", "deep"))],
)
def test_a_damaged_json_file_is_named(file: str, damage: str, folder: Path) -> None:
    content = (folder / file).read_bytes() if (folder / file).is_file() else b'{"language_token": "keep"}'
    damaged = {"cut": content[: len(content) // 2], "array": b"[1]", "bytes": b"\xff\xfe{}", "deep": b"[" * 100_000}
    (folder / file).write_bytes(damaged[damage])
    assert f"{file} is {'damaged' if damage == 'array' else 'not JSON'}" in refusal(folder)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config_sentence_transformers.json", {"prompts": ["a"]}, "prompts: "),
        ("config_sentence_transformers.json", {"prompts": {"query": 1}}, "prompts.query: "),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim: "),
        ("sentence_bert_config.json", {"max_seq_length": "many"}, "max_seq_length: "),
        ("1_Pooling/config.json", {"include_prompt": "perhaps"}, "include_prompt: "),
        ("hbdist.json", {"fixed_language": 3}, "fixed_language: "),
    ],
)
def test_a_key_of_another_type_is_named(file: str, values: dict[str, Any], message: str, folder: Path) -> None:
    change(folder / file, **values)
    assert f"{file} is damaged: {message}" in refusal(folder)


@pytest.mark.parametrize(
    ("values", "prefixes"),
    [({"prompts": None}, ("", "")), ({"prompts": {"query": None, "passage": "p: "}}, ("", "p: "))],
)
def test_null_is_the_same_as_nothing(values: dict[str, Any], prefixes: tuple[str, str], folder: Path) -> None:
    change(folder / "config_sentence_transformers.json", **values, similarity_fn_name=None)
    change(folder / "sentence_bert_config.json", max_seq_length=None, do_lower_case=None)
    settings = settings_of(str(folder))
    assert (settings.query_prefix, settings.document_prefix) == prefixes
    Encoder.load_for_use(settings)


def test_an_adapter_without_its_model_is_refused(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(DataError, match="it holds an adapter"):
        Encoder.load(ModelSection(name=str(folder)))


# A model with code of its own: a BERT by another name, whose import leaves a mark.
CODE = """
import os
from transformers import BertConfig, BertModel

open(os.environ["MARK"], "w").close()

class OwnConfig(BertConfig):
    model_type = "own_bert"

class OwnModel(BertModel):
    config_class = OwnConfig
"""
MAPPED = {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"}


@pytest.mark.parametrize("kind", ["unknown to transformers", "known to transformers"])
def test_code_of_a_model_is_never_run_and_nobody_is_asked(
    kind: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    model_type = {"model_type": "own_bert"} if kind == "unknown to transformers" else {}
    change(folder / "config.json", auto_map=MAPPED, **model_type)
    (folder / "own.py").write_text(CODE, encoding="utf-8")
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("it asked"))
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    assert "needs code of its own (auto_map in config.json), which hbdist does not run." in refusal(folder)
    assert not (tmp_path / "mark").exists()


def test_code_of_a_tokenizer_is_not_run_either(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]})
    assert "needs code of its own (auto_map in tokenizer_config.json)" in refusal(folder)


def test_code_that_is_trusted_is_run_and_that_is_recorded(
    tiny_model: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    change(folder / "config.json", auto_map=MAPPED, model_type="own_bert")
    (folder / "own.py").write_text(CODE, encoding="utf-8")
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    run = tmp_path / "run"
    assert train(config(folder, tiny_shards, run, trust_remote_code=True)).state == "done"
    assert (tmp_path / "mark").exists()
    assert "trust_remote_code = true" in (run / "config.toml").read_text(encoding="utf-8")
    assert "code that came with" in (run / "model" / "README.md").read_text(encoding="utf-8")
    assert "needs code of its own" in refusal(run / "model")
    trusted = Encoder.load_for_use(settings_of(str(run / "model"), trust_remote_code=True))
    assert trusted.encode(TEXTS, "query").shape == (len(TEXTS), 32)


def config(model: Path, shards: Path, folder: Path, **changes: Any) -> Config:
    values = {
        "steps": 2,
        "run": {"folder": str(folder)},
        "data": {"shards": str(shards)},
        "model": {"name": str(model), "max_document_tokens": 64, **changes},
        "batch": {"size": 8},
        "checkpoint": {"every": 1},
        "loss": {"chunk_tokens": 200},
    }
    return Config.check(values, source="test")


@pytest.mark.parametrize(
    ("kind", "unused"), [("luke", "w2e_query"), ("xlm", "lang_embeddings"), ("longformer", "query_global")]
)
def test_parameters_that_a_vector_does_not_depend_on_are_kept_as_they_are_and_named(
    kind: str, unused: str, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, run = make_unused(kind, tmp_path / kind), tmp_path / "run"
    assert train(config(folder, tiny_shards, run)).state == "done"
    assert "that a text's vector does not depend on: they are kept as they are" in capsys.readouterr().out
    before, after = load_file(folder / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    kept = after.keys() - changed
    assert any(unused in name for name in kept)
    assert not any(unused in name for name in changed)
    assert len(changed) > len(kept)
    state = torch.load(run / "checkpoints/000000002/state.pt", weights_only=True)
    assert {f"encoder.backbone.{name}" for name in after} <= state["model"].keys()
    assert not any(unused in name for name in state["moments"])
    Encoder.load_for_use(settings_of(str(run / "model")))


def test_a_model_whose_parameters_are_all_used_has_nothing_to_say(tiny_model: Path) -> None:
    encoder = Encoder.load(ModelSection(name=str(tiny_model)))
    assert encoder.notes == []
    assert all(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["two", "zero1", "zero2", "zero3"])
def test_unused_parameters_train_on_two_processes(strategy: str, tiny_shards: Path, tmp_path: Path) -> None:
    folder = make_unused("luke", tmp_path / "luke")
    file = tmp_path / "config.toml"
    file.write_text(config(folder, tiny_shards, tmp_path / "run").to_toml(), encoding="utf-8")
    done = launch(2, str(file), launch=strategy)
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "run")["state"] == "done"
    before = load_file(folder / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {name for name in before if not name.startswith("pooler.")} == after.keys()
    for name in (name for name in after if "w2e_query" in name):
        assert torch.equal(after[name], before[name])


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("models/me5-smal-demo", "Did you mean models/me5-small-demo?"),
        ("runs/some/where/model", "there is no such folder."),
        ("no-such-model", "the hub cannot be reached"),
    ],
)
def test_a_mistyped_model_is_settled_by_one_look_without_a_network(name: str, remedy: str, tmp_path: Path) -> None:
    # Nothing listens there. Without the look, transformers would ask again for each file, for minutes.
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:1", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    program = "import sys; from hbdist.models.encoder import settings_of; settings_of(sys.argv[1])"
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, name], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert "hbdist.errors.DataError: model.name = " in done.stderr, done.stderr
    assert remedy in done.stderr
    assert "Give the name of a model on the Hugging Face hub, or the path of a folder" in done.stderr
    assert time.monotonic() - started < 60
