"""Texts become vectors on all ranks together, the same to the last bit on any number of them.

A text's last bits depend on the texts it is padded with. So texts are cut into parts, and parts into batches, by rules
that know nothing of ranks; a part is what one rank encodes whole.

    N texts · B texts of a block · D dimensions
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, Protocol
from uuid import uuid4

import numpy as np

from hbdist.distributed.process_group import ProcessGroup
from hbdist.errors import DataError
from hbdist.evaluation.search.embeddings import (
    SORTED_ROWS,
    Keeping,
    Parts,
    corpus_fingerprint,
    default_folder,
    folder_name,
    part_rows,
)
from hbdist.evaluation.tasks.task import RetrievalTask

Kind = Literal["query", "document"]


class TextEncoder(Protocol):
    """What is asked of a model: unit vectors of texts, in the order given.

    All ranks call it equally often, perhaps with no texts: a model whose ranks meet in every pass can see to it there.
    """

    def encode(
        self,
        texts: Sequence[str],
        kind: Kind,
        *,
        languages: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """float32 [N, D], L2-normalised.

        Args:
            languages: of the texts, for models that want to know.
        """


Told = Callable[[int, int], None]
"""Called with how many texts of this rank's share are done, and of how many."""

BLOCK = 2_048
"""Texts that are tokenised at once: enough of about equal length, and little memory."""


class Texts(NamedTuple):
    """Texts and the language of each."""

    texts: list[str]
    languages: list[str]

    def at(self, places: np.ndarray) -> "Texts":
        return Texts([self.texts[place] for place in places], [self.languages[place] for place in places])


def queries_of(task: RetrievalTask) -> Texts:
    """All queries."""
    return Texts([query.text for query in task.queries], [query.language for query in task.queries])


def candidates_of(task: RetrievalTask, span: range) -> Texts:
    """A stretch of the pool."""
    texts = [text for some in task.candidate_texts(1024, span.start, span.stop) for text in some]
    names, stops = list(task.candidate_slices), [part.stop for part in task.candidate_slices.values()]
    return Texts(texts, [names[number] for number in np.searchsorted(stops, np.array(span), side="right")])


def encode_whole(
    encoder: TextEncoder, texts: Texts, kind: Kind, *, ranks: ProcessGroup, parts: Parts, progress: Told | None = None
) -> np.ndarray:
    """The vectors of all texts, on all ranks: float32 [N, D].

    Texts are sorted by length before they are cut, so that little is padded.

    Args:
        parts: what is there already is not encoded again; holds the vectors in the sorted order.

    Raises:
        DataError: the encoder gives vectors that are not finite.
    """
    order_N = by_length(texts.texts)
    encode_parts(
        encoder,
        lambda number: texts.at(order_N[parts.rows_of(number)]),
        kind,
        ranks=ranks,
        parts=parts,
        progress=progress,
    )
    own = {number: np.asarray(parts.read(number)) for number in parts.own(ranks.rank, ranks.world)}
    found = {number: vector_ND for share in ranks.all_gather_object(own) for number, vector_ND in share.items()}
    vector_ND = np.empty((len(order_N), found[0].shape[1]), dtype=np.float32)
    for number, part_ND in found.items():
        vector_ND[order_N[parts.rows_of(number)]] = part_ND
    return vector_ND


@contextmanager
def vectors_of(
    task: RetrievalTask,
    dimensions: int,
    vectors: Keeping,
    *,
    whole: bool,
    model: str,
    fingerprint: str,
    ranks: ProcessGroup,
) -> Iterator[Parts]:
    """Where the candidates' vectors go: in memory, or on disk, where they stay only if their model has a fingerprint.

    Args:
        dimensions: D.
        vectors: where they lie.
        whole: every rank will hold all of them.
        model, fingerprint: the model's name and what its vectors are known by; empty: they are removed at the end.
    """
    total = len(task.candidates)
    rows = SORTED_ROWS if whole else part_rows(total)
    if whole and not (vectors.folder and fingerprint):
        yield Parts(total, rows, vectors.precision)
        return
    corpus = corpus_fingerprint(task) if fingerprint else ""
    name = folder_name(model=fingerprint, corpus=corpus, precision=vectors.precision, rows=rows, by_length=whole)
    name = name if fingerprint else ranks.broadcast_object(f"once-{uuid4().hex[:16]}")
    folder = (vectors.folder or default_folder()) / name
    parts = Parts(total, rows, vectors.precision, folder=folder, dimensions=dimensions)
    with ranks.raise_together():
        if ranks.is_main:
            parts.describe(model=model, task=task.name)
    try:
        yield parts
    finally:
        if not fingerprint:
            parts.remove(parts.own(ranks.rank, ranks.world))


