import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shard_sources import row

from hbdist.data.shards.groups import Group, Shard, Shards, check_language, check_name, check_paths
from hbdist.data.shards.manifest import Manifest, differences
from hbdist.errors import DataError

Build = Callable[..., Manifest]


def shard(name: str = "000000", rows: int = 3, sha256: str = "ab") -> Shard:
    return Shard(f"{name}.tar", rows, 10240, sha256, f"{name}.index.npy", "cd")


def group(dataset: str, query_lang: str, document_lang: str, *shards: Shard) -> Group:
    return Group(dataset, query_lang, document_lang, Shards.of(shards))


def manifest(*groups: Group) -> Manifest:
    return Manifest(Path("anywhere"), groups)


def change(root: Path, **values: object) -> None:
    """Replace values of a manifest file."""
    path = root / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_saved_manifest_loads_unchanged(shipped: Manifest, tmp_path: Path) -> None:
    shipped.save(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert (loaded.groups, loaded.dropped, loaded.licences) == (shipped.groups, shipped.dropped, shipped.licences)
    assert (loaded.inputs, loaded.fingerprint) == (shipped.inputs, shipped.fingerprint)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"], "no temporary file is left"


def test_groups_are_sorted_and_have_their_languages(shipped: Manifest) -> None:
    assert [group.name for group in shipped.groups] == sorted(group.name for group in shipped.groups)
    assert shipped.languages == ("ar", "de", "en")
    assert [group.pair for group in shipped.groups if group.monolingual] == ["ar-ar", "de-de", "en-en"]
    assert {group.rows for group in shipped.groups} == {25}


def test_the_fingerprint_stays_when_the_folder_moves(shipped: Manifest, tmp_path: Path) -> None:
    moved = shutil.copytree(shipped.root, tmp_path / "elsewhere")
    assert Manifest.load(moved).fingerprint == shipped.fingerprint


def test_the_fingerprint_follows_the_rows_and_not_the_file_names() -> None:
    base = manifest(group("a", "en", "de", shard()))
    same = manifest(group("a", "en", "de", shard(name="other")))
    others = [
        manifest(group("b", "en", "de", shard())),
        manifest(group("a", "de", "en", shard())),
        manifest(group("a", "en", "de", shard(sha256="ac"))),
        manifest(group("a", "en", "de", shard(), shard())),
    ]
    assert same.fingerprint == base.fingerprint
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_one_changed_letter_changes_the_fingerprint(built: Build) -> None:
    rows = [row(n, "en") for n in range(5)]
    before = built({"en": rows}).fingerprint
    assert built({"en": [*rows[:4], row(4, "en", document="other")]}).fingerprint != before


def test_differences_name_every_group_that_is_not_the_same() -> None:
    old = manifest(group("a", "en", "en", shard()), group("b", "en", "en", shard()), group("c", "en", "en", shard()))
    new = manifest(
        group("b", "en", "en", shard(rows=4)),
        group("c", "en", "en", shard(sha256="x")),
        group("d", "en", "en", shard()),
    )
    assert differences(old, new) == [
        "a/en-en is gone (3 rows).",
        "b/en-en has 4 rows where it had 3.",
        "c/en-en has as many rows as before (3), but not the same ones or not in the same shards.",
        "d/en-en is new (3 rows).",
    ]
    assert differences(old, old) == []


def test_the_error_for_a_missing_manifest_tells_how_to_build_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json does not exist.*hbdist build RECIPE"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize(
    ("values", "columns", "message"),
    [
        ({"version": 1}, {}, "version 1; this hbdist reads version 2"),
        ({"version": "2"}, {}, "version '2'; this hbdist reads version 2"),
        ({"fingerprint": "0" * 64}, {}, "changed after the build"),
        ({"groups": []}, {}, "changed after the build"),
        ({"groups": [{}]}, {}, r"damaged at groups\.0"),
        ({"surprise": 1}, {}, "damaged at surprise"),
        ({}, {"paths": ["../../a.tar"]}, r"damaged at groups\.0\.shards\.paths: .* leads out of the folder"),
        ({}, {"indexes": ["../../a.npy"]}, r"damaged at groups\.0\.shards\.indexes: .* leads out of the folder"),
        ({}, {"rows": [-1]}, r"damaged at groups\.0\.shards\.rows\.0: Input should be greater"),
        ({}, {"rows": [1.5]}, r"damaged at groups\.0\.shards\.rows\.0"),
        ({}, {"bytes": ["9"]}, r"damaged at groups\.0\.shards\.bytes\.0"),
        ({}, {"rows": [3, 9]}, r"damaged at groups\.0\.shards: .*columns of different lengths .*'rows': 2"),
        ({}, {"rows": [11]}, "changed after the build"),
        ({}, {"sha256": ["0" * 64]}, "changed after the build"),
        ({}, {"surprise": [1]}, r"damaged at groups\.0\.shards\.surprise"),
    ],
)
def test_an_altered_manifest_is_refused(
    built: Build, values: dict[str, Any], columns: dict[str, Any], message: str
) -> None:
    root = built().folder
    groups = json.loads((root / "manifest.json").read_text())["groups"]
    groups[0]["shards"] |= columns
    change(root, **{"groups": groups} | values)
    with pytest.raises(DataError, match=message):
        Manifest.load(root)


