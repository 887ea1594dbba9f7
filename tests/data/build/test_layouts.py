"""The two layouts: the same pairs in the same order, so the same batches; the parallel one stores each text once."""

import glob
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from built_folders import contents, groups, msmarco, stopped
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from reads_remotely import all_of
from shard_sources import parallel, row, write_jsonl
from stores import serving
from two_layouts import LANGUAGES, as_parallel, both, build_parallel, with_holes

from hbdist.data.build.build import build
from hbdist.data.build.statistics import STATISTICS
from hbdist.data.shards.manifest import VALIDATION, Manifest
from hbdist.data.shards.read import ShardReader
from hbdist.data.shards.verify import check
from hbdist.errors import DataError


def assert_same(one: Manifest, other: Manifest) -> None:
    assert [group.name for group in one.groups] == [group.name for group in other.groups]
    assert groups(one) == groups(other)
    for number, (group, same) in enumerate(zip(one.groups, other.groups, strict=True)):
        assert group.starts.tolist() == same.starts.tolist()
        rows = np.arange(group.rows)[::-1]
        assert np.array_equal(ShardReader(one).lengths(number, rows), ShardReader(other).lengths(number, rows))
    assert one.dropped == other.dropped


# -- the same pairs

TEXT = st.text("abAB é語", min_size=1, max_size=2)
ROW = st.fixed_dictionaries(
    {"id": st.integers(0, 12).map(str), "query": TEXT, "document": TEXT},
    optional={"negatives": st.lists(TEXT, max_size=2), "document_id": st.sampled_from("xy")},
)


def built_or_refused(recipe: Path, out: Path) -> Manifest | str:
    try:
        return build(recipe, out, workers=1)
    except DataError as error:
        return str(error)


# No shrinking: building eighteen groups per attempt would take minutes.
@settings(max_examples=10, phases=(Phase.explicit, Phase.generate))
@given(
    rows=st.fixed_dictionaries({language: st.lists(ROW, max_size=14) for language in LANGUAGES}),
    keys=st.fixed_dictionaries(
        {"shard_rows": st.integers(1, 5)},
        optional={
            "pairs_per_group": st.integers(1, 6),
            "validation": st.just(0.3),
            "limits": st.just({"query_characters": [1, 1]}),
            "deduplicate": st.just({"text": "normalised"}),
        },
    ),
)
def test_both_layouts_have_the_same_pairs_in_the_same_order(
    rows: dict[str, Any], keys: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("both")
    # A language without a pair of its own is refused in either layout.
    rows = {language: [*its, *(row(n, language, query="q") for n in (20, 21, 22))] for language, its in rows.items()}
    recipe = parallel(folder, rows, **{key: value for key, value in keys.items() if not isinstance(value, dict)})
    head = "".join(
        f"{section}.{name} = {json.dumps(value)}\n"
        for section, values in keys.items()
        if isinstance(values, dict)
        for name, value in values.items()
    )
    recipe.write_text(head + recipe.read_text())
    one, other = (built_or_refused(path, folder / path.stem) for path in (recipe, as_parallel(recipe)))
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
        return
    assert_same(one, other)
    assert (one.folder / STATISTICS).read_bytes() == (other.folder / STATISTICS).read_bytes()
    assert check(other.folder, workers=1).pairs == check(one.folder, workers=1).pairs
    if "validation" in keys:
        held_out = [Manifest.load(made.folder / VALIDATION) for made in (one, other)]
        assert_same(*held_out)
        check(held_out[1].folder, workers=1)


def test_rows_found_by_query_and_document_are_the_same_in_both(tmp_path: Path) -> None:
    """Several rows of one id, hard negatives, document ids."""
    recipe = msmarco(tmp_path / "source", "2\t5\t1\n1\t3\t4\n2\t5\t7\n2\t6\t8\n2\t5\t1\n2\t5\t8\n1\t3\t0\n")
    one, other = both(recipe, tmp_path)
    assert_same(one, other)
    assert any(pair.negatives for pair in groups(other)["en-de"])
    assert [pair.id for pair in groups(other)["de-en"]] == ["2", "1", "2"]


def test_parallel_text_is_the_same_in_both(tmp_path: Path) -> None:
    for language in ("en", "de"):
        lines = [f"{language} {n}" for n in range(9)] + ["the same"]
        (tmp_path / f"{language}.txt").write_text("\n".join(lines) + "\n")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[[dataset]]\nname = "t"\nreader = "lines"\nparallel = true\nfiles = { en = "en.txt", de = "de.txt" }\n'
    )
    one, other = both(recipe, tmp_path)
    assert_same(one, other)
    assert other.dropped["t"]["same text in both languages"] == 2


