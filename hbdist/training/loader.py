"""Data loader: item n is this rank's share of the global batch of step n, read, tokenised and cut into chunks.

The schedule says which pairs are in the batch. They are dealt to the ranks so that all have about equally many tokens, and
each rank reads only its own.
"""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hbdist.config.config import Config
from hbdist.data.batching.hard_negatives import draw_hard_negatives
from hbdist.data.batching.schedule import GlobalBatch, Schedule, deal_to_ranks
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import Pair, ShardReader
from hbdist.errors import DataError
from hbdist.loss.masks import NO_IDENTITY
from hbdist.loss.shapes import IDENTITIES
from hbdist.models.tokenizer import Tokenize, make_chunks, pad
from hbdist.runs.signals import ignore_stop_signals
from hbdist.training.batch import BatchCounts, Chunk, RankBatch

SAMPLE_ROWS = 32
"""Number of rows of a group on which token rates are measured."""
MAX_REPORTED = 10
"""Number of skipped pairs per rank whose errors are printed; all are counted."""


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

    def from_step(self, start: int) -> Iterator[RankBatch]:
        """Yield the batches from step `start` to the end of the run, read ahead by `data.workers` processes."""
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
        reported = 0
        for item in items:
            if isinstance(item, DataError):
                raise item
            for error in item.counts.unreadable[: MAX_REPORTED - reported]:
                print(
                    f"step {item.step + 1}, rank {self.rank}: a pair is skipped. {error}", file=sys.stderr, flush=True
                )
                reported += 1
            yield item

    def __getitem__(self, step: int) -> RankBatch:
        """Return this rank's share of a global batch.

        Raises:
            DataError: a shard is damaged or missing, or no pair of this rank can be read.
        """
        batch = self.schedule.batch(step)
        lengths = estimate_tokens(self.reader, self.manifest, batch, self.token_rates).sum(axis=0)
        dealt = deal_to_ranks(lengths, self.world)[self.rank]
        pairs, unreadable = self._read(batch.group[dealt], batch.row[dealt])
        dealt = np.delete(dealt, list(unreadable))
        if not pairs:
            raise DataError(
                f"Step {step + 1}, rank {self.rank}: no pair can be read. {next(iter(unreadable.values()))}"
            )
        hard = self.config.loss.hard_negatives
        turns = [f"{batch.group[index]}/{batch.row[index]}/{batch.epoch[index]}" for index in dealt]
        negatives = [
            negative
            for pair, turn in zip(pairs, turns, strict=True)
            for negative in draw_hard_negatives(pair, hard, key=f"{self.config.seed}/negatives of {turn}")
        ]
        groups = [self.manifest.groups[number] for number in batch.group[dealt]]
        queries, documents = [pair.query for pair in pairs], [pair.document for pair in pairs]
        languages = [group.document_lang for group in groups]
        negative_languages = [language for language in languages for _ in range(hard)]
        query_ids, queries_cut = self.tokenize(queries, "query", [group.query_lang for group in groups])
        document_ids, documents_cut = self.tokenize(documents + negatives, "document", languages + negative_languages)
        query_chunks, document_chunks = self._chunks(query_ids), self._chunks(document_ids)
        block_B = torch.from_numpy(batch.block[dealt])
        return RankBatch(
            step=batch.step,
            query_chunks=query_chunks,
            document_chunks=document_chunks,
            identity_BI=torch.tensor([_identities(pair) for pair in pairs]),
            block_B=block_B,
            negative_identity_NI=torch.tensor([_text_identity(text) for text in negatives]).reshape(-1, IDENTITIES),
            negative_block_N=block_B.repeat_interleave(hard),
            counts=BatchCounts(
                pools=dict(Counter(self.manifest.groups[group].pair for group in batch.group)),
                mono_share=float(batch.mono.mean()),
                repeats=len(batch) - len(set(zip(batch.group.tolist(), batch.row.tolist(), strict=True))),
                tokens=sum(map(len, query_ids)) + sum(map(len, document_ids)),
                padded_tokens=sum(chunk.input_ids_BL.numel() for chunk in query_chunks + document_chunks),
                truncated=queries_cut + documents_cut,
                unreadable=tuple(unreadable.values()),
            ),
            ids=self._ids(batch) if self.config.run.log_batches and self.rank == 0 else None,
        )

    def _read(self, groups: np.ndarray, rows: np.ndarray) -> tuple[list[Pair], dict[int, str]]:
        """Return the readable pairs, and the error message of each unreadable one by index (`data.on_error = "skip"`).

        A skipped pair is skipped on every rank: the others learn about this rank's pairs, and their number, only from what
        it sends to them. So nothing needs to be masked, and the loss is the mean over the pairs that were read.
        """
        if self.config.data.on_error == "stop":
            return self.reader.read(groups, rows), {}
        items = self.reader.read_each(groups, rows)
        errors = {index: str(item) for index, item in enumerate(items) if isinstance(item, DataError)}
        return [item for item in items if isinstance(item, Pair)], errors

    def _chunks(self, ids: list[list[int]]) -> list[Chunk]:
        return [
            Chunk(*pad([ids[index] for index in indices], self.tokenize.pad_token_id), torch.tensor(indices))
            for indices in make_chunks(ids, self.config.loss.chunk_tokens)
        ]

    def _ids(self, batch: GlobalBatch) -> list[str]:
        pairs, unreadable = self._read(batch.group, batch.row)
        groups = np.delete(batch.group, list(unreadable))
        return [f"{self.manifest.groups[g].name}/{pair.id}" for g, pair in zip(groups, pairs, strict=True)]


class _ErrorsAsItems(Dataset[RankBatch | DataError]):
    """Batches with bad input as an item: an error raised in a worker would arrive as a traceback without its rank."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> RankBatch | DataError:
        try:
            return self.batches[step]
        except DataError as error:
            return error


def estimate_tokens(
    reader: ShardReader, manifest: Manifest, batch: GlobalBatch, token_rates: Mapping[str, float]
) -> np.ndarray:
    """Return the approximate number of tokens of each pair's query and document, from their characters: float64 [2, G]."""
    tokens = np.empty((2, len(batch)))
    for number in np.unique(batch.group):
        members, group = batch.group == number, manifest.groups[number]
        query, document = reader.lengths(int(number), batch.row[members])
        tokens[:, members] = query * token_rates[group.query_lang], document * token_rates[group.document_lang]
    return tokens


def measure_token_rates(manifest: Manifest, tokenize: Tokenize) -> dict[str, float]:
    """Return the tokens per character of each language, measured on the first rows of a group that has it.

    Only the balance between ranks depends on them, so a small sample is enough; but all ranks must use the same numbers.
    """
    reader = ShardReader(manifest)
    rates: dict[str, float] = {}
    for number, group in enumerate(manifest.groups):
        if group.query_lang in rates and group.document_lang in rates:
            continue
        rows = np.arange(min(SAMPLE_ROWS, group.rows))
        # An unreadable pair is reported, or counted, when its turn in a batch comes.
        items = reader.read_each(np.full_like(rows, number), rows)
        pairs = [item for item in items if isinstance(item, Pair)]
        queries, documents = [pair.query for pair in pairs], [pair.document for pair in pairs]
        for language, texts in ((group.query_lang, queries), (group.document_lang, documents)):
            rates.setdefault(language, tokenize.count(texts) / max(1, sum(map(len, texts))))
    return rates


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
