"""Data loader: item n is this rank's share of the global batch of step n, read, tokenised and cut into chunks.

The schedule says which pairs are in the batch. They are dealt to the ranks so that all have about equally many tokens, and
each rank reads only its own.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from hbdist.config.config import Config
from hbdist.data.batching.hard_negatives import draw_hard_negatives
from hbdist.data.batching.schedule import GlobalBatch, Schedule, deal_to_rank
from hbdist.data.shards.groups import Group
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import Pair, ShardReader
from hbdist.errors import DataError, HbdistError
from hbdist.loss.masks import NO_IDENTITY
from hbdist.loss.shapes import IDENTITIES
from hbdist.models.tokenizer import Tokenize
from hbdist.training.batch import BatchCounts, FlatBatch, FlatTexts, RankBatch
from hbdist.training.read_ahead import read_ahead

SAMPLE_ROWS = 32
"""Number of rows of a group on which token rates are measured."""
MAX_REPORTED = 10
"""Number of skipped pairs per rank whose errors are printed; all are counted."""


class Share(NamedTuple):
    """A rank's share of a global batch, before anything of it is read."""

    batch: GlobalBatch
    dealt: np.ndarray
    """Indexes of this rank's pairs in the global batch: int64."""
    pools: dict[str, int]
    """Number of pairs of each language pair in the global batch."""
    repeats: int
    """Number of pairs of the global batch that repeat an earlier one."""