def test_one_folder_can_have_datasets_of_both_layouts(tmp_path: Path) -> None:
    """Pairs of an earlier dataset are left out of a later one, across layouts."""
    path = parallel(tmp_path, with_holes(), shard_rows=8)
    write_jsonl(tmp_path / "more.jsonl", [row(n, "en", id=f"m{n}") for n in range(35, 45)])
    more = '\n[[dataset]]\nname = "more"\nreader = "jsonl"\nfiles.en = "more.jsonl"\n'
    head = "deduplicate.across_datasets = true\n"
    path.write_text(head + path.read_text() + more)
    mixed = tmp_path / "mixed.toml"
    mixed.write_text(path.read_text().replace(more, f'\nlayout = "parallel"{more}'))
    one, other = build(path, tmp_path / "one", workers=1), build(mixed, tmp_path / "other", workers=1)
    assert [bool(group.view) for group in other.groups] == [group.dataset == "p" for group in other.groups]
    assert other.dropped["more"]["in an earlier dataset"] == 4
    assert one.dropped == other.dropped
    assert ShardReader(one).read(*all_of(one)) == ShardReader(other).read(*all_of(other))
    order = np.random.default_rng(0).permutation(one.rows)
    groups_, rows = (column[order] for column in all_of(one))
    assert ShardReader(one).read(groups_, rows) == ShardReader(other, open_shards=2).read(groups_, rows)
    check(other.folder, workers=1)


