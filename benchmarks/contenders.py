"""Losses whose memory and time are compared: unit vectors in, loss and both gradients out, in one process.

B pairs · D dimensions
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import peers

TEMPERATURE = 0.05
DIMENSIONS = 768

LossBackward = Callable[[Any, Any], float]
"""Function of two leaves [B, D] that returns the loss and adds its gradients to the leaves."""


@dataclass(frozen=True)
class Contender:
    """A loss at its best setting."""

    peer: str
    symmetric: bool
    make: Callable[[], LossBackward]
    """Function that loads the loss; it raises PeerError if the library is not installed."""


def _hbdist(symmetric: bool) -> Callable[[], LossBackward]:
    def make() -> LossBackward:
        from hbdist.loss.contrastive import contrastive_loss

        def run(query_BD: Any, document_BD: Any) -> float:
            loss = contrastive_loss(
                query_BD, document_BD, temperature=TEMPERATURE, symmetric=symmetric, normalize=False
            )
            loss.backward()
            return float(loss.detach())

        return run

    return make


def _open_clip() -> LossBackward:
    clip = peers.open_clip_loss()()

    def run(query_BD: Any, document_BD: Any) -> float:
        loss = clip(query_BD, document_BD, 1 / TEMPERATURE)
        loss.backward()
        return float(loss.detach())

    return run


def _sentence_transformers() -> LossBackward:
    make, dot_score = peers.sentence_transformers_losses().MultipleNegativesRankingLoss, peers.dot_score()
    ranking = make(None, scale=1 / TEMPERATURE, similarity_fct=dot_score)

    def run(query_BD: Any, document_BD: Any) -> float:
        loss = ranking.compute_loss_from_embeddings([query_BD, document_BD], None)
        loss.backward()
        return float(loss.detach())

    return run


def cached(mini_batch_size: int) -> Callable[[], LossBackward]:
    """Return the loss part of sentence-transformers' CachedMultipleNegativesRankingLoss: mini-batches with a backward each."""

    def make() -> LossBackward:
        from torch import nn

        ranking = peers.sentence_transformers_losses().CachedMultipleNegativesRankingLoss(
            nn.Sequential(nn.Identity()),
            scale=1 / TEMPERATURE,
            similarity_fct=peers.dot_score(),
            mini_batch_size=mini_batch_size,
        )

        def run(query_BD: Any, document_BD: Any) -> float:
            return float(ranking.calculate_loss([[query_BD], [document_BD]], with_backward=True))

        return run

    return make


CACHED = "sentence-transformers cached"
MINI_BATCHES = (32, 128, 512, 2048)
CONTENDERS = {
    "hbdist symmetric": Contender("hbdist", True, _hbdist(symmetric=True)),
    "hbdist": Contender("hbdist", False, _hbdist(symmetric=False)),
    "OpenCLIP symmetric": Contender("open-clip-torch", True, _open_clip),
    "sentence-transformers": Contender("sentence-transformers", False, _sentence_transformers),
    CACHED: Contender("sentence-transformers", False, cached(512)),
}


def make(name: str, mini_batch_size: int) -> LossBackward:
    """Return the loss of this name; only sentence-transformers' cached loss uses the mini-batch."""
    return cached(mini_batch_size)() if name == CACHED else CONTENDERS[name].make()


def inputs(pairs: int, dimensions: int, *, noise: float = 3.0, seed: int = 0) -> tuple[Any, Any]:
    """Return unit vectors: documents, and queries that are their documents plus noise of `noise` times their length.

    With the default, the loss is between one and two, as in training, and float32 represents every contender's gradient.
    """
    import torch

    torch.manual_seed(seed)
    # In place: temporary copies would be counted as memory of the inputs.
    document_BD = torch.randn(pairs, dimensions)
    document_BD /= torch.linalg.vector_norm(document_BD, dim=1, keepdim=True)
    query_BD = torch.randn(pairs, dimensions).mul_(noise / dimensions**0.5).add_(document_BD)
    query_BD /= torch.linalg.vector_norm(query_BD, dim=1, keepdim=True)
    return query_BD.requires_grad_(), document_BD.requires_grad_()
