"""Encoding of texts by all ranks together, with results that are the same to the last bit on any number of ranks.

The last bits of a text's vector depend on the texts it is padded with. So the rules that cut texts into parts, and parts
into batches, do not depend on the ranks; each part is encoded by one rank alone.

    N texts · B texts of a block · D dimensions

    kind      whether texts are queries or documents
    ranks     the ranks that share the work
    progress  called after every batch
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol
from uuid import uuid4

import numpy as np

from hbdist.distributed.process_group import ProcessGroup
from hbdist.errors import DataError
from hbdist.evaluation.search.embeddings import SORTED_ROWS, Parts, corpus_fingerprint, folder_name, part_rows
from hbdist.evaluation.search.settings import SearchSettings, default_folder
from hbdist.evaluation.tasks.task import RetrievalTask
from hbdist.utils.progress import Progress

Kind = Literal["query", "document"]

BLOCK = 2_048
"""Number of texts that are tokenised at once: enough to find texts of similar length, and little memory."""


class TextEncoder(Protocol):
    """Model that turns texts into unit vectors.

    All ranks call `encode` equally often, perhaps with no texts, so that a model whose ranks communicate in every
    forward pass can keep them in step.
    """

    def encode(
        self,
        texts: Sequence[str],
        kind: Kind,
        *,
        languages: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Return the L2-normalised vectors of texts, in the order given: float32 [N, D].

        `languages` has the language of each text, for models that use it.
        """


class Texts(NamedTuple):
    """Texts and the language of each."""

    texts: list[str]
    languages: list[str]

    def at(self, rows: np.ndarray) -> "Texts":
        """Return the texts of these rows."""
        return Texts([self.texts[row] for row in rows], [self.languages[row] for row in rows])


def read_candidates(task: RetrievalTask, span: range) -> Texts:
    """Return the texts of consecutive candidates of the pool."""
    texts = [text for some in task.candidate_texts(1024, span.start, span.stop) for text in some]
    names, stops = list(task.candidate_slices), [part.stop for part in task.candidate_slices.values()]
    return Texts(texts, [names[number] for number in np.searchsorted(stops, np.array(span), side="right")])


