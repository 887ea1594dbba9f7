"""Reader of pairs by (group, row), in any order: one seek per sample, no stream and no state.

Nothing is ever unpickled or extracted: samples are JSON, read by offset, and indexes are plain arrays. A pair of a group
that has shards is one sample; a pair of a view is made of two, one in each of its languages. Each sample is compared with its
checksum in the index, if the shards were built with checksums.

Shape suffixes: P pairs · S samples · 2 the query and the document of each pair.
"""

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hbdist.data.shards.cache import CACHE_GB, Cache
from hbdist.data.shards.groups import Group
from hbdist.data.shards.length_table import LengthTable
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.open_files import READ_AT_ONCE, OpenFiles
from hbdist.data.shards.remote import Remote, StoreError
from hbdist.data.shards.sample import LanguageSample, Pair, decode_language_sample, decode_pair
from hbdist.errors import ConfigError, DataError
from hbdist.utils.philox import by_label
from hbdist.utils.processes import raise_open_files_limit

__all__ = ["Pair", "ShardReader"]

OPEN_SHARDS = 8_192
"""Most shards, and most views, that a reader keeps open; fewer if the process may not have four times as many open files. A
shard takes two file descriptors and a view one."""

_DAMAGES = (OSError, ValueError, RecursionError)
"""Exceptions that damaged files raise; the last one for JSON of a thousand brackets."""
_QUERY, _DOCUMENT = 0, 1
Ints = NDArray[np.int64]


class _Fault(NamedTuple):
    """The reason why a sample cannot be read."""

    error: Exception
    path: str
    """Path of the faulty file, in the shard folder."""


Sample = Pair | LanguageSample | _Fault
"""Result of reading one sample: a pair, one language of a pair, or why there is neither."""


