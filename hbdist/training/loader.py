"""Step → this rank's part of its global batch, read, tokenised and cut into chunks: a `DataLoader` whose item n is step n.

The schedule says which pairs are in the batch; here they are dealt to the ranks so that each has as many tokens as the
others, and each rank reads only its own.

    B pairs on this rank · G pairs in the global batch · K hard negatives a pair · I = 4 identities of a document
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hbdist.config.config import Config
from hbdist.data.batching.schedule import GlobalBatch, Schedule, deal_to_ranks
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import Pair, ShardReader
from hbdist.errors import DataError
from hbdist.loss.masks import NO_IDENTITY
from hbdist.loss.shapes import IDENTITIES
from hbdist.models.tokenizer import Tokenize, make_chunks, pad
from hbdist.runs.signals import ignore_stop_signals
from hbdist.training.batch import BatchCounts, Chunk, RankBatch
from hbdist.utils.philox import permutation


class Batches(Dataset[RankBatch]):
    """Item n: this rank's part of global batch n.

    Args:
        token_rates: tokens a character of each language, the same on every rank (see `measure_token_rates`).
        rank, world: this process's place, and how many there are.

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
        self.config = config
        self.manifest = manifest
        self.schedule = Schedule.of(config, manifest)
        pools = [pool for kind in self.schedule.mixture.kinds for pool in kind.pools]
        groups = [manifest.groups[number] for pool in pools for number in pool.groups]
        tokenize.check(language for group in groups for language in (group.query_lang, group.document_lang))
        self.reader = ShardReader(manifest, cache_gb=config.data.cache_gb)
        self.tokenize = tokenize
        self.token_rates = dict(token_rates)
        self.rank = rank
        self.world = world

    def from_step(self, start: int) -> Iterator[RankBatch]:
        """The batches of steps `start` … the run's last, read ahead by `data.workers` processes."""
        workers = self.config.data.workers
        items = DataLoader(
            _ErrorsAsItems(self),
            batch_size=None,
            sampler=range(start, self.config.steps),
            num_workers=workers,
            # A forked copy of a process with running threads (torch, NCCL) can hang.
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=ignore_stop_signals,
        )
        told = 0
        for item in items:
            if isinstance(item, DataError):
                raise item
            for why in item.counts.unreadable[: TOLD - told]:
                print(f"step {item.step + 1}, rank {self.rank}: a pair is skipped. {why}", file=sys.stderr, flush=True)
                told += 1
            yield item

    def __getitem__(self, step: int) -> RankBatch:
        whole = self.schedule.batch(step)
        mine = deal_to_ranks(self._lengths(whole), self.world)[self.rank]
        pairs, unreadable = self._read(whole.group[mine], whole.row[mine])
        mine = np.delete(mine, list(unreadable))
        if not pairs:
            raise DataError(
                f"Step {step + 1}, rank {self.rank}: no pair can be read. {next(iter(unreadable.values()))}"
            )
        negatives = [
            negative
            for pair, place in zip(pairs, mine, strict=True)
            for negative in self._negatives(pair, f"{whole.group[place]}/{whole.row[place]}/{whole.epoch[place]}")
        ]
        hard = self.config.loss.hard_negatives
        block_B = torch.from_numpy(whole.block[mine])
        groups = [self.manifest.groups[number] for number in whole.group[mine]]
        document_languages = [group.document_lang for group in groups]
        query_ids, queries_cut = self.tokenize(
            [pair.query for pair in pairs], "query", [group.query_lang for group in groups]
        )
        document_ids, documents_cut = self.tokenize(
            [pair.document for pair in pairs] + negatives,
            "document",
            document_languages + [language for language in document_languages for _ in range(hard)],
        )
        query_chunks, document_chunks = self._chunks(query_ids), self._chunks(document_ids)
        return RankBatch(
            step=whole.step,
            query_chunks=query_chunks,
            document_chunks=document_chunks,
            identity_BI=torch.tensor([_identities(pair) for pair in pairs]),
            block_B=block_B,
            negative_identity_NI=torch.tensor([_text_identity(text) for text in negatives]).reshape(-1, IDENTITIES),
            negative_block_N=block_B.repeat_interleave(hard),
            counts=BatchCounts(
                pools=dict(Counter(self.manifest.groups[group].pair for group in whole.group)),
                mono_share=float(whole.mono.mean()),
                repeats=len(whole) - len(set(zip(whole.group.tolist(), whole.row.tolist(), strict=True))),
                tokens=sum(map(len, query_ids)) + sum(map(len, document_ids)),
                padded_tokens=sum(chunk.input_ids_BL.numel() for chunk in query_chunks + document_chunks),
                truncated=queries_cut + documents_cut,
                unreadable=tuple(unreadable.values()),
            ),
            ids=self._ids(whole) if self.config.run.log_batches and self.rank == 0 else None,
        )

    def _read(self, groups: np.ndarray, rows: np.ndarray) -> tuple[list[Pair], dict[int, str]]:
        """The pairs that can be read, and for the places of the others why not (`data.on_error = "skip"`).

        What is left out is left out on every rank: the others learn of this rank's pairs, and of their number, only by
        what it sends to them. So nothing needs to be masked, and the loss is the mean over the pairs that were read.
        """
        if self.config.data.on_error == "stop":
            return self.reader.read(groups, rows), {}
        found = self.reader.read_each(groups, rows)
        why = {place: str(error) for place, error in enumerate(found) if isinstance(error, DataError)}
        return [pair for pair in found if isinstance(pair, Pair)], why

    def _lengths(self, batch: GlobalBatch) -> np.ndarray:
        """About how many tokens each pair has: float64 [G]."""
        lengths = np.empty(len(batch))
        for number in np.unique(batch.group):
            here = batch.group == number
            group = self.manifest.groups[number]
            query, document = self.reader.lengths(int(number), batch.row[here])
            lengths[here] = (
                query * self.token_rates[group.query_lang] + document * self.token_rates[group.document_lang]
            )
        return lengths

    def _negatives(self, pair: Pair, key: str) -> list[str]:
        """K hard negatives of this pair, drawn by key; empty texts where it has fewer."""
        wanted = self.config.loss.hard_negatives
        order = permutation(f"{self.config.seed}/negatives of {key}", len(pair.negatives))[:wanted]
        return [pair.negatives[place] for place in order] + [""] * (wanted - len(order))

    def _chunks(self, ids: list[list[int]]) -> list[Chunk]:
        return [
            Chunk(*pad([ids[place] for place in places], self.tokenize.pad_token_id), torch.tensor(places))
            for places in make_chunks(ids, self.config.loss.chunk_tokens)
        ]

    def _ids(self, batch: GlobalBatch) -> list[str]:
        pairs, unreadable = self._read(batch.group, batch.row)
        groups = np.delete(batch.group, list(unreadable))
        return [f"{self.manifest.groups[g].name}/{pair.id}" for g, pair in zip(groups, pairs, strict=True)]


