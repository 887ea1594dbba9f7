"""Damage to files or manifest of the parallel layout is found by the check, and reported when a pair is read."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import as_built_before_checksums, as_if_built_so
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_sources import parallel
from two_layouts import build_parallel, with_holes

from hbdist.data.build.build import build
from hbdist.data.shards.groups import Shard, Shards, Texts
from hbdist.data.shards.manifest import FILE, Manifest, differences
from hbdist.data.shards.read import Pair, ShardReader
from hbdist.data.shards.verify import check
from hbdist.data.shards.write import tar_header
from hbdist.errors import DataError


@pytest.fixture
def damaged(viewed: Manifest, tmp_path: Path) -> Manifest:
    """Return a copy that tests may damage."""
    return Manifest.load(shutil.copytree(viewed.folder, tmp_path / "copy"))


def problems(manifest: Manifest) -> str:
    with pytest.raises(DataError) as error:
        check(manifest.folder, workers=1)
    return str(error.value)


def first(manifest: Manifest, language: str) -> Path:
    return next(manifest.folder / one.shards[0].path for one in manifest.texts if one.language == language)


def test_a_sound_folder_of_views_is_counted(viewed: Manifest) -> None:
    report = check(viewed.folder, workers=2)
    assert (len(report.manifest.groups), report.manifest.rows) == (9, viewed.rows)
    assert report.shards == sum(len(texts.shards) for texts in viewed.texts)
    assert report.bytes == sum(path.stat().st_size for path in viewed.folder.rglob("*.tar"))


@pytest.mark.parametrize("file", ["p/en/000001.tar", "p/ar/000000.index.npy", "p/de-ar.npy"])
@pytest.mark.parametrize("how", ["gone", "cut", "bit"])
def test_damage_of_any_file_is_found(damaged: Manifest, file: str, how: str) -> None:
    path = damaged.folder / file
    content = bytearray(path.read_bytes())
    path.unlink()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "bit":
        content[-10000 if file.endswith(".tar") else -3] ^= 4
        path.write_bytes(content)
    found = problems(damaged)
    assert file in found
    assert {"gone": "is missing", "cut": "", "bit": "has changed"}[how] in found


def number_of(manifest: Manifest, name: str) -> int:
    return [group.name for group in manifest.groups].index(name)


@pytest.mark.parametrize("wrong", [0, 10**9])
def test_a_view_of_a_row_that_a_language_lacks_is_found_and_refused(damaged: Manifest, wrong: int) -> None:
    """Row 0, of i1, is one of English and Arabic."""
    path = damaged.folder / "p" / "en-de.npy"
    view = np.load(path)
    view[3] = wrong
    np.save(path, view)
    manifest = as_if_built_so(damaged)
    assert f"p/en-de.npy: pair 3 is row {wrong}, which p/de does not have" in problems(manifest)
    found = ShardReader(manifest).read_each(np.full(15, number_of(manifest, "p/en-de")), np.arange(15))
    assert [place for place, one in enumerate(found) if isinstance(one, DataError)] == [3]
    assert "(wanted: row 3 of p/en-de) is damaged" in str(found[3])


def test_a_text_of_another_language_is_found_and_refused(damaged: Manifest) -> None:
    path = first(damaged, "de")
    path.write_bytes(path.read_bytes().replace(b'"lang":"de"', b'"lang":"nl"', 1))
    assert "a text of nl" in problems(damaged)
    damaged = as_built_before_checksums(damaged)
    number = number_of(damaged, "p/de-de")
    rows = np.arange(damaged.groups[number].rows)
    found = ShardReader(damaged).read_each(np.full_like(rows, number), rows)
    assert ["a text of nl" in str(one) for one in found if isinstance(one, DataError)] == [True]


def test_a_member_of_another_row_is_found(damaged: Manifest) -> None:
    """Whoever reads pairs without hbdist goes by the names."""
    path = first(damaged, "de")
    size = int(np.load(path.with_suffix(".index.npy"))["size"][3])
    wrong = path.read_bytes().replace(tar_header("000000003.json", size), tar_header("000000009.json", size))
    path.write_bytes(wrong)
    message = "row 3: the member '000000009.json'; expected 000000003.json, as in the other languages"
    assert f"p/de/000000.tar: {message}" in problems(as_if_built_so(damaged))


def test_an_index_that_hides_a_row_is_found(damaged: Manifest) -> None:
    path = first(damaged, "de").with_suffix(".index.npy")
    index = np.load(path)
    index[3] = 0
    np.save(path, index)
    assert "p/de/000000.tar: row 0: the index has 5 samples, the manifest 6" in problems(as_if_built_so(damaged))


def test_a_tar_that_the_manifest_does_not_know_is_found(damaged: Manifest) -> None:
    shutil.copy(first(damaged, "de"), damaged.folder / "p" / "de" / "000099.tar")
    assert "p/de/000099.tar: is not in the manifest" in problems(damaged)


@pytest.mark.parametrize("file", ["p/de-ar.npy", "p/ar/000000.tar", "p/ar/000000.index.npy"])
def test_a_missing_file_is_named_with_the_row_of_the_pair(damaged: Manifest, file: str) -> None:
    (damaged.folder / file).unlink()
    number = number_of(damaged, "p/de-ar")
    with pytest.raises(DataError, match=r"\(wanted: row \d+ of p/de-ar\) is missing .*hbdist check"):
        ShardReader(damaged).read(np.full(15, number), np.arange(15))
    if not file.endswith(".tar"):
        with pytest.raises(DataError, match=r"of p/de-ar\) is missing"):
            ShardReader(damaged).lengths(number, np.arange(15))
    sound = [place for place, group in enumerate(damaged.groups) if group.pair == "en-de"]
    assert ShardReader(damaged).read(np.array(sound), np.array([2]))


@settings(max_examples=40)
@given(damage=st.lists(st.tuples(st.integers(0, 12000), st.integers(0, 255)), max_size=30), cut=st.integers(0, 14000))
def test_no_damage_of_any_file_gives_anything_but_pairs_and_sentences(
    damage: list[tuple[int, int]], cut: int, viewed: Manifest
) -> None:
    number = number_of(viewed, "p/en-de")
    for file in ("p/en-de.npy", "p/en/000000.tar", "p/de/000000.index.npy"):
        path = viewed.folder / file
        sound = path.read_bytes()
        content = bytearray(sound)
        for place, value in damage:
            content[place % len(content)] = value
        path.write_bytes(content[:cut])
        try:
            found = ShardReader(viewed).read_each(np.full(15, number), np.arange(15))
        finally:
            path.write_bytes(sound)
        assert all(isinstance(one, Pair | DataError) for one in found)


# -- the manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["groups"][0]["view"].update(path="../x.npy"), "leads out of the folder"),
        (lambda values: values["groups"][0]["view"].update(rows=-1), r"damaged at groups\.0\.view\.rows"),
        (lambda values: values["groups"][0]["view"].update(shard_rows=0), r"damaged at groups\.0\.view\.shard_rows"),
        (lambda values: values["groups"][0]["view"].update(rows=1), "changed after the build"),
        (lambda values: values["groups"][0]["view"].update(shard_rows=3), "changed after the build"),
        (lambda values: values["texts"].pop(0), "has no texts of which p/ar-ar could be a view"),
        (lambda values: values["texts"].append(values["texts"][0]), "lists a group twice"),
        (lambda values: values["texts"][0]["windows"].reverse(), "windows that are not one per shard, in order"),
        (lambda values: values["texts"][0].update(rows=3), "beyond its 3 rows"),
        (lambda values: values["texts"][0].update(rows=2**40), r"damaged at texts\.0\.rows"),
        (lambda values: values["texts"][0].update(shard_rows=9), "changed after the build"),
        (lambda values: values["texts"][0]["shards"]["sha256"].reverse(), "changed after the build"),
    ],
)
def test_an_altered_manifest_of_views_is_refused(damaged: Manifest, change: Any, message: str) -> None:
    path = damaged.folder / FILE
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(DataError, match=message):
        Manifest.load(damaged.folder)


def test_a_saved_manifest_of_views_loads_as_it_was(viewed: Manifest, tmp_path: Path) -> None:
    viewed.save(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert (loaded.groups, loaded.texts, loaded.fingerprint) == (viewed.groups, viewed.texts, viewed.fingerprint)


def test_differences_name_the_views_whose_pairs_or_texts_changed(tmp_path: Path) -> None:
    rows = with_holes()
    old = build_parallel(tmp_path / "old", rows)
    assert differences(old, old) == []
    rows["de"][0]["document"] = "another one"
    changed = build_parallel(tmp_path / "new", rows)
    assert [line.split()[0] for line in differences(old, changed)] == [
        "p/ar-de",
        "p/de-ar",
        "p/de-de",
        "p/de-en",
        "p/en-de",
    ]
    pairs = build(parallel(tmp_path / "source", with_holes()), tmp_path / "pairs", workers=1)
    assert {line.split(", ")[-1] for line in differences(old, pairs)} == {"but in another layout."}


@given(
    windows=st.sets(st.integers(0, 30), min_size=1),
    shard_rows=st.integers(1, 9),
    rows=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 300), max_size=20),
)
def test_rows_are_located_as_a_plain_search_locates_them(windows: set[int], shard_rows: int, rows: list[int]) -> None:
    ordered = tuple(sorted(windows))
    shards = Shards.of(Shard("a.tar", 1, 1, "ab", "a.npy", "cd") for _ in ordered)
    texts = Texts("p", "en", (ordered[-1] + 1) * shard_rows, shard_rows, ordered, shards)
    numbers, inside = texts.locate(np.array(rows, np.int64))
    plain = [ordered.index(row // shard_rows) if row // shard_rows in windows else -1 for row in rows]
    assert numbers.tolist() == plain
    assert inside.tolist() == [row % shard_rows for row in rows]
