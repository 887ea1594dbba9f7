"""End-to-end translation with small models: the output, the rows left out, resuming, and errors."""

import gzip
import hashlib
import json
import multiprocessing
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from shard_sources import write_jsonl
from tiny_backbones import number_pieces
from tiny_translators import ENGLISH, make_m2m100, make_marian, spell

from hbdist.data.build.build import build
from hbdist.errors import ConfigError, DataError
from hbdist.translation.families import Marian, load_family
from hbdist.translation.generate import Decoding, Translator, choose_device
from hbdist.translation.output import Folder
from hbdist.translation.translate import translate

DECODING = Decoding(beams=2, max_new_tokens=40, piece_tokens=16, batch_tokens=200)
ROWS = 20
PART_ROWS = 3
PARTS = 14

pytestmark = pytest.mark.filterwarnings("ignore:Recommended")  # Marian's tokenizer recommends a package


@pytest.fixture(scope="module")
def m2m100(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_m2m100(tmp_path_factory.mktemp("translate") / "m2m100")


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_marian(tmp_path_factory.mktemp("translate") / "marian", target=None, tokens=(">>deu<<", ">>swa<<"))


def sentence(start: int, words: int) -> str:
    return " ".join(ENGLISH[(start + 3 * step) % len(ENGLISH)] for step in range(words)) + "."


def row(number: int) -> dict[str, Any]:
    """Return a pair in made-up English; the document has two lines and more sentences than fit into one piece."""
    document = f"{sentence(number, 9)} {sentence(number + 1, 8)}\n{sentence(number + 2, 5)} {10 + number % 10}."
    values = {
        "id": f"p{number}",
        "query": f"{sentence(number, 4)[:-1]}",
        "document": document,
        "document_id": f"d{number}",
    }
    return values | ({"negatives": [sentence(number + 5, 6)]} if number % 3 == 0 else {})


def read(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def run_rank(source: Path, out: Path, model: Path, **options: Any) -> dict[str, Any] | None:
    defaults: dict[str, Any] = {"targets": ["th", "el"], "decoding": DECODING, "part_rows": PART_ROWS}
    return translate(source, out, model=str(model), **(defaults | options))


def run(source: Path, out: Path, model: Path, **options: Any) -> dict[str, Any]:
    report = run_rank(source, out, model, **options)
    assert report is not None
    return report


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def done(m2m100: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `ROWS` rows in Greek and Thai, made by one uninterrupted process; no test changes it."""
    folder = tmp_path_factory.mktemp("done")
    run(write_jsonl(folder / "made.jsonl", [row(number) for number in range(ROWS)]), folder / "out", m2m100)
    return folder


def test_each_language_has_all_ids_and_their_translations(done: Path) -> None:
    for language in ("el", "th"):
        rows = read(done / "out" / f"{language}.jsonl.gz")
        assert [one["id"] for one in rows] == [f"p{number}" for number in range(ROWS)]
        for number, one in enumerate(rows):
            assert one["query"] == spell(row(number)["query"], language)
            assert one["document"] == spell(row(number)["document"], language)
            assert one["document_id"] == f"d{number}"
            assert one.get("negatives", []) == [spell(text, language) for text in row(number).get("negatives", [])]


def test_each_row_records_its_model_and_decoding(done: Path, m2m100: Path) -> None:
    record = read(done / "out" / "th.jsonl.gz")[0]["translation"]
    assert record["model"] == str(m2m100)
    assert len(record["revision"]) == 64
    assert (record["query_from"], record["document_from"]) == ("en", "en")
    assert (record["beams"], record["max_new_tokens"], record["precision"]) == (2, 40, "float32")
    report = json.loads((done / "out" / "translation.json").read_text(encoding="utf-8"))
    assert report["state"] == "done"
    assert report["languages"]["th"]["pieces"] > report["languages"]["th"]["texts"]
    assert report["settings"]["language_check"] == {"el": "script", "th": "script"}
    assert not (done / "out" / "parts").exists()


def test_the_recipe_builds_all_cross_lingual_groups(done: Path, tmp_path: Path) -> None:
    manifest = build(done / "out" / "recipe.toml", tmp_path / "shards", workers=1)
    languages = ("el", "en", "th")
    assert {group.name for group in manifest.groups} == {f"made/{q}-{d}" for q in languages for d in languages}
    assert {group.rows for group in manifest.groups} == {ROWS}


def test_after_sigkill_another_number_of_ranks_completes_the_missing_parts_with_the_same_bytes(
    done: Path, m2m100: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, parts = tmp_path / "out", tmp_path / "out" / "parts"
    process = multiprocessing.get_context("spawn").Process(target=run_rank, args=(done / "made.jsonl", out, m2m100))
    with monkeypatch.context() as patch:
        for name, value in {"RANK": "1", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        process.start()
    try:
        deadline = time.monotonic() + 120
        while not any(parts.glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        process.kill()
        process.join()
    before = {path: path.stat().st_mtime_ns for path in parts.glob("*.json")}
    assert 0 < len(before) < PARTS // 2
    assert all(json.loads(path.read_text(encoding="utf-8"))["rows"] for path in before)
    assert json.loads((out / "translation.json").read_text(encoding="utf-8"))["state"] == "underway"
    seen: list[tuple[int, int]] = []
    run(done / "made.jsonl", out, m2m100, progress=lambda done, total, _: seen.append((done, total)))
    assert len(seen) == PARTS - len(before)
    assert seen[-1] == (PARTS, PARTS)
    assert digests(out) == digests(done / "out")


def test_ranks_share_the_parts_and_the_last_one_merges_them(
    done: Path, m2m100: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shares = []
    for rank in (1, 0):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(rank))
        seen: list[int] = []
        report = run_rank(done / "made.jsonl", out, m2m100, progress=lambda _, total, __, seen=seen: seen.append(total))
        shares.append(seen)
        assert (report is None) == (rank == 1)
    assert shares == [[PARTS // 2] * (PARTS // 2)] * 2
    assert digests(out) == digests(done / "out")


def test_a_rank_whose_parts_another_rank_has_merged_writes_nothing(done: Path) -> None:
    report = json.loads((done / "out" / "translation.json").read_text(encoding="utf-8"))
    before = digests(done / "out")
    folder = Folder(done / "out", report["settings"])
    assert folder.finish(PARTS // 2, iter(()), {"rows": ROWS}) == report
    assert digests(done / "out") == before


def test_a_rank_outside_the_world_is_refused(
    done: Path, m2m100: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="RANK=2 and WORLD_SIZE=2 do not fit together"):
        run(done / "made.jsonl", tmp_path / "out", m2m100)


def test_a_second_start_translates_nothing(done: Path, m2m100: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "out").rglob("*")}
    report = run(done / "made.jsonl", done / "out", m2m100, targets=["el", "th"], progress=fail)
    assert report["languages"]["el"]["rows"] == ROWS
    assert {path: path.stat().st_mtime_ns for path in (done / "out").rglob("*")} == before


def fail(*_: object) -> None:
    pytest.fail("a part was translated")


def test_a_text_that_fails_a_gate_is_left_out_of_that_language_and_counted(m2m100: Path, tmp_path: Path) -> None:
    long = " ".join(ENGLISH[:18])  # 20 tokens with both special ones, without a sentence end
    rows = [
        {"id": 1, "query": "base dagi", "document": "gulo 12 kami."},
        {"id": 2, "query": "19", "document": sentence(2, 5)},
        {"id": 3, "query": "base dagi", "document": "dora dora dora dora dora dora."},
        {"id": 4, "query": "base", "document": long, "negatives": ["13", " ", "fasu gata"]},
        {"id": 5, "query": "", "document": "base"},
        {"id": 1, "query": "gata", "document": "base", "extra": 1},
        {"query": "lipa", "document": "ruda pori"},
    ]
    report = run(write_jsonl(tmp_path / "made.jsonl", rows), tmp_path / "out", m2m100, targets=["el"])
    assert report["source"] == {
        "rows": 5,
        "left_out": {"empty negative": 1, "empty query": 1, "repeated id": 1},
        "ignored_fields": {"extra": 1},
    }
    assert report["languages"]["el"]["left_out"] == {"negative: copied": 1, "query: copied": 1}
    assert report["languages"]["el"]["sentences_broken"] == 1
    greek = read(tmp_path / "out" / "el.jsonl.gz")
    assert [one["id"] for one in greek] == ["1", "3", "4", "7"]
    assert greek[2]["document"] == spell(long, "el")
    assert greek[2]["negatives"] == [spell("fasu gata", "el")]


def test_an_unfinished_translation_is_left_out(m2m100: Path, tmp_path: Path) -> None:
    queries = {"long": sentence(1, 9), "short": "dora"}
    rows = [{"id": name, "query": query, "document": "base"} for name, query in queries.items()]
    decoding = Decoding(beams=1, max_new_tokens=6, piece_tokens=16, batch_tokens=200)
    report = run(
        write_jsonl(tmp_path / "made.jsonl", rows), tmp_path / "out", m2m100, targets=["th"], decoding=decoding
    )
    assert report["languages"]["th"]["left_out"] == {"query: unfinished": 1}
    assert [one["id"] for one in read(tmp_path / "out" / "th.jsonl.gz")] == ["short"]


def test_each_row_may_name_its_own_languages(m2m100: Path, tmp_path: Path) -> None:
    rows = [
        {"id": "a", "query": "βασε", "document": "dora feni", "query_lang": "el"},
        {"id": "b", "query": "βασε", "document": "δορα", "lang": "el"},
        {"id": "c", "query": "base", "document": "dora"},
    ]
    report = run(write_jsonl(tmp_path / "made.jsonl", rows), tmp_path / "out", m2m100, targets=["el"])
    greek = {one["id"]: one for one in read(tmp_path / "out" / "el.jsonl.gz")}
    assert [one["query"] for one in greek.values()] == ["βασε"] * 3
    assert [one["document"] for one in greek.values()] == ["δορα φενι", "δορα", "δορα"]
    assert greek["a"]["translation"]["query_from"] == "el"
    assert greek["a"]["translation"]["document_from"] == "en"
    assert [one["id"] for one in read(tmp_path / "out" / "en.jsonl.gz")] == ["c"]
    assert report["languages"]["en"] == {"rows": 1, "left_out": {"not in this language": 2}}


def test_a_missing_or_malformed_source_is_refused(m2m100: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.jsonl is not a file; expected JSON lines"):
        run(tmp_path / "gone.jsonl", tmp_path / "out", m2m100)
    path = tmp_path / "broken.jsonl"
    path.write_text('{"query": "a", "document": "b"}\nquery\tdocument\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"line 2: .*; expected an object with query and document"):
        run(path, tmp_path / "out", m2m100)
    path.write_text('{"query": "a", "document": "b", "lang": "zh-Hant"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1: 'zh-Hant' is not a canonical language code"):
        run(path, tmp_path / "out", m2m100)
    path.write_text('{"query": "", "document": "b"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="has no row to translate"):
        run(path, tmp_path / "out", m2m100)
    assert not (tmp_path / "out").exists()


def test_a_language_that_the_model_does_not_support_is_refused(done: Path, m2m100: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the language zh_Hant; it supports 100 languages, the closest by name zh,"):
        run(done / "made.jsonl", tmp_path / "out", m2m100, targets=["zh_Hant"])
    with pytest.raises(ConfigError, match="has one name for both en and el, el"):
        run(done / "made.jsonl", tmp_path / "out", m2m100, targets=["el"], codes={"en": "el"})
    with pytest.raises(ConfigError, match="'sw-KE' is not a canonical language code"):
        run(done / "made.jsonl", tmp_path / "out", m2m100, targets=["sw-KE"])


def test_the_source_language_and_repeated_languages_are_refused_as_targets(
    done: Path, m2m100: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"--to contains en, the language of the source \(--from\)"):
        run(done / "made.jsonl", tmp_path / "out", m2m100, targets=["el", "en"])
    with pytest.raises(ConfigError, match="expected languages, each once"):
        run(done / "made.jsonl", tmp_path / "out", m2m100, targets=["el", "el"])


def test_a_model_that_does_not_translate_or_exist_is_refused(done: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a bert model; expected a translation model: M2M100, NLLB or Marian"):
        run(done / "made.jsonl", tmp_path / "out", tiny_model)
    with pytest.raises(DataError, match="cannot be loaded"):
        run(done / "made.jsonl", tmp_path / "out", tmp_path / "nothing")


def test_code_that_comes_with_a_model_is_not_run(done: Path, m2m100: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(m2m100, tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "foreign.Config"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Config: pass\n")
    with pytest.raises(DataError, match="cannot be loaded"):
        run(done / "made.jsonl", tmp_path / "out", model)
    assert not (tmp_path / "ran").exists()


def test_pieces_longer_than_the_models_positions_are_refused(done: Path, m2m100: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--piece-tokens is too large: .* has 64 positions"):
        run(done / "made.jsonl", tmp_path / "out", m2m100, decoding=Decoding(piece_tokens=65, max_new_tokens=40))


def test_a_folder_of_another_source_model_or_settings_is_refused(done: Path, m2m100: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="made with other settings: part_rows was 3, now 8"):
        run(done / "made.jsonl", done / "out", m2m100, part_rows=8)
    with pytest.raises(ConfigError, match=r'languages was \["en", "el", "th"\], now \["en", "el"\]'):
        run(done / "made.jsonl", done / "out", m2m100, targets=["el"])
    with pytest.raises(ConfigError, match="made with other settings: source_sha256 was"):
        run(write_jsonl(tmp_path / "made.jsonl", [row(1)]), done / "out", m2m100)
    with pytest.raises(ConfigError, match=r"decoding\.beams was 2, now 1"):
        run(done / "made.jsonl", done / "out", m2m100, decoding=replace(DECODING, beams=1))
    other = tmp_path / "other"
    shutil.copytree(m2m100, other)
    (other / "generation_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"models\.el\.model was"):
        run(done / "made.jsonl", done / "out", other)
    with pytest.raises(ConfigError, match=r"already exists without translation\.json"):
        run(done / "made.jsonl", done, m2m100)


def test_marian_translates_into_the_language_that_a_token_chooses(marian: Path, tmp_path: Path) -> None:
    family = load_family(str(marian), codes={})
    assert isinstance(family, Marian)
    family.check(source="en", target="sw")
    assert family.tokenizer.convert_ids_to_tokens(family.ids(["base dora."], source="en", target="sw")[0]) == [
        ">>swa<<", "▁base", "▁dora", ".", "</s>",
    ]  # fmt: skip
    translator = Translator.load(family, Decoding(beams=2, max_new_tokens=12, piece_tokens=8, batch_tokens=64))
    texts = ["base dora.", "gulo kami keso lipa. base bipo bube dagi."]
    first, second = translator.translate(texts, source="en", target="de")
    assert (first.pieces, second.pieces) == (1, 2)
    assert not first.finished  # the weights are random, and nothing forces an end
    assert Counter(first.text.split()).total() >= 1
    with pytest.raises(
        ConfigError, match="does not support the language th; it supports 2 languages, the closest by name"
    ):
        family.check(source="en", target="th")
    with pytest.raises(ConfigError, match="translates from en, not from fr"):
        family.check(source="fr", target="de")


def test_nllb_gets_flores_codes(tmp_path: Path) -> None:
    from transformers import M2M100Config, NllbTokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", *"abde"]
    NllbTokenizer(vocab=number_pieces(pieces), merges=[]).save_pretrained(tmp_path)
    M2M100Config(max_position_embeddings=64).save_pretrained(tmp_path)
    family = load_family(str(tmp_path), codes={"gsw": "deu_Latn"})
    token = family.tokenizer.convert_ids_to_tokens
    assert token(family.ids(["abe"], source="en", target="sw")[0]) == ["eng_Latn", "▁", "a", "b", "e", "</s>"]
    targets = ["sw", "zh_Hant", "ace_Arab", "gsw"]
    assert [token(family.first_token(one)) for one in targets] == ["swh_Latn", "zho_Hant", "ace_Arab", "deu_Latn"]
    with pytest.raises(ConfigError, match=r"does not support the language tlh; .*--code tlh=NAME"):
        family.check(source="en", target="tlh")


def test_the_target_language_is_filled_into_the_name_of_an_opus_model(tmp_path: Path) -> None:
    for target in ("de", "sw"):
        make_marian(tmp_path / f"opus-en-{target}", target=target)
    source = write_jsonl(tmp_path / "made.jsonl", [{"id": "a", "query": "base", "document": "dora feni"}])
    decoding = Decoding(beams=1, max_new_tokens=8, piece_tokens=16, batch_tokens=64)
    report = run(source, tmp_path / "out", tmp_path / "opus-en-{to}", targets=["sw", "de"], decoding=decoding)
    names = [Path(one["model"]).name for one in report["settings"]["models"].values()]
    assert names == ["opus-en-de", "opus-en-sw"]
    assert [sum(report["languages"][one]["left_out"].values()) for one in ("de", "sw")] == [1, 1]
    with pytest.raises(ConfigError, match=r"translates into de, not into sw\. Opus-MT has a model for each pair"):
        run(source, tmp_path / "other", tmp_path / "opus-en-de", targets=["sw"], decoding=decoding)


def test_each_rank_of_srun_translates_on_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setenv("SLURM_LOCALID", "3")
    assert choose_device() == "cuda:3"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device() == "cuda:1"