def encode_all(
    encoder: TextEncoder,
    texts: Texts,
    kind: Kind,
    *,
    ranks: ProcessGroup,
    parts: Parts | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return the vectors of all texts, on all ranks: float32 [N, D].

    Texts are sorted by length before they are cut into parts, so that there is little padding. `parts` stores the vectors
    in the sorted order, perhaps with parts that need not be encoded again; by default new parts in memory.

    Raises:
        DataError: the encoder returns vectors that are not finite.
    """
    parts = parts or Parts(len(texts.texts), SORTED_ROWS, "float32")
    order_N = sort_by_length(texts.texts)
    rows_of_part = [order_N[parts.span(number)] for number in parts.numbers]
    encode_parts(encoder, lambda part: texts.at(rows_of_part[part]), kind, ranks=ranks, parts=parts, progress=progress)
    own = {number: np.asarray(parts.read(number)) for number in parts.of_rank(ranks)}
    by_number = {number: vector_ND for share in ranks.all_gather_object(own) for number, vector_ND in share.items()}
    all_ND = np.empty((len(order_N), by_number[0].shape[1]), dtype=np.float32)
    for number, vector_ND in by_number.items():
        all_ND[rows_of_part[number]] = vector_ND
    return all_ND


@contextmanager
def open_parts(
    task: RetrievalTask,
    dimensions: int,
    search: SearchSettings,
    *,
    in_memory: bool,
    model: str,
    fingerprint: str,
    ranks: ProcessGroup,
) -> Iterator[Parts]:
    """Yield the storage of the candidates' embeddings: memory, or a folder, which is deleted at the end if not to be kept.

    Args:
        in_memory: every rank will keep all embeddings in memory.
        model: name of the model.
        fingerprint: fingerprint of the model, under which embeddings are kept; "": they are deleted at the end.
    """
    total, precision = len(task.candidates), search.precision
    rows = SORTED_ROWS if in_memory else part_rows(total)
    if in_memory and not (search.folder and fingerprint):
        yield Parts(total, rows, precision)
        return
    if fingerprint:
        corpus = corpus_fingerprint(task)
        name = folder_name(model=fingerprint, corpus=corpus, precision=precision, rows=rows, by_length=in_memory)
    else:
        name = ranks.broadcast_object(f"once-{uuid4().hex[:16]}")
    folder = (search.folder or default_folder()) / name
    parts = Parts(total, rows, precision, folder=folder, dimensions=dimensions)
    with ranks.raise_together():
        if ranks.is_main:
            parts.describe(model=model, task=task.name)
    try:
        yield parts
    finally:
        if not fingerprint:
            parts.remove(parts.of_rank(ranks))


def encode_parts(
    encoder: TextEncoder,
    read_texts: Callable[[int], Texts],
    kind: Kind,
    *,
    ranks: ProcessGroup,
    parts: Parts,
    progress: Progress | None = None,
) -> None:
    """Encode the parts of this rank that are missing, whose texts `read_texts` returns by number. A collective.

    Raises:
        DataError: the encoder returns vectors that are not finite, the corpus is damaged, or the disk is full.
    """
    own = parts.of_rank(ranks)
    missing: list[int | None] = [number for number in own if not parts.has(number)]
    total = sum(len(parts.span(number)) for number in own)
    done = total - sum(len(parts.span(number)) for number in missing if number is not None)
    report: Progress = progress or (lambda done, total: None)
    report(done, total)
    turns = int(ranks.all_reduce_max(np.array([len(missing)]))[0])
    blocks = -(-min(parts.rows, parts.total) // BLOCK)
    for number in missing + [None] * (turns - len(missing)):
        # An error of one rank is raised on all ranks before any of them continues: in training they also communicate
        # inside of the encoder, and would wait there for ever.
        with ranks.raise_together():
            texts = Texts([], []) if number is None else read_texts(number)
        with ranks.raise_together():
            vector_ND = _encode_part(encoder, texts, kind, blocks, _report_from(done, total, report))
            if number is not None:
                parts.write(number, vector_ND)
        done += len(vector_ND)


def sort_by_length(texts: Sequence[str]) -> np.ndarray:
    """Return the indices of the texts, the longest first: int64 [N]."""
    return np.array(sorted(range(len(texts)), key=lambda row: (-len(texts[row]), row)), dtype=np.int64)


def _report_from(before: int, total: int, report: Progress) -> Progress:
    """Return a callback for a part of the work, which reports its progress as that of all work."""
    return lambda done, _: report(before + done, total)


def _encode_part(encoder: TextEncoder, texts: Texts, kind: Kind, blocks: int, report: Progress) -> np.ndarray:
    """Return the vectors of the texts, made in exactly `blocks` calls of the encoder."""
    order_N = sort_by_length(texts.texts)
    vector_ND = np.empty((len(order_N), 0), dtype=np.float32)
    for start in range(0, blocks * BLOCK, BLOCK):
        row_B = order_N[start : start + BLOCK]
        block, report_block = texts.at(row_B), _report_from(start, len(order_N), report)
        encoded = encoder.encode(block.texts, kind, languages=block.languages, progress=report_block)
        block_BD = np.asarray(encoded, dtype=np.float32)
        assert len(block_BD) == len(row_B), f"{len(block_BD)} vectors for {len(row_B)} texts"
        _check_finite(block_BD, block.texts, kind)
        if start == 0:
            vector_ND = np.empty((len(order_N), block_BD.shape[1]), dtype=np.float32)
        vector_ND[row_B] = block_BD
    return vector_ND


def _check_finite(vector_ND: np.ndarray, texts: list[str], kind: Kind) -> None:
    broken_N, what = ~np.isfinite(vector_ND).all(axis=1), "queries" if kind == "query" else "documents"
    # Every comparison with NaN is false, so it would be first everywhere and score perfectly.
    if broken_N.any():
        raise DataError(
            f"The model's vectors are not finite for {broken_N.sum():,} of {len(texts):,} {what}, first for"
            f" {texts[int(broken_N.argmax())][:60]!r}; expected finite numbers. The weights are damaged or the training"
            " diverged: use an earlier checkpoint."
        )
