"""Reading pairs by (group, row), from any place in any order: a seek for each text's sample, no stream and no state.

Nothing is ever unpickled or extracted: samples are JSON, read by offset, and indexes are plain arrays. A pair of a group
that has shards is one sample; a pair of a view is one of each of its two languages.

Shape suffixes: P pairs · S samples of them.
"""

import os
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hbdist.data.shards.cache import CACHE_GB, Cache
from hbdist.data.shards.manifest import Group, Manifest, ShardSet
from hbdist.data.shards.open_files import Opened
from hbdist.data.shards.remote import Remote, StoreError
from hbdist.data.shards.sample import LanguageSample, Pair, decode, decode_one, pair_of
from hbdist.errors import ConfigError, DataError

__all__ = ["Pair", "ShardReader"]

OPEN_SHARDS = 256
"""Shards a reader keeps open, and as many views. Each shard takes two file descriptors and each view one, of the 1024 that
a process has by default."""

_DAMAGES = (OSError, ValueError, RecursionError)
"""What damaged files raise. The last: JSON of a thousand brackets."""
_QUERY, _DOCUMENT = 0, 1


class _Fault(NamedTuple):
    """Why a sample cannot be read."""

    error: Exception
    path: str
    """Of the file, in the shard folder."""


Sample = Pair | LanguageSample | _Fault
"""What is read at one place of a shard: a pair, one language of a pair, or why there is none."""