def encode_parts(
    encoder: TextEncoder,
    texts_of: Callable[[int], Texts],
    kind: Kind,
    *,
    ranks: ProcessGroup,
    parts: Parts,
    progress: Told | None = None,
) -> None:
    """Encode those of this rank's parts that are not there. A collective.

    Args:
        texts_of: number of a part → its texts.

    Raises:
        DataError: the encoder gives vectors that are not finite, the corpus is damaged, or there is no room.
    """
    own = parts.own(ranks.rank, ranks.world)
    missing = [number for number in own if not parts.has(number)]
    total = sum(len(parts.span(number)) for number in own)
    done = total - sum(len(parts.span(number)) for number in missing)
    tell: Told = progress or (lambda done, total: None)
    tell(done, total)
    turns = int(ranks.all_reduce_max(np.array([len(missing)]))[0])
    blocks = -(-min(parts.rows, parts.total) // BLOCK)
    for turn in range(turns):
        busy = turn < len(missing)
        # What one rank meets, all hear before they go on: in training they meet in the encoder too, and would wait there.
        with ranks.raise_together():
            texts = texts_of(missing[turn]) if busy else Texts([], [])

        def told(count: int, before: int = done) -> None:
            tell(before + count, total)

        with ranks.raise_together():
            vector_ND = _encode_part(encoder, texts, kind, blocks=blocks, tell=told)
            if busy:
                parts.write(missing[turn], vector_ND)
        done += len(vector_ND)


def by_length(texts: Sequence[str]) -> np.ndarray:
    """Places of the texts, the longest first: int64 [N]."""
    return np.array(sorted(range(len(texts)), key=lambda place: (-len(texts[place]), place)), dtype=np.int64)


def sorted_parts(texts: int) -> Parts:
    """For so many texts, in memory."""
    return Parts(texts, SORTED_ROWS, "float32")


def _encode_part(
    encoder: TextEncoder, texts: Texts, kind: Kind, *, blocks: int, tell: Callable[[int], None]
) -> np.ndarray:
    """The vectors of the texts, in exactly so many calls of the encoder."""
    order_N = by_length(texts.texts)
    vector_ND = np.empty((len(order_N), 0), dtype=np.float32)
    for start in range(0, blocks * BLOCK, BLOCK):
        places = order_N[start : start + BLOCK]
        chosen = texts.at(places)

        def told(count: int, _: int, start: int = start) -> None:
            tell(start + count)

        block_BD = encoder.encode(chosen.texts, kind, languages=chosen.languages, progress=told)
        block_BD = np.asarray(block_BD, dtype=np.float32)
        assert len(block_BD) == len(places), f"{len(block_BD)} vectors for {len(places)} texts"
        _refuse_broken(block_BD, chosen.texts, kind)
        if start == 0:
            vector_ND = np.empty((len(order_N), block_BD.shape[1]), dtype=np.float32)
        vector_ND[places] = block_BD
    return vector_ND


def _refuse_broken(vector_ND: np.ndarray, texts: list[str], kind: Kind) -> None:
    broken_N, what = ~np.isfinite(vector_ND).all(axis=1), "queries" if kind == "query" else "documents"
    # Nothing compares with NaN, so it would come first everywhere and score perfectly.
    if broken_N.any():
        raise DataError(
            f"The model gives vectors that are not finite for {broken_N.sum():,} of {len(texts):,} {what}, the first of"
            f" them for {texts[int(broken_N.argmax())][:60]!r}; all must be finite. Its weights are damaged or its"
            " training diverged: use an earlier checkpoint."
        )
