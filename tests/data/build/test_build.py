"""Builds: reproducible bytes, the pairs of each group, caps, counts of rows left out, and folders that are kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from built_folders import contents, groups, ids, one_file
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_sources import parallel, row

from hbdist.data.build.build import build
from hbdist.data.shards.manifest import Manifest
from hbdist.errors import ConfigError, DataError

Build = Callable[..., Manifest]


# -- the same bytes


def test_two_builds_give_the_same_bytes(tmp_path: Path) -> None:
    rows = {language: [row(n, language) for n in range(30)] for language in ("en", "de", "ar")}
    path = parallel(tmp_path, rows, shard_rows=8, pairs_per_group=20)
    alone, together = (build(path, tmp_path / f"{workers}", workers=workers) for workers in (1, 3))
    assert contents(alone.root) == contents(together.root)
    assert len(contents(alone.root)) > 18


def test_a_build_from_the_same_files_is_reused(tmp_path: Path) -> None:
    path = parallel(tmp_path, {"en": [row(1, "en")]})
    messages: list[str] = []
    first = build(path, tmp_path / "out", workers=1)
    made = (first.root / "manifest.json").stat().st_ino
    again = build(path, tmp_path / "out", workers=1, progress=lambda done, total, what: messages.append(what))
    assert (first.root / "manifest.json").stat().st_ino == made
    assert messages == [f"reused {tmp_path / 'out'}"]
    assert again.groups == first.groups


def test_a_changed_file_or_recipe_is_rebuilt(tmp_path: Path) -> None:
    def rows(count: int) -> dict[str, list[dict[str, Any]]]:
        return {"en": [row(n, "en") for n in range(count)]}

    assert build(parallel(tmp_path, rows(2)), tmp_path / "out", workers=1).rows == 2
    assert build(parallel(tmp_path, rows(3)), tmp_path / "out", workers=1).rows == 3
    assert len(build(parallel(tmp_path, rows(3), shard_rows=1), tmp_path / "out", workers=1).groups[0].shards) == 3


def test_a_damaged_folder_is_rebuilt(tmp_path: Path) -> None:
    path = parallel(tmp_path, {"en": [row(1, "en")]})
    manifest = build(path, tmp_path / "out", workers=1)
    sound = contents(manifest.root)
    tar = manifest.root / manifest.groups[0].shards[0].path
    tar.write_bytes(tar.read_bytes().replace(b"q1", b"q2"))
    build(path, tmp_path / "out", workers=1)
    assert contents(manifest.root) == sound


# -- selection of pairs


def test_each_file_gives_a_monolingual_group_and_every_two_a_cross_lingual_one(shipped: Manifest) -> None:
    assert [group.name for group in shipped.groups] == [
        f"p/{query}-{document}" for query in ("ar", "de", "en") for document in ("ar", "de", "en")
    ]


@settings(max_examples=25)
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


def test_cross_can_list_ordered_pairs_of_languages(tmp_path: Path) -> None:
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


@settings(max_examples=12)
@given(count=st.integers(2, 20), cap=st.integers(1, 20), seed=st.randoms())
def test_the_choice_under_a_cap_does_not_depend_on_the_order(
    count: int, cap: int, seed: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = []
    for numbers in (range(count), seed.sample(range(count), count)):
        folder = tmp_path_factory.mktemp("order")
        rows = {language: [row(n, language) for n in numbers] for language in ("en", "de")}
        manifest = build(parallel(folder, rows, pairs_per_group=cap), folder / "out", workers=1)
        found = ids(manifest)["en-de"]
        assert found == [f"i{n}" for n in numbers if f"i{n}" in found], "in the order of the file"
        assert manifest.dropped["p"].get("over the cap", 0) == 2 * max(0, count - cap)
        kept.append(set(found))
    assert kept[0] == kept[1]


# -- rows that are left out


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


def test_pairs_that_only_concatenate_to_the_same_text_are_not_identical(tmp_path: Path) -> None:
    rows = [{"query": "ab", "document": "c"}, {"query": "a", "document": "bc"}, {"query": "c", "document": "ab"}]
    assert build(one_file(tmp_path, rows), tmp_path / "out", workers=1).rows == 3


# -- other files in the folder


@pytest.mark.parametrize("name", ["notes.txt", "manifest.json"])
def test_a_folder_that_no_build_made_is_never_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("{}")
    with pytest.raises(ConfigError, match="not a complete build"):
        build(one_file(tmp_path, [row(1, "en")]), tmp_path / "out", workers=1)
    assert (tmp_path / "out" / name).read_text() == "{}"


def test_a_foreign_file_in_a_built_folder_is_never_deleted(tmp_path: Path) -> None:
    manifest = build(one_file(tmp_path, [row(1, "en")]), tmp_path / "out", workers=1)
    (manifest.root / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.txt, which no build made"):
        build(one_file(tmp_path, [row(2, "en")]), tmp_path / "out", workers=1)
    assert (manifest.root / "notes.txt").read_text() == "mine"


def test_a_failed_build_keeps_the_old_folder(tmp_path: Path) -> None:
    manifest = build(one_file(tmp_path, [row(1, "en")]), tmp_path / "out", workers=1)
    before = contents(manifest.root)
    with pytest.raises(DataError):
        build(one_file(tmp_path, [row(1, "en", query=5)]), tmp_path / "out", workers=1)
    assert contents(manifest.root) == before
    assert not list(tmp_path.glob(".out*"))


def test_the_demo_has_eleven_languages_its_caps_and_always_the_same_rows() -> None:
    manifest = build(Path(__file__).parents[3] / "shards" / "recipes" / "demo.toml")
    # A run on the demo must find the same rows after an upgrade.
    assert manifest.fingerprint == "9fbd49fd81b2a56300338410398655fc1055562b0457601ea7b8192da3dc8be1"
    assert manifest.languages == ("am", "ar", "de", "en", "es", "hi", "ru", "sw", "th", "tr", "zh")
    assert {group.rows for group in manifest.groups if not group.monolingual} == {400}
    assert len(manifest.groups) == 11 * 11 + 8 * 8 + 4
    assert all(manifest.licences.values())
