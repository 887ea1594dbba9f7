"""Rows that are left out on purpose: duplicates, texts of evaluation sets, wrong lengths, pairs held out for validation."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from built_folders import contents, groups, ids, one_file, recipe
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_sources import parallel, row, write_jsonl

from hbdist.data.build.build import build
from hbdist.data.build.decontamination import ContaminationFilter
from hbdist.data.build.recipe import Decontaminate
from hbdist.data.build.statistics import Statistics
from hbdist.data.build.text_keys import normalise, split_words
from hbdist.data.shards.manifest import Manifest
from hbdist.errors import ConfigError, DataError

Build = Callable[..., Manifest]
PASSAGE = " ".join(f"word{n}" for n in range(30))
THAI = "".join(chr(0x0E01 + (7 * n) % 46) for n in range(80))


# -- duplicates


def test_pairs_that_differ_in_case_and_spaces_are_duplicates_if_the_recipe_says_so(tmp_path: Path) -> None:
    rows = [
        {"query": "Who?", "document": "the  Cat"},
        {"query": "who?", "document": "THE\u00a0cat "},
        {"query": "who", "document": "the cat"},
    ]
    assert build(one_file(tmp_path, rows), tmp_path / "exact", workers=1).rows == 3
    path = recipe(
        tmp_path, '[deduplicate]\ntext = "normalised"\n' + one_file(tmp_path, rows).read_text(encoding="utf-8")
    )
    manifest = build(path, tmp_path / "normalised", workers=1)
    assert [pair.query for pair in groups(manifest)["en-en"]] == ["Who?", "who"], "the first, and punctuation counts"
    assert manifest.dropped == {"d": {"identical pair": 1}}


@given(text=st.text(max_size=20))
def test_normalisation_is_idempotent(text: str) -> None:
    assert normalise(f"  {normalise(text)}\t") == normalise(text)
    assert split_words(normalise(text)) == split_words(text)


def test_pairs_of_an_earlier_dataset_are_left_out_if_the_recipe_says_so(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [row(n, "en") for n in range(4)])
    write_jsonl(tmp_path / "b.jsonl", [row(n, "en", id=f"other{n}") for n in range(2, 7)])
    sets = "".join(f'[[dataset]]\nname="{n}"\nreader="jsonl"\nfiles.en="{n}.jsonl"\n' for n in "ab")
    assert build(recipe(tmp_path, sets), tmp_path / "apart", workers=1).rows == 9
    path = recipe(tmp_path, "[deduplicate]\nacross_datasets = true\n" + sets)
    manifest = build(path, tmp_path / "across", workers=1)
    assert {group.name: group.rows for group in manifest.groups} == {"a/en-en": 4, "b/en-en": 3}
    assert manifest.dropped == {"a": {}, "b": {"in an earlier dataset": 2}}


# -- contamination


def decontaminated(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Manifest:
    squad = {"data": [{"paragraphs": [{"context": PASSAGE, "qas": [{"question": "What is the first Word?"}]}]}]}
    (folder / "squad.json.gz").write_bytes(gzip.compress(json.dumps(squad).encode()))
    write_jsonl(folder / "lines.jsonl", [{"question": "ทำไม", "passage": THAI}, {"passage": "A short one."}])
    keys = "".join(f"{key} = {value}\n" for key, value in settings.items())
    head = f'[decontaminate]\nfiles = ["squad.json.gz", "lines.jsonl"]\n{keys}'
    return build(recipe(folder, head + one_file(folder, rows).read_text()), folder / "out", workers=1)


def test_questions_and_passages_of_evaluation_sets_are_left_out_and_counted(tmp_path: Path) -> None:
    words = PASSAGE.split()
    rows = [
        row(0, "en", query="what is  the first WORD"),
        row(1, "en", document="So: " + ", ".join(words[5:18]).upper() + "!"),
        row(2, "en", document=" ".join(words[5:17])),
        row(3, "en", document="before " + THAI[10:50]),
        row(4, "en", document="before " + THAI[10:49]),
        row(5, "en", document="a short one"),
        row(6, "en", document="not a short one"),
        row(7, "en", query=" ".join(words[:13])),
        row(8, "en", negatives=["fine", " ".join(words[10:25])]),
    ]
    manifest = decontaminated(tmp_path, rows)
    found = groups(manifest)["en-en"]
    assert [pair.id for pair in found] == ["i2", "i4", "i6", "i8"]
    assert found[-1].negatives == ("fine",)
    assert manifest.dropped["d"] == {
        "document in an evaluation set": 3,
        "negative in an evaluation set": 1,
        "query in an evaluation set": 2,
    }


def test_the_length_of_a_shared_run_is_configurable(tmp_path: Path) -> None:
    rows = [row(0, "en", document=" ".join(PASSAGE.split()[:6])), row(1, "en", document=THAI[:20]), row(2, "en")]
    assert decontaminated(tmp_path, rows).rows == 3
    assert decontaminated(tmp_path, rows, words=6, characters=20).rows == 1


def test_contamination_in_one_language_leaves_the_row_out_in_all(tmp_path: Path) -> None:
    rows = {language: [row(n, language) for n in range(4)] for language in ("en", "de", "ar")}
    rows["en"][2]["document"] = PASSAGE
    write_jsonl(tmp_path / "test.jsonl", [{"passage": PASSAGE}])
    path = parallel(tmp_path, rows)
    path.write_text('decontaminate.files = ["test.jsonl"]\n' + path.read_text())
    manifest = build(path, tmp_path / "out", workers=2)
    assert set(map(tuple, ids(manifest).values())) == {("i0", "i1", "i3")}
    assert manifest.dropped == {"p": {"document in an evaluation set": 1, "translation in an evaluation set": 2}}


@settings(max_examples=40)
@given(
    passage=st.lists(st.sampled_from("abcde"), min_size=6, max_size=14),
    text=st.lists(st.sampled_from("abcde"), max_size=14),
)
def test_shared_runs_are_those_of_a_plain_search(
    passage: list[str], text: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = write_jsonl(tmp_path_factory.mktemp("runs") / "test.jsonl", [{"passage": " ".join(passage)}])
    contamination = ContaminationFilter(Decontaminate.model_construct(files=(file,), words=6, characters=10))
    plain = any(
        passage[i : i + 6] == text[j : j + 6] for i in range(len(passage) - 5) for j in range(max(0, len(text) - 5))
    )
    assert contamination.matches(" ".join(text)) == plain


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.jsonl",
            '{"id": 1}',
            r"t\.jsonl, line 1: found no text among id; expected .* some of query, question",
        ),
        ("t.jsonl", "{", r"t\.jsonl, line 1: .*expected an object with a question or a passage"),
        ("t.json", "{}", r"t\.json is not SQuAD JSON: data is missing.*expected SQuAD's JSON"),
    ],
)
def test_an_unreadable_evaluation_set_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    path = one_file(tmp_path, [row(1, "en")])
    path.write_text(f'[decontaminate]\nfiles = ["{name}"]\n' + path.read_text())
    with pytest.raises(DataError, match=message):
        build(path, tmp_path / "out", workers=1)


def test_a_missing_evaluation_set_is_named(tmp_path: Path) -> None:
    path = one_file(tmp_path, [row(1, "en")])
    path.write_text('[decontaminate]\nfiles = ["gone.json"]\n' + path.read_text())
    with pytest.raises(ConfigError, match=r"gone\.json; expected files that exist"):
        build(path, tmp_path / "out", workers=1)


# -- lengths


def test_texts_outside_the_limits_are_left_out_and_counted(tmp_path: Path) -> None:
    lengths = [(2, 5), (3, 5), (6, 5), (7, 5), (3, 4), (3, 9), (3, 10)]
    rows = [{"query": str(n) + "q" * (q - 1), "document": "d" * d} for n, (q, d) in enumerate(lengths)]
    head = "[limits]\nquery_characters = [3, 6]\ndocument_characters = [5, 9]\n"
    path = recipe(tmp_path, head + one_file(tmp_path, rows).read_text())
    manifest = build(path, tmp_path / "out", workers=1)
    assert [pair.id for pair in groups(manifest)["en-en"]] == ["2", "3", "6"]
    reasons = ("document too long", "document too short", "query too long", "query too short")
    assert manifest.dropped == {"d": dict.fromkeys(reasons, 1)}


# -- validation


def test_the_same_ids_are_held_out_in_all_languages_and_never_trained_on(tmp_path: Path) -> None:
    rows = {language: [row(n, language) for n in range(300)] for language in ("en", "de", "ar")}
    manifest = build(parallel(tmp_path, rows, validation=0.1, shard_rows=50), tmp_path / "out", workers=2)
    held_out = Manifest.load(manifest.root / "validation")
    training, validation = ids(manifest), ids(held_out)
    assert set(training) == set(validation)
    assert len({tuple(found) for found in validation.values()}) == 1
    assert 15 < len(validation["en-de"]) < 45
    for pair, found in training.items():
        assert found == [f"i{n}" for n in range(300) if f"i{n}" not in validation[pair]]
    assert manifest.dropped == {"p": {"held out for validation": 9 * len(validation["en-de"])}}
    assert held_out.inputs == manifest.inputs


def test_held_out_pairs_depend_on_the_id_alone(tmp_path: Path) -> None:
    rows = {language: [row(n, language) for n in range(100)] for language in ("en", "de")}
    first = build(parallel(tmp_path / "a", rows, validation=0.1), tmp_path / "one", workers=1)
    more = {language: [row(n, language) for n in reversed(range(200))] for language in ("en", "fr")}
    second = build(parallel(tmp_path / "b", more, validation=0.1), tmp_path / "two", workers=1)
    once, twice = (set(ids(Manifest.load(made.root / "validation"))["en-en"]) for made in (first, second))
    assert once == {name for name in twice if int(name[1:]) < 100}


def test_the_cap_applies_to_training_and_to_validation(tmp_path: Path) -> None:
    rows = {language: [row(n, language) for n in range(100)] for language in ("en", "de")}
    manifest = build(parallel(tmp_path, rows, validation=0.2, pairs_per_group=10), tmp_path / "out", workers=1)
    held_out = Manifest.load(manifest.root / "validation")
    for made in (manifest, held_out):
        assert {group.rows for group in made.groups if not group.monolingual} == {10}
        assert made.dropped["p"]["over the cap"] > 0
    everything = sum(group.rows for made in (manifest, held_out) for group in made.groups if group.monolingual)
    assert everything == 200


def test_a_damaged_validation_folder_is_rebuilt(tmp_path: Path) -> None:
    path = parallel(tmp_path, {"en": [row(n, "en") for n in range(50)]}, validation=0.2)
    manifest = build(path, tmp_path / "out", workers=1)
    sound = contents(manifest.root)
    next((manifest.root / "validation").rglob("*.tar")).write_bytes(b"")
    build(path, tmp_path / "out", workers=1)
    assert contents(manifest.root) == sound


def test_a_share_that_holds_out_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds out no pair at all"):
        build(parallel(tmp_path, {"en": [row(1, "en")]}, validation=0.0001), tmp_path / "out", workers=1)


# -- statistics


def test_statistics_match_the_pairs_in_the_folder(tmp_path: Path) -> None:
    rows = {language: [row(n, language) for n in range(40)] for language in ("en", "zh_Hant")}
    manifest = build(parallel(tmp_path, rows, pairs_per_group=15, shard_rows=7), tmp_path / "out", workers=1)
    found = Statistics.load(manifest.root).languages
    pairs = [pair for group in groups(manifest).values() for pair in group]
    for language, size in found.items():
        queries = [pair for pair in pairs if pair.query_lang == language]
        documents = [pair for pair in pairs if pair.document_lang == language]
        assert (size.monolingual_pairs, size.cross_lingual_queries, size.cross_lingual_documents) == (40, 15, 15)
        assert size.query_characters == sum(len(pair.query) for pair in queries)
        assert size.mean_document == pytest.approx(sum(len(pair.document) for pair in documents) / len(documents))
    assert Statistics.load(manifest.root).text().splitlines()[1].split()[:4] == ["en", "40", "15", "15"]
