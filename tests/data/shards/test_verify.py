import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from shard_sources import row

from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.verify import check
from hbdist.errors import DataError

Build = Callable[..., Manifest]


def problems_of(root: Path) -> str:
    with pytest.raises(DataError) as error:
        check(root, workers=1)
    assert "hbdist build RECIPE" in str(error.value)
    return str(error.value)


def shard_path(manifest: Manifest, group: int = 0, shard: int = 0) -> Path:
    return manifest.root / manifest.groups[group].shards[shard].path


def test_the_report_counts_an_intact_folder(shipped: Manifest) -> None:
    report = check(shipped.root)
    assert (len(report.manifest.groups), report.shards, report.manifest.rows) == (9, 27, 225)
    assert report.bytes == sum(path.stat().st_size for path in shipped.root.rglob("*.tar"))
    assert set(report.pairs.values()) == {25}
    assert len(report.pairs) == 9
    assert report.manifest.fingerprint == shipped.fingerprint


def test_the_report_is_a_table_of_language_pairs(shipped: Manifest) -> None:
    lines = check(shipped.root, workers=1).text().splitlines()
    assert lines[0].startswith(f"{shipped.root}: 225 pairs in 9 groups, 27 shards")
    assert lines[3:7] == ["query  ar  de  en", "ar     25  25  25", "de     25  25  25", "en     25  25  25"]
    assert lines[-2:] == ["left out of p: nothing", "hard negatives: 0 of 225 rows of p have some"]


def test_progress_goes_up_to_all_groups(shipped: Manifest) -> None:
    seen: list[tuple[int, int, str]] = []
    check(shipped.root, workers=1, progress=lambda *args: seen.append(args))
    assert [done for done, _, _ in seen] == list(range(1, 10))
    assert seen[-1] == (9, 9, "p/en-en")


def replace_bytes(old: bytes, new: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes().replace(old, new))


def move_third_sample(index: Path) -> None:
    entries = np.load(index)
    entries["offset"][2] += 512
    np.save(index, entries)


@pytest.mark.parametrize(
    ("file", "damage", "messages"),
    [
        ("000000.tar", Path.unlink, ["000000.tar: is missing"]),
        ("000002.index.npy", Path.unlink, ["000002.tar: its index p/de-de/000002.index.npy is missing"]),
        (
            "000001.tar",
            lambda tar: os.truncate(tar, 3 * 1024 + 100),
            [f"000001.tar: has {3 * 1024 + 100} bytes, the manifest says", "000001.tar: row 8: "],
        ),
        ("000000.tar", replace_bytes(b"q3 de", b"q3 dd"), ["000000.tar: has changed (its SHA-256"]),
        ("000001.tar", replace_bytes(b'{"id":"i7"', b'{"id":"i7]'), ["000001.tar: row 7: "]),
        (
            "000000.index.npy",
            move_third_sample,
            ["its index p/de-de/000000.index.npy has changed", "row 2: the index has"],
        ),
        (
            "000003.tar",
            lambda tar: tar.write_bytes(tar.with_name("000000.tar").read_bytes()),
            ["000003.tar: is not in the manifest"],
        ),
    ],
)
def test_damage_is_found(built: Build, file: str, damage: Callable[[Path], object], messages: list[str]) -> None:
    root = built(shard_rows=5).folder
    damage(root / "p" / "de-de" / file)
    problems = problems_of(root)
    for message in messages:
        assert message in problems


@pytest.mark.parametrize("name", ["../out.json", "/abs.json", "a/../../out.json", "a/b.json", "out.json.pkl"])
def test_a_member_whose_name_is_a_path_is_found(built: Build, name: str) -> None:
    assert f"row 0: the member {name!r} is not a file with a plain name" in with_member(built(), name, tarfile.REGTYPE)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_a_member_that_is_not_a_file_is_found(built: Build, kind: bytes) -> None:
    assert "row 0: the member 'a.json' is not a file with a plain name" in with_member(built(), "a.json", kind)


def with_member(manifest: Manifest, name: str, kind: bytes) -> str:
    """Return the problems of a folder whose first shard has only this member."""
    with tarfile.open(shard_path(manifest), "w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
        archive.addfile(member, io.BytesIO())
    return problems_of(manifest.root)


def test_pairs_of_other_languages_are_found(built: Build) -> None:
    manifest = built()
    shard_path(manifest, group=0).write_bytes(shard_path(manifest, group=3).read_bytes())
    assert "p/de-de/000000.tar: row 0: a pair of en-en" in problems_of(manifest.root)


@pytest.mark.parametrize(("rows", "message"), [(11, "row 11: the tar ends"), (13, "row 12: the tar has more rows")])
def test_a_tar_with_other_rows_than_the_manifest_is_found(built: Build, rows: int, message: str) -> None:
    manifest = built()
    path = shard_path(manifest)
    samples = path.read_bytes()[: 12 * 1024]
    path.write_bytes((samples + samples[:1024])[: rows * 1024] + bytes(10240))
    assert message in problems_of(manifest.root)


def test_all_problems_are_counted_and_ten_are_shown(built: Build) -> None:
    manifest = built(shard_rows=1)
    tars = sorted(manifest.root.rglob("*.tar"))
    for path in tars:
        path.unlink()
    found = problems_of(manifest.root)
    assert found.count("is missing") == 10
    assert f"… and {len(tars) - 10} more" in found


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        check(tmp_path)


def test_a_folder_with_held_out_pairs_is_intact(built: Build) -> None:
    rows = {language: [row(number, language) for number in range(60)] for language in ("en", "de")}
    root = built(rows, validation=0.2).root
    reports = check(root, workers=1), check(root / "validation", workers=1)
    assert sum(report.manifest.rows for report in reports) == 4 * 60
