import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from shard_sources import parallel, row
from torch.utils.data import DataLoader, Dataset

from hbdist.data.build.build import build
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import Pair, ShardReader
from hbdist.errors import DataError

Build = Callable[..., Manifest]
TEXT = st.text(min_size=1).filter(lambda text: text.strip())


def all_of(manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
    counts = [group.rows for group in manifest.groups]
    return np.repeat(np.arange(len(counts)), counts), np.concatenate([np.arange(count) for count in counts])


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


def test_pairs_come_in_the_order_asked(shipped: Manifest) -> None:
    groups, rows = all_of(shipped)
    in_order = ShardReader(shipped).read(groups, rows)
    shuffled = np.random.default_rng(0).integers(0, len(rows), 500)  # repeats among them
    reader = ShardReader(shipped, open_shards=2)
    assert reader.read(groups[shuffled], rows[shuffled]) == [in_order[place] for place in shuffled]


def test_lengths_come_in_the_order_asked(shipped: Manifest) -> None:
    rows = np.array([24, 0, 11, 11, 3])
    group = group_number(shipped, "p/en-de")
    pairs = ShardReader(shipped).read(np.full(5, group), rows)
    query_chars, document_chars = ShardReader(shipped).lengths(group, rows)
    assert query_chars.tolist() == [len(pair.query) for pair in pairs]
    assert document_chars.tolist() == [len(pair.document) for pair in pairs]


def test_nothing_asked_nothing_read(shipped: Manifest) -> None:
    nothing = np.array([], np.int64)
    assert ShardReader(shipped).read(nothing, nothing) == []
    assert [part.tolist() for part in ShardReader(shipped).lengths(0, nothing)] == [[], []]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts file descriptors in /proc")
def test_the_bound_on_open_shards_holds(shipped: Manifest) -> None:
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


def test_a_reader_works_in_the_workers_of_a_loader(shipped: Manifest) -> None:
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


def refused(manifest: Manifest, row: int) -> str:
    with pytest.raises(DataError) as error:
        ShardReader(manifest).read(np.array([0]), np.array([row]))
    assert f"hbdist check {manifest.root}" in str(error.value)
    return str(error.value)


def test_a_truncated_shard_is_named_with_its_row(built: Build) -> None:
    manifest = built(shard_rows=5)
    path = manifest.root / manifest.groups[0].shards[1].path
    path.write_bytes(path.read_bytes()[:1000])
    message = refused(manifest, 7)
    assert f"{path} (wanted: row 7 of p/de-de)" in message
    assert "it has 1000 bytes, the manifest says 10240" in message
    assert ShardReader(manifest).read(np.array([0]), np.array([4])), "the shards that are whole can still be read"


def test_a_missing_shard_is_named_with_its_row(built: Build) -> None:
    manifest = built(shard_rows=5)
    path = manifest.root / manifest.groups[0].shards[2].path
    path.unlink()
    assert f"{path} (wanted: row 11 of p/de-de) is missing" in refused(manifest, 11)


def test_a_shard_whose_json_is_damaged_is_named_with_its_row(built: Build) -> None:
    manifest = built()
    path = manifest.root / manifest.groups[0].shards[0].path
    path.write_bytes(path.read_bytes().replace(b'{"id":"i3"', b'{"id":"i3]'))
    assert "row 3 of p/de-de) is damaged" in refused(manifest, 3)
    assert ShardReader(manifest).read(np.array([0]), np.array([2]))


def test_a_sample_without_a_document_is_named_with_its_row(built: Build) -> None:
    manifest = built()
    path = manifest.root / manifest.groups[0].shards[0].path
    path.write_bytes(path.read_bytes().replace(b'"document":"d5', b'"documemt":"d5'))
    assert "row 5 of p/de-de) is damaged: no document." in refused(manifest, 5)


def test_an_index_that_points_past_the_shard_is_refused(built: Build) -> None:
    manifest = built()
    path = manifest.root / manifest.groups[0].shards[0].index
    index = np.load(path)
    index["offset"][2] = 10**9
    np.save(path, index)
    assert "it has 0 bytes at 1000000000" in refused(manifest, 2)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY nonsense", b"plain text"])
def test_a_damaged_index_is_refused(built: Build, content: bytes) -> None:
    manifest = built()
    (manifest.root / manifest.groups[0].shards[0].index).write_bytes(content)
    assert "its index p/de-de/000000.index.npy cannot be read" in refused(manifest, 0)


def test_an_index_that_would_have_to_be_unpickled_is_refused(built: Build) -> None:
    manifest = built()
    np.save(manifest.root / manifest.groups[0].shards[0].index, np.array([{"an": "object"}]), allow_pickle=True)
    assert "it holds (1,) of object, expected 12 entries" in refused(manifest, 0)


def test_an_index_of_another_shard_is_refused(built: Build) -> None:
    manifest = built(shard_rows=5)
    one, _, last = (manifest.root / shard.index for shard in manifest.groups[0].shards)
    one.write_bytes(last.read_bytes())
    assert "expected 5 entries" in refused(manifest, 0)


def test_a_row_outside_its_group_is_the_callers_mistake(shipped: Manifest) -> None:
    with pytest.raises(AssertionError, match="rows outside group 0"):
        ShardReader(shipped).read(np.array([0]), np.array([25]))


def test_ids_are_the_same_over_the_languages(shipped: Manifest) -> None:
    pairs = [ShardReader(shipped).read(np.array([group]), np.array([9]))[0] for group in range(len(shipped.groups))]
    assert {pair.id for pair in pairs} == {row(9, "en")["id"]}


def test_rows_that_cannot_be_read_stand_as_errors_among_the_others(built: Build, shipped: Manifest) -> None:
    manifest = built(shard_rows=5)
    groups, rows = np.zeros(4, np.int64), np.array([7, 3, 11, 0])
    whole = ShardReader(manifest).read(groups, rows)
    (manifest.root / manifest.groups[0].shards[1].path).unlink()
    first = manifest.root / manifest.groups[0].shards[0].path
    first.write_bytes(first.read_bytes().replace(b'{"id":"i3"', b'{"id":"i3]'))
    found = ShardReader(manifest).read_each(groups, rows)
    assert [str(found[place]).split(")")[0] for place in (0, 1)] == [
        f"{manifest.root}/p/de-de/000001.tar (wanted: row 7 of p/de-de",
        f"{first} (wanted: row 3 of p/de-de",
    ]
    assert found[2:] == whole[2:]


@pytest.fixture(scope="module")
def victim(scratch: Path) -> Manifest:
    recipe = parallel(scratch / "rows", {"en": [row(n, "en") for n in range(6)]}, shard_rows=6)
    return build(recipe, scratch / "victim", workers=1)


@given(damage=st.lists(st.tuples(st.integers(0, 10239), st.integers(0, 255)), max_size=30), cut=st.integers(0, 12000))
def test_no_damage_of_a_shard_or_its_index_gives_anything_but_pairs_and_sentences(
    damage: list[tuple[int, int]], cut: int, victim: Manifest
) -> None:
    (shard,) = victim.groups[0].shards
    for path in (victim.root / shard.path, victim.root / shard.index):
        sound = path.read_bytes()
        content = bytearray(sound)
        for place, value in damage:
            content[place % len(content)] = value
        path.write_bytes(content[:cut])
        found = ShardReader(victim).read_each(np.zeros(6, np.int64), np.arange(6))
        path.write_bytes(sound)
        assert all(isinstance(one, Pair | DataError) for one in found)


def test_json_of_a_thousand_brackets_is_refused(built: Build) -> None:
    manifest = built({language: [row(0, language, query="[" * 200_000)] for language in ("en", "de")})
    path = manifest.root / manifest.groups[0].shards[0].path
    path.write_bytes(path.read_bytes().replace(b'{"id":"i0","query":"[', b"[[[[[[[[[[[[[[[[[[[[["))
    assert "row 0 of p/de-de) is damaged" in refused(manifest, 0)


def test_reading_extracts_nothing(built: Build, tmp_path: Path) -> None:
    manifest = built()
    path = manifest.root / manifest.groups[0].shards[0].path
    path.write_bytes(path.read_bytes().replace(b"000000003.json", b"../../out.json"))
    before = set(tmp_path.rglob("*"))
    assert ShardReader(manifest).read(np.array([0]), np.array([3]))[0].id == "i3"
    assert set(tmp_path.rglob("*")) == before


def test_a_header_as_another_numpy_writes_it_is_read(built: Build) -> None:
    manifest = built()
    expected = ShardReader(manifest).read(np.zeros(12, np.int64), np.arange(12))
    path = manifest.root / manifest.groups[0].shards[0].index
    content = path.read_bytes()
    header, entries = content[10 : -12 * 20], content[-12 * 20 :]
    other = header.rstrip() + b" " * 63 + b"\n"
    path.write_bytes(content[:8] + len(other).to_bytes(2, "little") + other + entries)
    assert ShardReader(manifest).read(np.zeros(12, np.int64), np.arange(12)) == expected
