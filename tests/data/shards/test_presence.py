"""Files that are gone or have another size are noticed before anything is read."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import as_built_before_checksums
from stores import serving

from hbdist.data.shards import presence
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.presence import check_presence
from hbdist.errors import DataError


def copy_of(manifest: Manifest, folder: Path) -> Manifest:
    return Manifest.load(shutil.copytree(manifest.folder, folder / "copy"))


def look(manifest: Manifest, **share: int) -> list[str]:
    return check_presence(manifest, manifest.shard_sets, **share).sentences(manifest.root)


@pytest.mark.parametrize("layout", ["shipped", "viewed"])
def test_a_whole_folder_has_nothing_to_say(layout: str, request: pytest.FixtureRequest) -> None:
    manifest = request.getfixturevalue(layout)
    assert look(manifest) == []
    files = {path for path in manifest.folder.rglob("*") if path.is_file() and path.suffix in (".tar", ".npy")}
    assert check_presence(manifest, manifest.shard_sets).looked_at == len(files)


@pytest.mark.parametrize(
    ("layout", "file"),
    [
        *(("shipped", f"p/de-en/000002{suffix}") for suffix in (".tar", ".index.npy")),
        *(("viewed", file) for file in ("p/en-de.npy", "p/ar/000000.tar", "p/ar/000000.index.npy")),
    ],
)
def test_a_file_that_is_gone_or_cut_is_named(
    layout: str, file: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    manifest = copy_of(request.getfixturevalue(layout), tmp_path)
    path = manifest.folder / file
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=rf"{file} has 40 bytes, expected [\d,]+"):
        look(manifest)
    path.unlink()
    with pytest.raises(DataError, match=f"{file} is missing\n.*hbdist check"):
        look(manifest)
    path.write_bytes(bytes(size))
    assert look(manifest) == []  # only `hbdist check` reads what is in it


def test_ten_files_are_named_and_all_are_counted(shipped: Manifest, tmp_path: Path) -> None:
    manifest = copy_of(shipped, tmp_path)
    for path in manifest.folder.rglob("*.tar"):
        path.unlink()
    with pytest.raises(DataError) as error:
        look(manifest)
    assert str(error.value).count("is missing") == 10
    assert "… and 17 more" in str(error.value)


def test_processes_share_the_look_at_many_files(
    shipped: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = copy_of(shipped, tmp_path)
    shares = [check_presence(manifest, manifest.shard_sets, share=share, shares=4).looked_at for share in range(4)]
    assert shares == [54] * 4
    monkeypatch.setattr(presence, "SHARED_ABOVE", 10)
    shares = [check_presence(manifest, manifest.shard_sets, share=share, shares=4).looked_at for share in range(4)]
    assert shares == [14, 14, 13, 13]
    (manifest.folder / "p" / "en-en" / "000001.tar").unlink()
    seen = 0
    for share in range(4):
        try:
            look(manifest, share=share, shares=4)
        except DataError:
            seen += 1
    assert seen == 1


def test_shards_without_checksums_are_said_once(shipped: Manifest, tmp_path: Path) -> None:
    (sentence,) = look(as_built_before_checksums(copy_of(shipped, tmp_path)))
    assert "built before samples had checksums (27 of the indexes seen)" in sentence


def test_only_the_files_that_are_asked_for_are_looked_at(built: Callable[..., Manifest]) -> None:
    manifest = built()
    shutil.rmtree(manifest.folder / "p" / "de-de")
    others = [group for group in manifest.groups if group.pair != "de-de"]
    assert check_presence(manifest, others).looked_at == 2 * len(others)
    with pytest.raises(DataError, match="is missing"):
        look(manifest)


def test_a_remote_folder_is_sized_file_by_file_up_to_a_number(
    shipped: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = copy_of(shipped, tmp_path)
    with serving(copy.folder) as store:
        manifest = store.manifest()
        before = store.requests.total()
        assert look(manifest) == []
        assert store.requests.total() == before, "a file was downloaded"
        monkeypatch.setattr(presence, "REMOTE_FILES", 20)
        (sentence,) = look(manifest)
        assert "18 of 54 files were looked at" in sentence
        monkeypatch.setattr(presence, "REMOTE_FILES", 100)
        path = copy.folder / "p" / "de-en" / "000001.tar"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(DataError, match=r"000001\.tar has 1,000 bytes, expected 20,480"):
            look(manifest)
        path.unlink()
        with pytest.raises(DataError, match=r"000001\.tar is missing"):
            look(manifest)
