import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_sources import parallel, row, write_jsonl

from hbdist.errors import ConfigError, DataError
from hbdist.shards.build import build
from hbdist.shards.manifest import Group, Manifest
from hbdist.shards.pairing import OVER_THE_CAP, capped, distinct
from hbdist.shards.read import Pair, ShardReader

Build = Callable[..., Manifest]


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def groups(manifest: Manifest) -> dict[str, list[Pair]]:
    def read(number: int, group: Group) -> list[Pair]:
        return ShardReader(manifest).read(np.full(group.rows, number), np.arange(group.rows))

    return {group.pair: read(number, group) for number, group in enumerate(manifest.groups)}


def ids(manifest: Manifest) -> dict[str, list[str]]:
    return {name: [pair.id for pair in pairs] for name, pairs in groups(manifest).items()}


def recipe(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def one_file(folder: Path, rows: list[dict[str, Any]], more: str = "") -> Path:
    write_jsonl(folder / "en.jsonl", rows)
    return recipe(folder, f'[[dataset]]\nname = "d"\nreader = "jsonl"\nfiles.en = "en.jsonl"\n{more}')


# -- the same bytes


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    rows = {language: [row(n, language) for n in range(30)] for language in ("en", "de", "ar")}
    path = parallel(tmp_path, rows, shard_rows=8, pairs_per_group=20)
    alone, together = (build(path, tmp_path / f"{workers}", workers=workers) for workers in (1, 3))
    assert contents(alone.root) == contents(together.root)
    assert len(contents(alone.root)) > 18


def test_a_build_from_the_same_files_is_reused(tmp_path: Path) -> None:
    path = parallel(tmp_path, {"en": [row(1, "en")]})
    said: list[str] = []
    first = build(path, tmp_path / "out", workers=1)
    made = (first.root / "manifest.json").stat().st_ino
    again = build(path, tmp_path / "out", workers=1, progress=lambda done, total, what: said.append(what))
    assert (first.root / "manifest.json").stat().st_ino == made
    assert said == [f"reused {tmp_path / 'out'}"]
    assert again.groups == first.groups


def test_a_changed_file_or_recipe_is_built_anew(tmp_path: Path) -> None:
    def rows(count: int) -> dict[str, list[dict[str, Any]]]:
        return {"en": [row(n, "en") for n in range(count)]}

    assert build(parallel(tmp_path, rows(2)), tmp_path / "out", workers=1).rows == 2
    assert build(parallel(tmp_path, rows(3)), tmp_path / "out", workers=1).rows == 3
    assert len(build(parallel(tmp_path, rows(3), shard_rows=1), tmp_path / "out", workers=1).groups[0].shards) == 3


def test_a_damaged_folder_is_built_anew(tmp_path: Path) -> None:
    path = parallel(tmp_path, {"en": [row(1, "en")]})
    manifest = build(path, tmp_path / "out", workers=1)
    sound = contents(manifest.root)
    tar = manifest.root / manifest.groups[0].shards[0].path
    tar.write_bytes(tar.read_bytes().replace(b"q1", b"q2"))
    build(path, tmp_path / "out", workers=1)
    assert contents(manifest.root) == sound


# -- which pairs


def test_each_file_gives_a_monolingual_group_and_every_two_a_cross_lingual_one(shipped: Manifest) -> None:
    assert [group.name for group in shipped.groups] == [
        f"p/{query}-{document}" for query in ("ar", "de", "en") for document in ("ar", "de", "en")
    ]


@given(
    english=st.lists(st.integers(0, 12), unique=True, min_size=1),
    german=st.lists(st.integers(0, 12), unique=True, min_size=1),
)
def test_cross_lingual_groups_are_exactly_the_shared_ids_in_the_order_of_the_queries(
    english: list[int], german: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("shared")
    numbers = {"en": english, "de": german}
    rows = {language: [row(n, language) for n in numbers[language]] for language in numbers}
    found = groups(build(parallel(folder, rows), folder / "out", workers=1))
    for query, document in (("en", "de"), ("de", "en")):
        assert [(pair.id, pair.query, pair.document) for pair in found.get(f"{query}-{document}", [])] == [
            (f"i{n}", row(n, query)["query"], row(n, document)["document"])
            for n in numbers[query]
            if n in numbers[document]
        ]


def test_ids_without_a_translation_are_counted(built: Build) -> None:
    manifest = built({"en": [row(n, "en") for n in range(5)], "de": [row(n, "de") for n in range(3, 6)]})
    assert ids(manifest)["en-de"] == ["i3", "i4"]
    assert manifest.dropped == {"p": {"no translation": 3 + 1}}


def test_two_languages_that_share_no_id_have_no_group(built: Build) -> None:
    manifest = built({"en": [row(1, "en")], "de": [row(2, "de")]})
    assert sorted(ids(manifest)) == ["de-de", "en-en"]
    assert manifest.dropped == {"p": {"no translation": 2}}


def test_cross_can_be_a_list_of_ordered_pairs(tmp_path: Path) -> None:
    path = parallel(tmp_path, {language: [row(1, language)] for language in ("en", "de", "zh_Hant")})
    path.write_text(path.read_text() + '\ncross = [["en", "zh_Hant"], ["de", "en"], ["de", "en"]]')
    manifest = build(path, tmp_path / "out", workers=1)
    assert [group.pair for group in manifest.groups] == ["de-de", "de-en", "en-en", "en-zh_Hant", "zh_Hant-zh_Hant"]


def test_negatives_and_document_id_are_those_of_the_document(built: Build) -> None:
    more = {language: {"negatives": [f"n {language}"], "document_id": f"x {language}"} for language in ("en", "de")}
    found = groups(built({language: [row(1, language, **more[language])] for language in more}))
    assert {name: (pairs[0].negatives, pairs[0].document_id) for name, pairs in found.items()} == {
        f"{query}-{document}": ((f"n {document}",), f"x {document}") for query in more for document in more
    }


# -- the cap


def test_the_cap_is_exact_and_counted(built: Build) -> None:
    rows = {language: [row(n, language) for n in range(50)] for language in ("en", "de")}
    manifest = built(rows, pairs_per_group=20)
    assert {group.pair: group.rows for group in manifest.groups} == {"de-de": 50, "de-en": 20, "en-de": 20, "en-en": 50}
    assert manifest.dropped == {"p": {"over the cap": 60}}


def test_the_capped_groups_keep_the_order_and_different_ids(built: Build) -> None:
    rows = {language: [row(n, language) for n in range(50)] for language in ("en", "de")}
    kept = ids(built(rows, pairs_per_group=20))
    for name in ("en-de", "de-en"):
        assert kept[name] == sorted(kept[name], key=lambda name: int(name[1:]))
    assert len({*kept["en-de"], *kept["de-en"]}) > 25


@given(count=st.integers(0, 20), cap=st.integers(1, 20), seed=st.randoms())
def test_the_choice_under_a_cap_does_not_depend_on_the_order(count: int, cap: int, seed: Any) -> None:
    pairs = [Pair("d", f"{n}", f"q{n}", "d", "en", "de") for n in range(count)]
    shuffled = seed.sample(pairs, count)
    kept = list(capped(shuffled, cap))
    assert kept.count(OVER_THE_CAP) == max(0, count - cap)
    assert {pair for pair in kept if isinstance(pair, Pair)} == {p for p in capped(pairs, cap) if isinstance(p, Pair)}
    assert [pair for pair in shuffled if pair in kept] == [pair for pair in kept if isinstance(pair, Pair)]


# -- what is left out


def test_rows_that_cannot_be_used_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        row(0, "en"),
        row(1, "en", query="  "),
        row(2, "en", query=None),
        row(3, "en", document=""),
        row(4, "en") | {"query": row(0, "en")["query"], "document": row(0, "en")["document"]},
        row(5, "en", negatives=["good", " "]),
    ]
    path = one_file(tmp_path, rows)
    with (tmp_path / "en.jsonl").open("a") as file:
        file.write('\n{"id": 6, "query": "\\ud800", "document": "half a surrogate"}\n')
    manifest = build(path, tmp_path / "out", workers=1)
    assert [(pair.id, pair.negatives) for pair in groups(manifest)["en-en"]] == [("i0", ()), ("i5", ("good",))]
    assert manifest.dropped["d"] == {
        "blank line": 1,
        "broken Unicode": 1,
        "empty document": 1,
        "empty negative": 1,
        "empty query": 2,
        "identical pair": 1,
    }


def test_a_repeated_id_in_a_parallel_set_is_left_out_and_counted(built: Build) -> None:
    manifest = built({"en": [row(1, "en"), row(1, "en", query="again")], "de": [row(1, "de")]})
    assert ids(manifest) == {pair: ["i1"] for pair in ("de-de", "de-en", "en-de", "en-en")}
    assert manifest.dropped == {"p": {"repeated id": 1}}


def test_texts_that_only_concatenate_to_the_same_are_not_identical() -> None:
    pairs = [Pair("d", "1", "ab", "c", "en", "en"), Pair("d", "2", "a", "bc", "en", "en")]
    assert list(distinct(pairs)) == pairs


# -- sources


def test_ids_of_files_that_are_no_translations_stay_apart(tmp_path: Path) -> None:
    for language in ("en", "ar"):
        write_jsonl(tmp_path / f"{language}.jsonl", [{"query": "q", "document": "d", "document_id": 7}])
    path = recipe(tmp_path, '[[dataset]]\nname="d"\nreader="jsonl"\n[dataset.files]\nen="en.jsonl"\nar="ar.jsonl"\n')
    found = groups(build(path, tmp_path / "out", workers=1))
    assert {name: (pairs[0].id, pairs[0].document_id) for name, pairs in found.items()} == {
        "ar-ar": ("ar:1", "ar:7"),
        "en-en": ("en:1", "en:7"),
    }


def test_fields_may_have_other_names_in_the_source(tmp_path: Path) -> None:
    rows = [{"qid": 3, "query": "q", "passage": "d", "pid": "x"}]
    path = one_file(tmp_path, rows, 'fields = { id = "qid", document = "passage", document_id = "pid" }')
    assert groups(build(path, tmp_path / "out", workers=1))["en-en"] == [
        Pair("d", "3", "q", "d", "en", "en", document_id="x")
    ]


SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "One is here. Two is there.",
                    "sentence_breaks": [[0, 12], [13, 26]],
                    "qas": [
                        {"id": "a", "question": "Where is two?", "answers": [{"text": "there", "answer_start": 20}]},
                        {
                            "id": "b",
                            "question": "Where is one?",
                            "answers": [{"text": "here", "answer_start": 7}, {"text": "there", "answer_start": 20}],
                        },
                        {"id": "c", "question": "Where is three?", "answers": [], "is_impossible": True},
                        {"id": "d", "question": "Where is the gap?", "answers": [{"text": " ", "answer_start": 12}]},
                    ],
                }
            ]
        }
    ]
}


