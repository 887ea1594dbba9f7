import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from damage import as_if_built_so
from hypothesis import given
from hypothesis import strategies as st
from reads_remotely import all_of
from shard_sources import parallel, row
from torch.utils.data import DataLoader, Dataset

from hbdist.data.build.build import build
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import Pair, ShardReader
from hbdist.data.shards.sample import INDEX
from hbdist.errors import DataError

Build = Callable[..., Manifest]
TEXT = st.text(min_size=1).filter(lambda text: text.strip())


def group_number(manifest: Manifest, name: str) -> int:
    return [group.name for group in manifest.groups].index(name)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("identity")


@given(
    texts=st.lists(st.tuples(TEXT, TEXT, st.lists(TEXT, max_size=2), st.none() | TEXT), min_size=1, max_size=8),
    shard_rows=st.integers(1, 4),
)
def test_what_is_built_is_what_is_read(
    texts: list[tuple[str, str, list[str], str | None]], shard_rows: int, scratch: Path
) -> None:
    rows = [
        {"id": f"i{n}", "query": f"{n}{query}", "document": document, "negatives": negatives, "document_id": name}
        for n, (query, document, negatives, name) in enumerate(texts)
    ]
    manifest = build(parallel(scratch, {"en": rows}, shard_rows=shard_rows), scratch / "built", workers=1)
    groups, numbers = all_of(manifest)
    assert ShardReader(manifest).read(groups, numbers) == [
        Pair("p", row["id"], row["query"], row["document"], "en", "en", tuple(row["negatives"]), row["document_id"])
        for row in rows
    ]
    query_chars, document_chars = ShardReader(manifest).lengths(0, numbers)
    assert query_chars.tolist() == [len(row["query"]) for row in rows]
    assert document_chars.tolist() == [len(row["document"]) for row in rows]


def test_pairs_come_in_the_order_requested(shipped: Manifest) -> None:
    groups, rows = all_of(shipped)
    in_order = ShardReader(shipped).read(groups, rows)
    shuffled = np.random.default_rng(0).integers(0, len(rows), 500)  # repeats among them
    reader = ShardReader(shipped, open_shards=2)
    assert reader.read(groups[shuffled], rows[shuffled]) == [in_order[index] for index in shuffled]


def test_lengths_come_in_the_order_requested(shipped: Manifest) -> None:
    rows = np.array([24, 0, 11, 11, 3])
    group = group_number(shipped, "p/en-de")
    pairs = ShardReader(shipped).read(np.full(5, group), rows)
    query_chars, document_chars = ShardReader(shipped).lengths(group, rows)
    assert query_chars.tolist() == [len(pair.query) for pair in pairs]
    assert document_chars.tolist() == [len(pair.document) for pair in pairs]


def test_no_rows_give_no_pairs(shipped: Manifest) -> None:
    nothing = np.array([], np.int64)
    assert ShardReader(shipped).read(nothing, nothing) == []
    assert [part.tolist() for part in ShardReader(shipped).lengths(0, nothing)] == [[], []]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts file descriptors in /proc")
def test_the_number_of_open_shards_is_bounded(shipped: Manifest) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    reader = ShardReader(shipped, open_shards=3)
    reader.read(*all_of(shipped))
    assert before < descriptors() <= before + 2 * 3
    del reader
    assert descriptors() <= before


def test_a_reader_that_has_read_can_be_pickled(shipped: Manifest) -> None:
    reader = ShardReader(shipped)
    expected = reader.read(*all_of(shipped))
    assert pickle.loads(pickle.dumps(reader)).read(*all_of(shipped)) == expected


class Rows(Dataset):
    def __init__(self, reader: ShardReader, group: int) -> None:
        self.reader, self.group = reader, group

    def __len__(self) -> int:
        return self.reader.manifest.groups[self.group].rows

    def __getitem__(self, row: int) -> str:
        return self.reader.read(np.array([self.group]), np.array([row]))[0].id