class Batches(Dataset[RankBatch]):
    """Data set whose item n is this rank's share of global batch n.

    Args:
        token_rates: tokens per character of each language, the same on every rank (see `measure_token_rates`).

    Raises:
        ConfigError: the mixture cannot be made from these shards, or the model does not know one of its languages.
    """

    def __init__(
        self,
        config: Config,
        manifest: Manifest,
        tokenize: Tokenize,
        *,
        token_rates: Mapping[str, float],
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.config, self.manifest, self.tokenize, self.rank, self.world = config, manifest, tokenize, rank, world
        self.token_rates = dict(token_rates)
        self.schedule = Schedule.of(config, manifest)
        pools = [pool for kind in self.schedule.mixture.kinds for pool in kind.pools]
        groups = [manifest.groups[number] for pool in pools for number in pool.groups]
        tokenize.check(language for group in groups for language in (group.query_lang, group.document_lang))
        self.reader = ShardReader(manifest, cache_gb=config.data.cache_gb)
        self._first_row = np.cumsum([0, *(group.rows for group in manifest.groups)])

    def from_step(self, start: int) -> Iterator[RankBatch]:
        """Yield the batches from step `start` to the end of the run, read ahead by `data.workers` processes.

        Raises:
            DataError: as `__getitem__`.
            RuntimeError: a worker was killed, or is stuck.
        """
        steps, data = range(start, self.config.steps), self.config.data
        batches: Iterator[FlatBatch | HbdistError] = map(self.flat, steps)
        if data.workers:
            batches = read_ahead(_ErrorsAsItems(self), steps, workers=data.workers, timeout_s=data.timeout_s)
        reported = 0
        for batch in batches:
            if isinstance(batch, HbdistError):
                raise batch
            for error in batch.counts.unreadable[: MAX_REPORTED - reported]:
                print(
                    f"step {batch.step + 1}, rank {self.rank}: a pair is skipped. {error}", file=sys.stderr, flush=True
                )
                reported += 1
            yield batch.cut(self.tokenize.pad_token_id)

    def __getitem__(self, step: int) -> RankBatch:
        """Return this rank's share of a global batch.

        Raises:
            DataError: a shard is damaged or missing, or no pair of this rank can be read.
        """
        return self.flat(step).cut(self.tokenize.pad_token_id)

    def share(self, step: int) -> Share:
        """Plan a global batch and deal it: what every rank does for the whole batch, however many ranks there are.

        Raises:
            DataError: an index is damaged or missing.
        """
        batch = self.schedule.batch(step)
        lengths = estimate_tokens(self.reader, self.manifest, batch, self.token_rates).sum(axis=0)
        of_groups = np.bincount(batch.group, minlength=len(self.manifest.groups))
        pools: Counter[str] = Counter()
        for number in np.flatnonzero(of_groups).tolist():
            pools[self.manifest.groups[number].pair] += int(of_groups[number])
        rows = np.sort(self._first_row[batch.group] + batch.row)
        repeats = int(np.count_nonzero(rows[1:] == rows[:-1]))
        return Share(batch, deal_to_rank(lengths, self.rank, self.world), dict(pools), repeats)

    def flat(self, step: int) -> FlatBatch:
        """Return this rank's share of a global batch without tensors, as `__getitem__` does with them."""
        batch, dealt, pools, repeats = self.share(step)
        pairs, unreadable = self._read(batch.group[dealt], batch.row[dealt])
        dealt = np.delete(dealt, list(unreadable))
        if not pairs:
            raise DataError(
                f"Step {step + 1}, rank {self.rank}: no pair can be read. {next(iter(unreadable.values()))}"
            )
        negatives = self._draw_negatives(batch, dealt, pairs)
        place_M = np.flatnonzero(np.array(negatives, bool))
        of_places = [(negatives[place], place // self.config.loss.hard_negatives) for place in place_M.tolist()]
        queries, documents, truncated = self._tokens(batch.group[dealt], pairs, of_places)
        return FlatBatch(
            batch.step,
            queries,
            documents,
            identity_BI=np.array([_identities(pair) for pair in pairs], np.int64),
            block_B=batch.block[dealt],
            negative_identity_NI=np.array([*map(_text_identity, negatives)], np.int64).reshape(-1, IDENTITIES),
            negative_place_M=place_M,
            counts=BatchCounts(
                pools=pools,
                mono_share=float(batch.mono.mean()),
                repeats=repeats,
                tokens=len(queries.ids) + len(documents.ids),
                padded_tokens=queries.padded_tokens + documents.padded_tokens,
                truncated=truncated,
                negatives=len(place_M),
                unreadable=tuple(unreadable.values()),
            ),
            ids=self._ids(batch) if self.config.run.log_batches and self.rank == 0 else None,
        )

    def _tokens(
        self, groups: np.ndarray, pairs: Sequence[Pair], negatives: Sequence[tuple[str, int]]
    ) -> tuple[FlatTexts, FlatTexts, int]:
        """Return the tokens of queries and of documents, and the number of truncated texts. The hard negatives, given as
        (text, index of its pair), follow the pairs' own documents."""
        queries, documents = [pair.query for pair in pairs], [pair.document for pair in pairs]
        languages = [self.manifest.groups[number].document_lang for number in groups]
        languages += [languages[index] for _, index in negatives]
        query_ids, queries_cut = self.tokenize(
            queries, "query", [self.manifest.groups[number].query_lang for number in groups]
        )
        document_ids, documents_cut = self.tokenize(documents + [text for text, _ in negatives], "document", languages)
        chunk_tokens = self.config.loss.chunk_tokens
        return (
            FlatTexts.of(query_ids, chunk_tokens),
            FlatTexts.of(document_ids, chunk_tokens),
            queries_cut + documents_cut,
        )

    def _draw_negatives(self, batch: GlobalBatch, dealt: np.ndarray, pairs: Sequence[Pair]) -> list[str]:
        """Return the hard negatives of each pair, one after another; an empty text for each that the data lack."""
        hard = self.config.loss.hard_negatives
        if not hard:
            return []
        turns = [f"{batch.group[index]}/{batch.row[index]}/{batch.epoch[index]}" for index in dealt]
        return [
            negative
            for pair, turn in zip(pairs, turns, strict=True)
            for negative in draw_hard_negatives(pair, hard, key=f"{self.config.seed}/negatives of {turn}")
        ]

    def _read(self, groups: np.ndarray, rows: np.ndarray) -> tuple[list[Pair], dict[int, str]]:
        """Return the readable pairs, and the error message of each unreadable one by index (`data.on_error = "skip"`).

        A skipped pair is skipped on every rank: the others learn about this rank's pairs, and their number, only from what
        it sends to them. So nothing needs to be masked, and the loss is the mean over the pairs that were read.
        """
        if not self.config.data.skips_errors:
            return self.reader.read(groups, rows), {}
        items = self.reader.read_each(groups, rows)
        errors = {index: str(item) for index, item in enumerate(items) if isinstance(item, DataError)}
        return [item for item in items if isinstance(item, Pair)], errors

    def _ids(self, batch: GlobalBatch) -> list[str]:
        pairs, unreadable = self._read(batch.group, batch.row)
        groups = np.delete(batch.group, list(unreadable))
        return [f"{self.manifest.groups[g].name}/{pair.id}" for g, pair in zip(groups, pairs, strict=True)]


class _ErrorsAsItems(Dataset[FlatBatch | HbdistError]):
    """Batches with bad input as an item: an error raised in a worker would arrive as a traceback without its rank."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> FlatBatch | HbdistError:
        try:
            return self.batches.flat(step)
        except HbdistError as error:
            return error


def estimate_tokens(
    reader: ShardReader, manifest: Manifest, batch: GlobalBatch, token_rates: Mapping[str, float]
) -> np.ndarray:
    """Return the approximate number of tokens of each pair's query and document, from their characters: float64 [2, G]."""
    # 0 for languages that are in no batch.
    rates = [[token_rates.get(lang, 0.0) for lang in (one.query_lang, one.document_lang)] for one in manifest.groups]
    return np.stack(reader.lengths(batch.group, batch.row)) * np.array(rates)[batch.group].T


def measure_token_rates(
    manifest: Manifest, tokenize: Tokenize, *, must_read: Callable[[Group], bool] = lambda _: False
) -> dict[str, float]:
    """Return the tokens per character of each language, measured on the first rows of a group that has it.

    Only the balance between ranks depends on them, so a small sample is enough; but all ranks must use the same numbers, and so
    must all starts of a run: which units drop out depends on what a rank has been dealt.

    Args:
        must_read: tells of a group whether an unreadable pair of it is an error; by default, it is left out of the sample.

    Raises:
        DataError: a shard of a group that must be read is damaged or missing.
    """
    reader = ShardReader(manifest)
    rates: dict[str, float] = {}
    for number, group in enumerate(manifest.groups):
        if group.query_lang in rates and group.document_lang in rates:
            continue
        rows = np.arange(min(SAMPLE_ROWS, group.rows))
        items = reader.read_each(np.full_like(rows, number), rows)
        pairs = [item for item in items if isinstance(item, Pair)]
        if must_read(group) and len(pairs) < len(items):
            raise next(item for item in items if isinstance(item, DataError))
        queries, documents = [pair.query for pair in pairs], [pair.document for pair in pairs]
        for language, texts in ((group.query_lang, queries), (group.document_lang, documents)):
            rates.setdefault(language, tokenize.count(texts) / max(1, sum(map(len, texts))))
    return rates


def must_read(config: Config) -> Callable[[Group], bool]:
    """Return a function that tells whether a run trains on a group and stops at a pair that cannot be read."""
    data = config.data

    def is_needed(group: Group) -> bool:
        languages = not data.languages or {group.query_lang, group.document_lang} <= set(data.languages)
        return data.on_error == "stop" and languages and (not data.datasets or group.dataset in data.datasets)

    return is_needed


def _identities(pair: Pair) -> tuple[int, int, int, int]:
    """Return item, passage and text of a pair's document, and the text of its query: pairs that share any are no negatives."""
    item = _hash(f"item\0{pair.dataset}\0{pair.id}")
    passage = _hash(f"passage\0{pair.dataset}\0{pair.document_id}") if pair.document_id is not None else NO_IDENTITY
    return item, passage, _hash(f"text\0{pair.document}"), _hash(f"query\0{pair.query}")


def _text_identity(text: str) -> tuple[int, int, int, int]:
    """Return the identities of a hard negative, of which only the text is known."""
    return NO_IDENTITY, NO_IDENTITY, _hash(f"text\0{text}") if text else NO_IDENTITY, NO_IDENTITY


def _hash(text: str) -> int:
    # The lowest bit is set: never NO_IDENTITY.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True) | 1