class _ErrorsAsItems(Dataset[RankBatch | DataError]):
    """The same batches, with bad input as an item: what a worker raises arrives as a traceback, without its rank."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> RankBatch | DataError:
        try:
            return self.batches[step]
        except DataError as error:
            return error


SAMPLE_ROWS = 32
TOLD = 10
"""Skipped pairs whose causes a rank tells; all are counted."""


def measure_token_rates(manifest: Manifest, tokenize: Tokenize) -> dict[str, float]:
    """Tokens a character of each language, measured on the first rows of a group that has it.

    Only balance between ranks rests on it, so a small sample is enough; but all ranks must use the same numbers.
    """
    reader = ShardReader(manifest)
    rates: dict[str, float] = {}
    for number, group in enumerate(manifest.groups):
        if group.query_lang in rates and group.document_lang in rates:
            continue
        rows = np.arange(min(SAMPLE_ROWS, group.rows))
        # One that cannot be read is told, or counted, when its turn in a batch comes.
        found = reader.read_each(np.full_like(rows, number), rows)
        pairs = [pair for pair in found if isinstance(pair, Pair)]
        for language, texts in (
            (group.query_lang, [pair.query for pair in pairs]),
            (group.document_lang, [pair.document for pair in pairs]),
        ):
            rates.setdefault(language, tokenize.count(texts) / max(1, sum(map(len, texts))))
    return rates


def _identities(pair: Pair) -> tuple[int, int, int, int]:
    """Item, passage and text of a pair's document, and the text of its query: what shares a number is no negative."""
    item = _hash(f"item\0{pair.dataset}\0{pair.id}")
    passage = _hash(f"passage\0{pair.dataset}\0{pair.document_id}") if pair.document_id is not None else NO_IDENTITY
    return item, passage, _hash(f"text\0{pair.document}"), _hash(f"query\0{pair.query}")


def _text_identity(text: str) -> tuple[int, int, int, int]:
    """A hard negative is known by its text alone."""
    return NO_IDENTITY, NO_IDENTITY, _hash(f"text\0{text}") if text else NO_IDENTITY, NO_IDENTITY


def _hash(text: str) -> int:
    # The lowest bit set: never NO_IDENTITY.
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True) | 1