def test_a_reader_works_in_the_workers_of_a_data_loader(shipped: Manifest) -> None:
    reader = ShardReader(shipped)
    reader.read(*all_of(shipped))
    loader = DataLoader(Rows(reader, 0), batch_size=5, num_workers=2)
    assert [name for names in loader for name in names] == [f"i{n}" for n in range(25)]


def test_plain_webdataset_reads_the_shards(shipped: Manifest) -> None:
    number = group_number(shipped, "p/de-ar")
    tars = [str(shipped.root / shard.path) for shard in shipped.groups[number].shards]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
    pairs = ShardReader(shipped).read(np.full(25, number), np.arange(25))
    assert [sample["__key__"] for sample in samples] == [f"{n:09d}" for n in range(25)]
    assert [sample["json"] for sample in samples] == [
        {
            "id": pair.id,
            "query": pair.query,
            "document": pair.document,
            "query_lang": "de",
            "document_lang": "ar",
        }
        for pair in pairs
    ]


def replace_bytes(old: bytes, new: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes().replace(old, new))


def move_third_sample(index: Path) -> None:
    entries = np.load(index)
    entries["offset"][2] = 10**9
    np.save(index, entries)


@pytest.mark.parametrize(
    ("file", "damage", "row", "message"),
    [
        ("000001.tar", lambda tar: os.truncate(tar, 1000), 7, "it has 1000 bytes, the manifest says 10240"),
        ("000002.tar", Path.unlink, 11, "row 11 of p/de-de) is missing"),
        ("000000.tar", replace_bytes(b'{"id":"i3"', b'{"id":"i3]'), 3, "row 3 of p/de-de) is damaged"),
        (
            "000000.tar",
            replace_bytes(b'"document":"d4', b'"documemt":"d4'),
            4,
            "bytes at 4608 have changed (their checksum",
        ),
        ("000000.index.npy", move_third_sample, 2, "its index p/de-de/000000.index.npy has changed (its SHA-256"),
        *(
            ("000000.index.npy", lambda index, content=content: index.write_bytes(content), 0, "cannot be read")
            for content in (b"", b"\x93NUMPY nonsense", b"plain text")
        ),
        (
            "000000.index.npy",
            lambda index: np.save(index, np.array([{"an": "object"}]), allow_pickle=True),
            0,
            "its index p/de-de/000000.index.npy cannot be read (it has (1,) entries of object, expected 5 entries",
        ),
        (
            "000000.index.npy",
            lambda index: index.write_bytes(index.with_name("000002.index.npy").read_bytes()),
            0,
            "expected 5 entries",
        ),
    ],
)
def test_damage_is_reported_with_the_shard_and_the_row_and_spares_other_shards(
    built: Build, file: str, damage: Callable[[Path], object], row: int, message: str
) -> None:
    manifest = built(shard_rows=5)
    expected = ShardReader(manifest).read(np.zeros(12, np.int64), np.arange(12))
    damage(manifest.folder / "p" / "de-de" / file)
    with pytest.raises(DataError) as error:
        ShardReader(manifest).read(np.array([0]), np.array([row]))
    assert f"{manifest.root}/p/de-de/{file[:6]}.tar (wanted: row {row} of p/de-de) is " in str(error.value)
    assert message in str(error.value)
    assert f"hbdist check {manifest.root}" in str(error.value)
    intact = np.array([other for other in range(12) if other // 5 != row // 5])
    assert ShardReader(manifest).read(np.zeros_like(intact), intact) == [expected[other] for other in intact]


def test_a_damaged_sample_spares_the_others_of_its_shard(built: Build) -> None:
    manifest = built()
    replace_bytes(b'{"id":"i3"', b'{"id":"i3]')(manifest.folder / manifest.groups[0].shards[0].path)
    assert ShardReader(manifest).read(np.array([0]), np.array([2]))[0].id == "i2"


def test_a_row_outside_its_group_is_the_callers_mistake(shipped: Manifest) -> None:
    with pytest.raises(AssertionError, match="rows outside group 0"):
        ShardReader(shipped).read(np.array([0]), np.array([25]))


def test_ids_are_the_same_over_the_languages(shipped: Manifest) -> None:
    pairs = [ShardReader(shipped).read(np.array([group]), np.array([9]))[0] for group in range(len(shipped.groups))]
    assert {pair.id for pair in pairs} == {row(9, "en")["id"]}


def test_rows_that_cannot_be_read_are_errors_among_the_pairs(built: Build, shipped: Manifest) -> None:
    manifest = built(shard_rows=5)
    groups, rows = np.zeros(4, np.int64), np.array([7, 3, 11, 0])
    expected = ShardReader(manifest).read(groups, rows)
    (manifest.root / manifest.groups[0].shards[1].path).unlink()
    first = manifest.root / manifest.groups[0].shards[0].path
    first.write_bytes(first.read_bytes().replace(b'{"id":"i3"', b'{"id":"i3]'))
    results = ShardReader(manifest).read_each(groups, rows)
    assert [str(result).split(")")[0] for result in results[:2]] == [
        f"{manifest.root}/p/de-de/000001.tar (wanted: row 7 of p/de-de",
        f"{first} (wanted: row 3 of p/de-de",
    ]
    assert results[2:] == expected[2:]


@pytest.fixture(scope="module")
def damageable(scratch: Path) -> Manifest:
    recipe = parallel(scratch / "rows", {"en": [row(n, "en") for n in range(6)]}, shard_rows=6)
    return build(recipe, scratch / "damageable", workers=1)


@given(damage=st.lists(st.tuples(st.integers(0, 10239), st.integers(0, 255)), max_size=30), cut=st.integers(0, 12000))
def test_damage_of_a_shard_or_its_index_gives_only_pairs_and_data_errors(
    damage: list[tuple[int, int]], cut: int, damageable: Manifest
) -> None:
    (shard,) = damageable.groups[0].shards
    for path in (damageable.root / shard.path, damageable.root / shard.index):
        intact = path.read_bytes()
        content = bytearray(intact)
        for position, value in damage:
            content[position % len(content)] = value
        path.write_bytes(content[:cut])
        results = ShardReader(damageable).read_each(np.zeros(6, np.int64), np.arange(6))
        path.write_bytes(intact)
        assert all(isinstance(result, Pair | DataError) for result in results)


def test_json_of_a_thousand_brackets_is_refused(built: Build) -> None:
    manifest = built({language: [row(0, language, query="[" * 200_000)] for language in ("en", "de")})
    path = manifest.root / manifest.groups[0].shards[0].path
    path.write_bytes(path.read_bytes().replace(b'{"id":"i0","query":"[', b"[[[[[[[[[[[[[[[[[[[[["))
    with pytest.raises(DataError, match=r"row 0 of p/de-de\) is damaged"):
        ShardReader(manifest).read(np.array([0]), np.array([0]))


def test_reading_extracts_nothing(built: Build, tmp_path: Path) -> None:
    manifest = built()
    path = manifest.root / manifest.groups[0].shards[0].path
    path.write_bytes(path.read_bytes().replace(b"000000003.json", b"../../out.json"))
    before = set(tmp_path.rglob("*"))
    assert ShardReader(manifest).read(np.array([0]), np.array([3]))[0].id == "i3"
    assert set(tmp_path.rglob("*")) == before


def test_an_index_header_of_another_numpy_version_is_read(built: Build) -> None:
    manifest = built()
    expected = ShardReader(manifest).read(np.zeros(12, np.int64), np.arange(12))
    path = manifest.root / manifest.groups[0].shards[0].index
    content, size = path.read_bytes(), 12 * INDEX.itemsize
    header, entries = content[10:-size], content[-size:]
    other = header.rstrip() + b" " * 63 + b"\n"
    path.write_bytes(content[:8] + len(other).to_bytes(2, "little") + other + entries)
    manifest = as_if_built_so(manifest)
    assert ShardReader(manifest).read(np.zeros(12, np.int64), np.arange(12)) == expected