def test_both_layouts_give_the_same_batches_on_one_rank_and_on_two(tmp_path: Path, tiny_model: Path) -> None:
    import torch

    from hbdist.config.config import Config
    from hbdist.config.sections import ModelSection
    from hbdist.models.encoder import Encoder
    from hbdist.training.batch import Chunk
    from hbdist.training.loader import Batches, measure_token_rates

    rows = with_holes(120)
    for language, its in rows.items():
        for n, one in enumerate(its):
            one["negatives"] = [f"{language} wrong {n} {k}" for k in range(n % 3)]
            one["document"] += " word" * (n % 11)
    manifests = both(parallel(tmp_path, rows, shard_rows=4, pairs_per_group=50), tmp_path)
    tokenize = Encoder.load(ModelSection(name=str(tiny_model))).tokenize
    rates = [measure_token_rates(manifest, tokenize) for manifest in manifests]
    assert rates[0] == rates[1]
    values = {"steps": 40, "data": {"shards": "x"}, "model": {"name": "x"}, "run": {"log_batches": True}}
    values |= {"batch": {"size": 24, "mix": "blocks"}, "loss": {"hard_negatives": 1, "chunk_tokens": 200}}
    config = Config.check(values, source="test")

    def plain(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.tolist()
        if isinstance(value, list):
            return [plain(one) for one in value]
        return plain([*vars(value).values()]) if isinstance(value, Chunk) else value

    for rank, world in ((0, 1), (0, 2), (1, 2)):
        one, other = (
            Batches(config, manifest, tokenize, token_rates=rates[0], rank=rank, world=world) for manifest in manifests
        )
        for step in range(config.steps):
            first, second = (batches[step] for batches in (one, other))
            assert {name: plain(value) for name, value in vars(first).items()} == {
                name: plain(value) for name, value in vars(second).items()
            }
            assert first.ids or rank


# -- stored files


def test_storage_grows_with_the_languages_and_by_four_bytes_per_pair(tmp_path: Path) -> None:
    texts, sizes = "many words " * 100, {}
    for number in (2, 6):
        names = ["en", "de", "ar", "zh", "th", "sw"][:number]
        rows = {name: [row(n, name, document=f"{n} {name} {texts}") for n in range(60)] for name in names}
        manifest = build_parallel(tmp_path / str(number), rows)
        sizes[number] = sum(path.stat().st_size for path in manifest.folder.rglob("*.tar"))
        lists = sum(path.stat().st_size for path in manifest.folder.glob("p/*.npy"))
        assert lists == number**2 * (128 + 4 * 60)
    assert sizes[6] == 3 * sizes[2]


def test_texts_that_are_in_no_pair_are_in_no_tar(tmp_path: Path) -> None:
    """Neither held-out texts, nor translations of texts of an evaluation set, nor duplicates."""
    rows = {language: [row(n, language) for n in range(40)] for language in LANGUAGES}
    rows["en"][2]["document"] = "A passage of an evaluation set."
    rows["de"][5] |= {"query": rows["de"][4]["query"], "document": rows["de"][4]["document"]}
    write_jsonl(tmp_path / "source" / "test.jsonl", [{"passage": "A passage of an evaluation set."}])
    path = as_parallel(parallel(tmp_path / "source", rows, validation=0.2))
    path.write_text('decontaminate.files = ["test.jsonl"]\n' + path.read_text())
    manifest = build(path, tmp_path / "out", workers=1)
    held_out = {pair.id for pairs in groups(Manifest.load(manifest.folder / VALIDATION)).values() for pair in pairs}
    assert held_out
    for language in LANGUAGES:
        stored = {id_ for id_, _ in samples(manifest.folder, language)}
        assert stored == {f"i{n}" for n in range(40) if n != 2} - held_out


def test_a_window_without_rows_of_a_language_has_no_shard(tmp_path: Path) -> None:
    rows = {"en": [row(n, "en") for n in range(30)], "de": [row(n, "de") for n in (0, 29)]}
    manifest = build_parallel(tmp_path, rows, shard_rows=5)
    by_language = {texts.language: texts for texts in manifest.texts}
    assert by_language["en"].windows == (0, 1, 2, 3, 4, 5)
    assert by_language["de"].windows == (0, 5)
    assert {texts.rows for texts in manifest.texts} == {30}
    assert [pair.id for pair in groups(manifest)["de-en"]] == ["i0", "i29"]
    assert [path.name for path in sorted(manifest.folder.glob("p/de/*.tar"))] == ["000000.tar", "000005.tar"]


def test_any_number_of_workers_makes_the_same_bytes_and_an_intact_folder_is_reused(tmp_path: Path) -> None:
    path = as_parallel(parallel(tmp_path, with_holes(), shard_rows=8, pairs_per_group=15, validation=0.2))
    alone, together = (build(path, tmp_path / f"{workers}", workers=workers) for workers in (1, 2))
    assert contents(alone.folder) == contents(together.folder)
    messages: list[str] = []
    build(path, alone.folder, workers=1, progress=lambda done, total, what: messages.append(what))
    assert messages == [f"reused {alone.folder}"]
    (alone.folder / "p" / "en-de.npy").write_bytes(b"")
    build(path, alone.folder, workers=1)
    assert contents(alone.folder) == contents(together.folder)


@pytest.mark.parametrize("at", ["reading", "pairing", "writing"])
@pytest.mark.parametrize("damaged", [".build/noted/*/*.npy", ".build/numbered/*/*.npy", "p/*.npy", "p/*/*.tar", ""])
def test_a_stopped_build_is_resumed(tmp_path: Path, at: str, damaged: str) -> None:
    path = as_parallel(parallel(tmp_path / "source", with_holes(), shard_rows=8, pairs_per_group=15, validation=0.2))
    sound = contents(build(path, tmp_path / "sound", workers=1).folder)
    partial = stopped(path, tmp_path / "out", at=at)
    kept = {file: file.stat().st_ino for file in partial.glob("p/*/*.tar")}
    assert bool(kept) == (at == "writing")
    for file in sorted(partial.glob(damaged))[:1] if damaged else []:
        file.write_bytes(file.read_bytes()[:-10])
    built = build(path, tmp_path / "out", workers=1)
    assert contents(built.folder) == sound
    if not damaged:
        assert {file: (built.folder / file.relative_to(partial)).stat().st_ino for file in kept} == kept


def samples(root: Path, language: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for tar in sorted(glob.glob(f"{root}/p/{language}/*.tar")):
        for sample in webdataset.WebDataset(tar, shardshuffle=False).decode():
            yield sample["json"]["id"], sample["json"]


def test_plain_webdataset_reads_a_language_and_the_pairs_of_two(viewed: Manifest) -> None:
    def texts(language: str) -> dict[int, dict[str, Any]]:
        tars = sorted(glob.glob(f"{viewed.root}/p/{language}/*.tar"))
        return {int(one["__key__"]): one["json"] for one in webdataset.WebDataset(tars, shardshuffle=False).decode()}

    german, arabic = texts("de"), texts("ar")
    assert set(next(iter(german.values()))) == {"id", "query", "document", "lang"}
    found = [(german[row], arabic[row]) for row in np.load(viewed.folder / "p" / "de-ar.npy").tolist()]
    assert [(query["query"], document["document"]) for query, document in found] == [
        (pair.query, pair.document) for pair in groups(viewed)["de-ar"]
    ]
    assert all(query["id"] == document["id"] for query, document in found)


# -- remote


def test_views_are_read_remotely_as_locally(viewed: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HBDIST_CACHE", str(tmp_path / "cache"))
    with serving(viewed.folder) as store:
        away = store.manifest()
        number = [group.name for group in away.groups].index("p/en-de")
        ShardReader(away).lengths(number, np.arange(3))
        assert not [path for path in store.requests if path.endswith(".tar")]
        assert store.requests["p/en-de.npy"] == 1
        assert ShardReader(away).read(*all_of(away)) == ShardReader(viewed).read(*all_of(viewed))
        assert set(store.requests.values()) == {1}
        assert check(store.url, workers=1).manifest.rows == viewed.rows