def squad(folder: Path, more: str = "", source: object = SQUAD) -> Path:
    (folder / "en.json.gz").write_bytes(gzip.compress(json.dumps(source).encode()))
    return recipe(folder, f'[[dataset]]\nname = "d"\nreader = "squad"\nfiles.en = "en.json.gz"\n{more}')


def test_squad_gives_each_question_its_paragraph(tmp_path: Path) -> None:
    manifest = build(squad(tmp_path), tmp_path / "out", workers=1)
    pairs = groups(manifest)["en-en"]
    assert [pair.id for pair in pairs] == ["a", "b", "d"]
    assert {(pair.document, pair.document_id) for pair in pairs} == {("One is here. Two is there.", "0.0")}
    assert manifest.dropped == {"d": {"no answer": 1}}


def test_squad_gives_each_question_the_sentence_of_its_first_answer(tmp_path: Path) -> None:
    manifest = build(squad(tmp_path, 'document = "sentence"'), tmp_path / "out", workers=1)
    assert [(pair.id, pair.document, pair.document_id) for pair in groups(manifest)["en-en"]] == [
        ("a", "Two is there.", "0.0.1"),
        ("b", "One is here.", "0.0.0"),
    ]
    assert manifest.dropped == {"d": {"no answer": 1, "no sentence holds the answer": 1}}


