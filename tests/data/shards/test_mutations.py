"""Bytes that change on the disk are errors or change nothing: they never give another text."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damage import as_built_before_checksums, as_if_built_so
from reads_remotely import all_of

from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import Pair, ShardReader
from hbdist.data.shards.verify import check
from hbdist.errors import DataError

MUTATIONS = 150
"""Number of altered copies of each kind of file in each layout."""
Mutate = Callable[[random.Random, bytearray], None]


def flip(generator: random.Random, content: bytearray) -> None:
    for _ in range(generator.choice([1, 1, 2, 9])):
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)


def overwrite(generator: random.Random, content: bytearray) -> None:
    at = generator.randrange(len(content))
    content[at : at + generator.choice([1, 4, 40])] = generator.randbytes(generator.choice([1, 4, 40]))


def swap(generator: random.Random, content: bytearray) -> None:
    """Exchange two stretches of equal length, as a misdirected write does."""
    size = generator.choice([4, 20, 24, 512])
    one, other = (generator.randrange(max(1, len(content) - size)) for _ in range(2))
    content[one : one + size], content[other : other + size] = content[other : other + size], content[one : one + size]


def swap_texts(generator: random.Random, content: bytearray) -> None:
    """Exchange a text with another of the same length: the JSON stays sound."""
    texts = [content.find(mark) for mark in (b'"query":"', b'"document":"')]
    if min(texts) > 0:
        content[texts[0] + 9], content[texts[1] + 12] = content[texts[1] + 12], content[texts[0] + 9]


def cut(generator: random.Random, content: bytearray) -> None:
    del content[generator.randrange(len(content)) :]


def zero(generator: random.Random, content: bytearray) -> None:
    at = generator.randrange(len(content))
    content[at : at + 4096] = bytes(len(content[at : at + 4096]))


KINDS: list[Mutate] = [flip, flip, overwrite, swap, swap_texts, cut, zero]


def files_of(manifest: Manifest, kind: str) -> list[Path]:
    paths = {
        "tar": [path for shard_set in manifest.shard_sets for path in shard_set.shards.paths],
        "index": [path for shard_set in manifest.shard_sets for path in shard_set.shards.indexes],
        "view": [group.view.path for group in manifest.groups if group.view],
    }[kind]
    return [manifest.folder / path for path in paths]


def mutated(folder: Path, manifest: Manifest, kind: str) -> tuple[int, int]:
    """Return how many altered files were noticed and how many changed nothing; fail if one gave another pair."""
    copy = Manifest.load(shutil.copytree(manifest.folder, folder / "copy"))
    groups, rows = all_of(copy)
    right, noticed, harmless = ShardReader(copy).read(groups, rows), 0, 0
    files, generator = files_of(copy, kind), random.Random(f"{kind} {len(copy.texts)}")
    for number in range(MUTATIONS):
        path = generator.choice(files)
        intact = path.read_bytes()
        content = bytearray(intact)
        generator.choice(KINDS)(generator, content)
        if content == intact:
            continue
        path.write_bytes(content)
        found = ShardReader(copy).read_each(groups, rows)
        path.write_bytes(intact)
        wrong = [one for one, other in zip(found, right, strict=True) if isinstance(one, Pair) and one != other]
        assert not wrong, f"mutation {number} of {path} gave {wrong[0]}"
        noticed += any(isinstance(one, DataError) for one in found)
        harmless += found == right
    return noticed, harmless


@pytest.mark.parametrize(
    ("layout", "kind"),
    [("shipped", "tar"), ("shipped", "index"), ("viewed", "tar"), ("viewed", "index"), ("viewed", "view")],
)
def test_no_altered_file_gives_another_pair(
    layout: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    noticed, harmless = mutated(tmp_path, request.getfixturevalue(layout), kind)
    assert noticed > MUTATIONS * 0.3
    # A tar is mostly headers and padding, which nobody reads.
    assert harmless == 0 or kind == "tar"


def test_two_swapped_rows_of_a_view_are_noticed(viewed: Manifest, tmp_path: Path) -> None:
    copy = Manifest.load(shutil.copytree(viewed.folder, tmp_path / "copy"))
    path = copy.folder / "p" / "en-de.npy"
    view = np.load(path)
    view[[0, 1]] = view[[1, 0]]
    np.save(path, view)
    number = [group.name for group in copy.groups].index("p/en-de")
    with pytest.raises(DataError, match=r"en-de\.npy .* has changed \(its SHA-256 is not the manifest's\)"):
        ShardReader(copy).read(np.array([number]), np.array([5]))


def test_a_view_with_a_row_twice_is_refused_even_if_its_digest_is_right(viewed: Manifest, tmp_path: Path) -> None:
    copy = Manifest.load(shutil.copytree(viewed.folder, tmp_path / "copy"))
    path = copy.folder / "p" / "en-de.npy"
    view = np.load(path)
    view[3] = view[4]
    np.save(path, view)
    copy = as_if_built_so(copy)
    number = [group.name for group in copy.groups].index("p/en-de")
    with pytest.raises(DataError, match=f"two of its pairs are row {view[4]}"):
        ShardReader(copy).read(np.array([number]), np.array([5]))
    with pytest.raises(DataError, match=f"two of its pairs are row {view[4]}"):
        check(copy.folder, workers=1)


@pytest.mark.parametrize("layout", ["shipped", "viewed"])
def test_shards_without_checksumss_are_read_and_the_check_says_so(
    layout: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    manifest = request.getfixturevalue(layout)
    older = as_built_before_checksums(Manifest.load(shutil.copytree(manifest.folder, tmp_path / "copy")))
    assert older.fingerprint == manifest.fingerprint
    assert older.shard_sets != manifest.shard_sets
    assert ShardReader(older).read(*all_of(older)) == ShardReader(manifest).read(*all_of(manifest))
    report = check(older.folder, workers=1)
    assert f"{report.shards} shards were built before samples had checksums" in report.text()
    assert "checksums" not in check(manifest.folder, workers=1).text()


def test_a_file_that_changes_after_it_was_opened_is_compared_again(built: Callable[..., Manifest]) -> None:
    manifest = built(shard_rows=2)
    reader = ShardReader(manifest, open_shards=1)
    expected = reader.read(np.zeros(12, np.int64), np.arange(12))
    path = manifest.folder / manifest.groups[0].shards[0].index
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.unlink()
    path.write_bytes(content)
    found = reader.read_each(np.zeros(12, np.int64), np.arange(12))
    assert [isinstance(one, DataError) for one in found[:2]] == [True, True]
    assert found[2:] == expected[2:]