def test_a_group_that_is_listed_twice_is_refused(built: Build) -> None:
    root = built().root
    groups = json.loads((root / "manifest.json").read_text())["groups"]
    change(root, groups=[*groups, groups[0]])
    with pytest.raises(DataError, match="lists a group twice"):
        Manifest.load(root)


def test_a_manifest_can_be_parsed_without_its_folder(shipped: Manifest) -> None:
    text = (shipped.root / "manifest.json").read_bytes()
    parsed = Manifest.parse(text, Path("nowhere"))
    assert parsed.groups == shipped.groups
    assert parsed.root == Path("nowhere")


def test_shards_equal_the_objects_they_were_made_of() -> None:
    made = tuple(shard(name=f"{number:06d}", rows=number, sha256=f"{number}") for number in range(4))
    pairs = group("a", "en", "de", *made)
    assert list(pairs.shards) == [pairs.shards[number] for number in range(4)] == list(made)
    assert pairs.shards[-1] == made[-1]
    assert len(pairs.shards) == 4
    assert pairs == Group("a", "en", "de", pairs.shards)
    assert pairs.starts.tolist() == [0, 0, 1, 3, 6]
    assert pairs.rows == 6
    assert group("a", "en", "de").rows == 0


def test_the_fingerprint_is_of_names_rows_and_digests(shipped: Manifest) -> None:
    # A resumed run compares the fingerprint: it must not depend on how the manifest is stored.
    plain = hashlib.sha256()
    for group in shipped.groups:
        plain.update(f"{group.dataset}/{group.query_lang}-{group.document_lang}\n".encode())
        for one in group.shards:
            plain.update(f"{one.rows} {one.sha256}\n".encode())
    assert shipped.fingerprint == plain.hexdigest()


def test_a_truncated_manifest_is_refused(built: Build) -> None:
    path = built().root / "manifest.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(DataError, match="cannot be read"):
        Manifest.load(path.parent)


@pytest.mark.parametrize("code", ["zh-Hant", "EN", "e", "", "en_", "../x", "english"])
def test_only_canonical_languages_pass(code: str) -> None:
    with pytest.raises(ValueError, match="canonical"):
        check_language(code)
    assert [check_language(good) for good in ("en", "arz", "zh_Hant", "sr_Latn_RS")]


@pytest.mark.parametrize("name", ["a-b", "a/b", "", ".hidden", "..", "Größe"])
def test_only_plain_names_pass(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a dataset"):
        check_name(name)
    assert check_name("tydiqa.v1_0") == "tydiqa.v1_0"


@pytest.mark.parametrize("path", ["/etc/passwd", "a/../../b", "..", "", "a/.."])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_only_paths_below_the_folder_pass(path: str, index: int) -> None:
    good = ("a/b.tar", "a..b/..c/d.tar")
    with pytest.raises(ValueError, match="leads out"):
        check_paths((*good[:index], path, *good[index:]))
    assert check_paths(good) == good