class ShardReader:
    """Pairs of a shard folder, local or remote. Opens shards when they are needed; can be pickled and forked.

    Args:
        open_shards: number of shards, and of views, that stay open; unset: as many as the limit of open files allows.
        cache_gb: gigabytes that remote shards may take on this machine, those of other processes included.
    """

    def __init__(self, manifest: Manifest, *, open_shards: int | None = None, cache_gb: float = CACHE_GB) -> None:
        self.manifest = manifest
        self.open_shards = open_shards
        self.cache_gb = cache_gb

    def lengths(self, groups: Ints | int, rows: Ints) -> tuple[Ints, Ints]:
        """Return the characters of the queries and of the documents of pairs (group, row); one group may be for all rows.

        Rows are counted within the group, over its shards in order. Only indexes are opened or fetched, each once.

        Raises:
            DataError: an index is missing or damaged.
        """
        row_P = np.asarray(rows, np.int64)
        group_P = np.broadcast_to(np.asarray(groups, np.int64), row_P.shape)
        assert not len(row_P) or (row_P.min() >= 0 and (row_P < self._rows_of_groups[group_P]).all()), "rows outside"
        source_P = row_P.copy()
        for positions in _of_views(group_P, self._sets_of_groups):
            _, source_P[positions] = self._sources(int(group_P[positions[0]]), row_P[positions])

        def fill(set_S: Ints, row_S: Ints) -> None:
            for set_number, number, positions, _ in self._by_shard(set_S, row_S):
                try:
                    entries = self._index(set_number, number)
                except _DAMAGES as error:
                    wanted = np.flatnonzero(
                        (self._sets_of_groups[group_P] == set_number).any(axis=1) & (source_P == row_S[positions[0]])
                    )[0]
                    fault = _Fault(error, self._path(set_number, number))
                    raise self._explain(fault, int(group_P[wanted]), int(row_P[wanted])) from None
                self._lengths.put(set_number, self.manifest.shard_sets[set_number].first_row(number), entries)

        set_2P = self._sets_of_groups[group_P].T
        query_P2 = self._lengths.get(set_2P[_QUERY], source_P, fill)
        whole = np.array_equal(*set_2P)
        document_P2 = query_P2 if whole else self._lengths.get(set_2P[_DOCUMENT], source_P, fill)
        return query_P2[:, _QUERY].astype(np.int64), document_P2[:, _DOCUMENT].astype(np.int64)

    def read(self, groups: Ints, rows: Ints) -> list[Pair]:
        """Return the pairs (group, row) in the order requested; the same pair may be requested more than once.

        Raises:
            DataError: a shard is missing, truncated or damaged; the message names it and the row.
        """
        pairs = []
        for result in self.read_each(groups, rows):
            if isinstance(result, DataError):
                raise result
            pairs.append(result)
        return pairs

    def read_each(self, groups: Ints, rows: Ints) -> list[Pair | DataError]:
        """Return the pairs (group, row) in the order requested; for a pair that cannot be read, the error that says why.

        Raises:
            StoreError: a remote store does not answer or denies access, which says nothing about the rows.
        """
        group_P, row_P = np.asarray(groups, np.int64), np.asarray(rows, np.int64)
        assert group_P.shape == row_P.shape, f"{group_P.shape} groups for {row_P.shape} rows"
        set_2P, source_P = np.zeros((2, len(group_P)), np.int64), np.zeros_like(row_P)
        failed: dict[int, DataError] = {}
        order = np.argsort(group_P, kind="stable")
        for positions in _runs(order, group_P[order]):
            try:
                sets, source_P[positions] = self._sources(int(group_P[positions[0]]), row_P[positions])
                set_2P[:, positions] = np.reshape(sets, (2, 1))
            except DataError as error:
                failed |= dict.fromkeys(positions.tolist(), error)
        readable = np.setdiff1d(np.arange(len(group_P)), list(failed))
        # Where query and document are in the same shard set, they are in one sample.
        split = readable[set_2P[_QUERY, readable] != set_2P[_DOCUMENT, readable]]
        set_S = np.concatenate((set_2P[_QUERY, readable], set_2P[_DOCUMENT, split]))
        samples = self._samples(set_S, source_P[np.concatenate((readable, split))])
        queries = dict(zip(readable.tolist(), samples, strict=False))
        documents = queries | dict(zip(split.tolist(), samples[len(readable) :], strict=True))
        return [
            failed[position] if position in failed else self._pair(queries[position], documents[position], group, row)
            for position, (group, row) in enumerate(zip(group_P.tolist(), row_P.tolist(), strict=True))
        ]

    def _pair(self, query: Sample, document: Sample, group: int, row: int) -> Pair | DataError:
        if isinstance(query, Pair):
            return query
        if isinstance(query, LanguageSample) and isinstance(document, LanguageSample):
            return Pair(
                dataset=self.manifest.groups[group].dataset,
                id=query.id,
                query=query.query,
                document=document.document,
                query_lang=query.lang,
                document_lang=document.lang,
                negatives=document.negatives,
                document_id=document.document_id,
            )
        fault = query if isinstance(query, _Fault) else document
        assert isinstance(fault, _Fault), fault
        return self._explain(fault, group, row)

    def _sources(self, group_number: int, row_P: Ints) -> tuple[tuple[int, int], Ints]:
        """Return the shard sets of the queries and of the documents of these rows of a group, and their rows in both.

        Raises:
            DataError: the group is a view, and the view cannot be read.
        """
        group = self.manifest.groups[group_number]
        if group.view is None:
            return (group_number, group_number), row_P
        assert not len(row_P) or 0 <= row_P.min() <= row_P.max() < group.rows, f"rows outside group {group_number}"
        try:
            return self.manifest.text_sets(group), self._open_files.view(group_number)[row_P].astype(np.int64)
        except _DAMAGES as error:
            raise self._explain(_Fault(error, group.view.path), group_number, int(row_P[0])) from None

    def _by_shard(self, set_S: Ints, row_S: Ints) -> Iterator[tuple[int, int, Ints, Ints]]:
        """Yield, for each shard that has some of the rows: its shard set, its number in the set, the positions of its
        rows in `row_S`, and their rows in the shard.

        Shards come one after another and rows in ascending order: disks read fastest so, and each shard is opened once.
        """
        order = np.lexsort((row_S, set_S))
        for of_set in _runs(order, set_S[order]):
            set_number, wanted = int(set_S[of_set[0]]), row_S[of_set]
            shard_set = self.manifest.shard_sets[set_number]
            if isinstance(shard_set, Group):
                assert 0 <= wanted[0] <= wanted[-1] < shard_set.starts[-1], f"rows outside group {set_number}"
            number_S, inside_S = shard_set.locate(wanted)
            for run in _runs(np.arange(len(wanted)), number_S):
                yield set_number, int(number_S[run[0]]), of_set[run], inside_S[run]

    def _samples(self, set_S: Ints, row_S: Ints) -> list[Sample]:
        samples: dict[int, Sample] = {}
        for set_number, number, positions, inside in self._by_shard(set_S, row_S):
            samples |= zip(positions.tolist(), self._read_shard(set_number, number, inside), strict=True)
        return [samples[position] for position in range(len(row_S))]

    def _read_shard(self, set_number: int, number: int, inside: Ints) -> Iterator[Sample]:
        """Yield the samples of these rows of a shard."""
        shard_set, path = self.manifest.shard_sets[set_number], self._path(set_number, number)
        try:
            entries, tar = self._index(set_number, number)[inside], self._open_files.tar(set_number, number)
        except _DAMAGES as error:
            yield from [_Fault(error, path)] * len(inside)
            return
        for start in range(0, len(entries), READ_AT_ONCE):
            for payload in tar.read(entries[start : start + READ_AT_ONCE]):
                try:
                    if isinstance(payload, Exception):
                        raise payload
                    if isinstance(shard_set, Group):
                        yield decode_pair(payload, dataset=shard_set.dataset)
                    else:
                        yield decode_language_sample(payload, language=shard_set.language)
                except _DAMAGES as error:
                    yield _Fault(error, path)

    def _index(self, set_number: int, number: int) -> NDArray[np.void]:
        if number < 0:
            raise ValueError("the texts have no such row")
        return self._open_files.index(set_number, number)

    def _path(self, set_number: int, number: int) -> str:
        shard_set = self.manifest.shard_sets[set_number]
        return shard_set.shards.paths[number] if number >= 0 else shard_set.name

    def _explain(self, fault: _Fault, group: int, row: int) -> DataError:
        """Return the error for a user who wanted this row.

        Raises:
            StoreError, ConfigError: the fault is one of these, and says nothing about the row.
        """
        error, root = fault.error, self.manifest.root
        if isinstance(error, StoreError | ConfigError):
            raise error
        where = f"{root / fault.path} (wanted: row {row} of {self.manifest.groups[group].name})"
        if isinstance(error, DataError):
            return DataError(f"{where}: {error}")
        what = f"is damaged: {error}"
        if isinstance(error, OSError):
            missing = isinstance(error, FileNotFoundError)
            what = f"is missing ({error.filename})" if missing else f"cannot be read: {error}"
        local_copy = ""
        if isinstance(root, Remote):
            local_copy = f" If the check finds nothing, delete the local copies in {self._cache.folder}."
        return DataError(
            f"{where} {what}. See what else is damaged with `hbdist check {root}`, then build it again with "
            f"`hbdist build RECIPE`.{local_copy}"
        )

    @cached_property
    def _cache(self) -> Cache:
        return Cache.of_machine(self.cache_gb)

    @cached_property
    def _open_files(self) -> OpenFiles:
        limit = self.open_shards or min(OPEN_SHARDS, max(1, raise_open_files_limit() // 4))
        return OpenFiles(self.manifest, self._cache, limit)

    @cached_property
    def _lengths(self) -> LengthTable:
        return LengthTable(self.manifest.shard_sets)

    @cached_property
    def _rows_of_groups(self) -> Ints:
        return np.array([group.rows for group in self.manifest.groups], np.int64)

    @cached_property
    def _sets_of_groups(self) -> Ints:
        """Shard sets of the queries and of the documents of each group: [groups, 2]."""
        numbered = enumerate(self.manifest.groups)
        sets = [self.manifest.text_sets(group) if group.view else (number, number) for number, group in numbered]
        return np.array(sets, np.int64).reshape(-1, 2)

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments alone: file descriptors mean nothing in another process."""
        return {"manifest": self.manifest, "open_shards": self.open_shards, "cache_gb": self.cache_gb}


def _of_views(group_P: Ints, set_G2: Ints) -> Iterator[Ints]:
    """Yield the positions of the pairs of each group that is a view."""
    positions = np.flatnonzero(set_G2[group_P, 0] != group_P)
    groups = group_P[positions]
    # NumPy sorts 16-bit numbers by radix, several times as fast.
    order = positions[by_label(groups) if len(set_G2) <= 1 << 16 else np.argsort(groups, kind="stable")]
    return _runs(order, group_P[order])


def _runs(values: Ints, labels: Ints) -> Iterator[Ints]:
    """Cut `values` wherever the label changes."""
    cuts = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    return (values[start:stop] for start, stop in pairwise([0, *cuts.tolist(), len(values)]) if start < stop)