def test_squad_without_sentences_says_so(tmp_path: Path) -> None:
    source = json.loads(json.dumps(SQUAD).replace("sentence_breaks", "other"))
    with pytest.raises(DataError, match=r"sentence_breaks.*expected SQuAD's format"):
        build(squad(tmp_path, 'document = "sentence"', source), tmp_path / "out", workers=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"en\.jsonl, line 2: .*expected an object"),
        ("[1]", "line 2: found a list"),
        ('{"id": "x", "query": "q", "text": "d"}', "line 2: found no document among id, query, text"),
        ('{"query": 5, "document": "d"}', "line 2: found a query that is not a text"),
        ('{"id": 1.5, "query": "q", "document": "d"}', "line 2: found id = 1.5"),
        ('{"query": "q", "document": "d", "negatives": "n"}', "negatives that is not a list"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = one_file(tmp_path, [row(1, "en")])
    with (tmp_path / "en.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=message):
        build(path, tmp_path / "out", workers=1)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["en.jsonl", "recipe.toml"], "nothing half-built stays"


def test_a_truncated_gzip_is_named_from_a_worker_too(tmp_path: Path) -> None:
    path = parallel(tmp_path, {language: [row(n, language) for n in range(99)] for language in ("en", "de")})
    source = tmp_path / "de.jsonl.gz"
    source.write_bytes(source.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"de\.jsonl\.gz is damaged after line .*Fetch the file again"):
        build(path, tmp_path / "out", workers=2)


def test_a_parallel_row_without_an_id_is_refused(tmp_path: Path) -> None:
    path = parallel(tmp_path, {"en": [{"query": "q", "document": "d"}]})
    with pytest.raises(DataError, match=r"row 1: no id; expected one, because p is parallel"):
        build(path, tmp_path / "out", workers=1)


def test_a_file_without_a_single_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"d/en-en: no pairs in .*'empty query': 1"):
        build(one_file(tmp_path, [row(1, "en", query="")]), tmp_path / "out", workers=1)


# -- what stands in the way


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(ConfigError, match="not a complete build"):
        build(one_file(tmp_path, [row(1, "en")]), tmp_path / "out", workers=1)
    assert (tmp_path / "out" / name).read_text() == "{}"


def test_a_strangers_file_in_our_folder_is_never_deleted(tmp_path: Path) -> None:
    manifest = build(one_file(tmp_path, [row(1, "en")]), tmp_path / "out", workers=1)
    (manifest.root / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt, which no build made"):
        build(one_file(tmp_path, [row(2, "en")]), tmp_path / "out", workers=1)
    assert (manifest.root / "notes.txt").read_text() == "mine"


def test_a_failed_build_leaves_the_old_one_in_place(tmp_path: Path) -> None:
    manifest = build(one_file(tmp_path, [row(1, "en")]), tmp_path / "out", workers=1)
    before = contents(manifest.root)
    with pytest.raises(DataError):
        build(one_file(tmp_path, [row(1, "en", query=5)]), tmp_path / "out", workers=1)
    assert contents(manifest.root) == before
    assert not list(tmp_path.glob(".out*"))


# -- recipes


def test_paths_are_relative_to_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    path = one_file(tmp_path / "recipes", [row(1, "en")])
    path.write_text('out = "../built"\n' + path.read_text())
    monkeypatch.chdir(tmp_path)
    assert build(Path("recipes/recipe.toml"), workers=1).root.resolve() == tmp_path / "built"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("shard_row = 5", "unknown key shard_row. Did you mean shard_rows?"),
        ("shard_rows = 0", "shard_rows = 0: input should be greater than or equal to 1. shard_rows: Pairs in a tar"),
        ("x = ", "is not valid TOML"),
        ("", "dataset is missing. Add it."),
        ("[[dataset]]\nname='d'\nreader='jsonl'", "[[dataset]] 1: files is missing. Add it. files: Language code"),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={zh-Hant='a'}", "not a canonical language code"),
        ("[[dataset]]\nname='a-b'\nreader='jsonl'\nfiles={en='a'}", "'a-b' cannot name a dataset"),
        ("[[dataset]]\nname='d'\nreader='csv'\nfiles={en='a'}", "reader = 'csv': input should be 'jsonl' or 'squad'"),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\nlicense='x'", "Did you mean licence?"),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\nfields={text='x'}", "fields = 'text'"),
        (
            "[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\ndocument='sentence'",
            'document is for reader "squad"',
        ),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\ncross='all'", "cross needs parallel = true"),
        (
            "[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\nparallel=true\ncross=[['en','de']]",
            "cross has ['en', 'de']; expected two different languages of en",
        ),
        (
            "[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a'}\n" * 2,
            "dataset d stands there twice",
        ),
        ("[[dataset]]\nname='d'\nreader='jsonl'\nfiles={en='a.jsonl'}", "a.jsonl; expected files that exist"),
    ],
)
def test_a_wrong_recipe_is_answered_with_what_is_wrong_and_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(recipe(tmp_path, text), tmp_path / "out")
    assert message in str(error.value)
    assert str(tmp_path / "recipe.toml") in str(error.value)


def test_a_recipe_needs_a_place_to_build_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no key out, and none was given"):
        build(one_file(tmp_path, [row(1, "en")]))


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml is not a file"):
        build(tmp_path / "nowhere.toml")


def test_the_demo_has_its_eleven_languages_and_caps(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "shards" / "recipes" / "demo.toml"
    manifest = build(path, tmp_path / "demo")
    assert manifest.languages == ("am", "ar", "de", "en", "es", "hi", "ru", "sw", "th", "tr", "zh")
    assert {group.rows for group in manifest.groups if not group.monolingual} == {400}
    assert len(manifest.groups) == 11 * 11 + 8 * 8 + 4
    assert all(manifest.licences.values())