class ShardReader:
    """The pairs of a shard folder, local or remote. Opens shards when they are asked for; can be pickled and forked.

    Args:
        cache_gb: gigabytes that remote shards may take on this machine, those of other processes included.
    """

    def __init__(self, manifest: Manifest, *, open_shards: int = OPEN_SHARDS, cache_gb: float = CACHE_GB) -> None:
        self.manifest = manifest
        self.open_shards = open_shards
        self.cache_gb = cache_gb

    def lengths(self, group: int, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Characters of the queries and of the documents of these rows of a group of the manifest.

        Rows are counted within the group, over its shards in order. Only indexes are opened, or fetched.

        Raises:
            DataError: an index is missing or damaged.
        """
        row_P = np.asarray(rows, np.int64)
        chars_2P = np.empty((2, len(row_P)), np.int64)
        for shard_set, found_P, sides in self._sides(group, row_P):
            for _, number, places, inside in self._by_shard(np.full_like(found_P, shard_set), found_P):
                try:
                    entries = self._index(shard_set, number)[inside]
                except _DAMAGES as error:
                    fault = _Fault(error, self._path(shard_set, number))
                    raise self._explained(fault, group, int(row_P[places[0]])) from None
                for side in sides:
                    chars_2P[side, places] = entries["document_chars" if side else "query_chars"]
        return chars_2P[_QUERY], chars_2P[_DOCUMENT]

    def read(self, groups: NDArray[np.int64], rows: NDArray[np.int64]) -> list[Pair]:
        """The pairs (group, row), in the order asked; the same one may be asked for more than once.

        Raises:
            DataError: a shard is missing, truncated or damaged; the message names it and the row.
        """
        pairs = []
        for found in self.read_each(groups, rows):
            if isinstance(found, DataError):
                raise found
            pairs.append(found)
        return pairs

    def read_each(self, groups: NDArray[np.int64], rows: NDArray[np.int64]) -> list[Pair | DataError]:
        """The same, but where a pair cannot be read stands the error that says why.

        Raises:
            StoreError: a remote store does not answer or does not let us in, which says nothing about the rows.
        """
        group_P, row_P = np.asarray(groups, np.int64), np.asarray(rows, np.int64)
        assert group_P.shape == row_P.shape, f"{group_P.shape} groups for {row_P.shape} rows"
        shard_set_2P, found_2P = np.stack((group_P, group_P)), np.stack((row_P, row_P))
        faults: dict[int, DataError] = {}
        viewed = np.flatnonzero(self._is_view[group_P])
        for here in _runs(*_sorted(viewed, group_P)):
            group = int(group_P[here[0]])
            try:
                for shard_set, found, sides in self._sides(group, row_P[here]):
                    for side in sides:
                        shard_set_2P[side, here], found_2P[side, here] = shard_set, found
            except DataError as error:
                faults |= dict.fromkeys(here.tolist(), error)
        return self._pairs(group_P, row_P, shard_set_2P, found_2P, faults)

    def _pairs(
        self,
        group_P: NDArray[np.int64],
        row_P: NDArray[np.int64],
        shard_set_2P: NDArray[np.int64],
        found_2P: NDArray[np.int64],
        faults: dict[int, DataError],
    ) -> list[Pair | DataError]:
        """Pairs from where the samples of their queries and documents are; the same sample where the shard_set is the same."""
        sound = np.ones(len(group_P), bool)
        sound[list(faults)] = False
        of_two = np.flatnonzero(sound & (shard_set_2P[_QUERY] != shard_set_2P[_DOCUMENT]))
        firsts = np.flatnonzero(sound)
        samples = self._samples(
            np.concatenate((shard_set_2P[_QUERY, firsts], shard_set_2P[_DOCUMENT, of_two])),
            np.concatenate((found_2P[_QUERY, firsts], found_2P[_DOCUMENT, of_two])),
        )
        queries = dict(zip(firsts.tolist(), samples, strict=False))
        documents = dict(zip(of_two.tolist(), samples[len(firsts) :], strict=True))
        pairs: list[Pair | DataError] = []
        for place, (group, row) in enumerate(zip(group_P.tolist(), row_P.tolist(), strict=True)):
            query = queries.get(place)
            if isinstance(query, Pair):
                pairs.append(query)
            elif query is None:
                pairs.append(faults[place])
            else:
                pairs.append(self._joined(query, documents.get(place, query), group, row))
        return pairs

    def _joined(self, query: Sample, document: Sample, group: int, row: int) -> Pair | DataError:
        if isinstance(query, LanguageSample) and isinstance(document, LanguageSample):
            return pair_of(query, document, dataset=self.manifest.groups[group].dataset)
        fault = query if isinstance(query, _Fault) else document
        assert isinstance(fault, _Fault), fault
        return self._explained(fault, group, row)

    def _sides(self, group: int, row_P: NDArray[np.int64]) -> list[tuple[int, NDArray[np.int64], tuple[int, ...]]]:
        """Where rows of a group are: a shard_set, the rows there, and whether queries, documents or both are to be had there.

        Raises:
            DataError: it is a view, and cannot be read.
        """
        whole = self.manifest.groups[group]
        if whole.view is None:
            return [(group, row_P, (_QUERY, _DOCUMENT))]
        assert not len(row_P) or 0 <= row_P.min() <= row_P.max() < whole.rows, f"rows outside group {group}"
        try:
            found_P = self._opened.view(group)[row_P].astype(np.int64)
        except _DAMAGES as error:
            raise self._explained(_Fault(error, whole.view.path), group, int(row_P[0])) from None
        query, document = self.manifest.sides(whole)
        if query == document:
            return [(query, found_P, (_QUERY, _DOCUMENT))]
        return [(query, found_P, (_QUERY,)), (document, found_P, (_DOCUMENT,))]

    def _by_shard(
        self, shard_set_S: NDArray[np.int64], row_S: NDArray[np.int64]
    ) -> Iterator[tuple[int, int, NDArray[np.int64], NDArray[np.int64]]]:
        """For each shard that holds some of the rows: its shard_set, its number there, their places, their numbers in it.

        Shard after shard and forward in each, as disks read fastest, and so that each is opened once.
        """
        order = np.lexsort((row_S, shard_set_S))
        for of_holder in _runs(order, shard_set_S[order]):
            place, wanted = int(shard_set_S[of_holder[0]]), row_S[of_holder]
            shard_set = self._shard_sets[place]
            if isinstance(shard_set, Group):
                assert 0 <= wanted[0] <= wanted[-1] < shard_set.starts[-1], f"rows outside group {place}"
            number_S, inside_S = shard_set.locate(wanted)
            for places in _runs(np.arange(len(wanted)), number_S):
                yield place, int(number_S[places[0]]), of_holder[places], inside_S[places]

    def _samples(self, shard_set_S: NDArray[np.int64], row_S: NDArray[np.int64]) -> list[Sample]:
        samples: dict[int, Sample] = {}
        for shard_set, number, places, inside in self._by_shard(shard_set_S, row_S):
            for place, found in zip(places.tolist(), self._read(shard_set, number, inside), strict=True):
                samples[place] = _Fault(found, self._path(shard_set, number)) if isinstance(found, Exception) else found
        return [samples[place] for place in range(len(row_S))]

    def _read(
        self, shard_set: int, number: int, inside: NDArray[np.int64]
    ) -> Iterator[Pair | LanguageSample | Exception]:
        """The samples at these places of a shard; what is wrong where one cannot be read."""
        try:
            entries, tar = self._index(shard_set, number)[inside], self._opened.tar(shard_set, number)
        except _DAMAGES as error:
            yield from [error] * len(inside)
            return
        whole = self._shard_sets[shard_set]
        for offset, size in zip(entries["offset"].tolist(), entries["size"].tolist(), strict=True):
            try:
                payload = os.pread(tar.file, size, offset)
                if len(payload) != size:
                    raise ValueError(f"it has {len(payload)} bytes at {offset}, its index says {size}")
                if isinstance(whole, Group):
                    yield decode(payload, dataset=whole.dataset)
                else:
                    yield decode_one(payload, language=whole.language)
            except _DAMAGES as error:
                yield error

    def _index(self, shard_set: int, number: int) -> NDArray[np.void]:
        if number < 0:
            raise ValueError("the texts have no such row")
        return self._opened.index(shard_set, number)

    def _path(self, shard_set: int, number: int) -> str:
        whole = self._shard_sets[shard_set]
        return whole.shards.paths[number] if number >= 0 else whole.name

    def _explained(self, fault: _Fault, group: int, row: int) -> DataError:
        """What a user is told of a fault met on the way to a row.

        Raises:
            StoreError, ConfigError: the error is one of them, and says nothing about the row.
        """
        error, root = fault.error, self.manifest.root
        if isinstance(error, StoreError | ConfigError):
            raise error
        where = f"{root / fault.path} (wanted: row {row} of {self.manifest.groups[group].name})"
        if isinstance(error, DataError):
            return DataError(f"{where}: {error}")
        what = f"is missing ({error.filename})" if isinstance(error, FileNotFoundError) else f"is damaged: {error}"
        copy = f" If nothing is, empty {self._cache.folder}, where its copy lies." if isinstance(root, Remote) else ""
        return DataError(
            f"{where} {what}. See what else is damaged with `hbdist check {root}`, then build it again with "
            f"`hbdist build RECIPE`.{copy}"
        )

    @cached_property
    def _shard_sets(self) -> tuple[ShardSet, ...]:
        return self.manifest.shard_sets

    @cached_property
    def _is_view(self) -> NDArray[np.bool_]:
        return np.array([group.view is not None for group in self.manifest.groups], bool)

    @cached_property
    def _cache(self) -> Cache:
        return Cache.of_machine(self.cache_gb)

    @cached_property
    def _opened(self) -> Opened:
        return Opened(self.manifest, self._cache, self.open_shards)

    def __getstate__(self) -> dict[str, Any]:
        """What to open, not what is open: file descriptors mean nothing in another process."""
        return {"manifest": self.manifest, "open_shards": self.open_shards, "cache_gb": self.cache_gb}


def _sorted(places: NDArray[np.int64], label_P: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`places` in the order of their labels, and these labels."""
    order = places[np.argsort(label_P[places], kind="stable")]
    return order, label_P[order]


def _runs(places: NDArray[np.int64], labels: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """`places`, cut wherever the label of the next one is another."""
    cuts = np.flatnonzero(labels[1:] != labels[:-1]) + 1
    return (places[start:stop] for start, stop in pairwise([0, *cuts.tolist(), len(places)]) if start < stop)
