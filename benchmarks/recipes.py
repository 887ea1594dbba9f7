"""The calls of each library whose gradient is compared: its own class, in DistributedDataParallel, as its trainer does.

B pairs on this rank · K hard negatives per pair · V words · D dimensions
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import peers
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

WORDS, WIDTH, DIMENSIONS = 300, 32, 24
TEMPERATURE = 0.05
CHUNK = 8
"""Number of texts per forward pass in the recipes with a gradient cache."""


class Encoder(nn.Module):
    """Encoder of one-word texts into unit vectors: small, nonlinear, and many texts share each parameter."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(WORDS, WIDTH)
        self.hidden, self.out = nn.Linear(WIDTH, 48), nn.Linear(48, DIMENSIONS)

    def forward(self, ids_B: Tensor) -> Tensor:
        return normalize(self.out(torch.tanh(self.hidden(self.words(ids_B)))), dim=-1)


class AsFeatures(nn.Sequential):
    """The encoder as sentence-transformers and PyLate call it: a dictionary of token ids in, one of vectors out."""

    skiplist: tuple[int, ...] = ()
    do_query_expansion = False

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        vector_BD = self[0](features["input_ids"][:, 0])
        return {"sentence_embedding": vector_BD, "token_embeddings": vector_BD[:, None]}


class AsBackbone(nn.Module):
    """The encoder as FlagEmbedding calls it: a Hugging Face model."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, return_dict: bool) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.encoder(input_ids[:, 0])[:, None])


@dataclass(frozen=True)
class Batch:
    """The words of this rank's pairs."""

    query_B: Tensor
    document_B: Tensor
    negative_BK: Tensor

    @property
    def columns(self) -> list[dict[str, Tensor]]:
        """Return queries, documents and each column of hard negatives as token ids with their masks."""
        return [features(ids_B) for ids_B in (self.query_B, self.document_B, *self.negative_BK.T)]

    @property
    def groups(self) -> Tensor:
        """Return each document followed by its pair's hard negatives: [B·(1 + K)]."""
        return torch.cat([self.document_B[:, None], self.negative_BK], dim=1).flatten()


def features(ids_B: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids_B[:, None], "attention_mask": torch.ones_like(ids_B[:, None])}


Backward = Callable[[Encoder, Batch, bool], None]
"""Function that leaves the gradient, averaged over the ranks, in the encoder; the last argument requests both directions."""


@dataclass(frozen=True)
class Recipe:
    """Library at one setting."""

    peer: str
    setting: str
    backward: Backward
    symmetric: tuple[bool, ...] = (False,)
    """Supported losses: False for query → document only, True for both directions."""
    hard_negatives: bool = True


def _hbdist(encoder: Encoder, batch: Batch, symmetric: bool) -> None:
    from hbdist.loss.contrastive import contrastive_loss

    texts = torch.cat([batch.query_B, batch.document_B, batch.negative_BK.flatten()])
    sizes = [len(batch.query_B), len(batch.document_B), batch.negative_BK.numel()]
    model = DistributedDataParallel(encoder)  # kept in a variable: it averages only while it is alive
    query_BD, document_BD, negative_ND = model(texts).split(sizes)
    negatives = negative_ND.unflatten(0, batch.negative_BK.shape) if sizes[2] else None
    loss = contrastive_loss(query_BD, document_BD, negatives=negatives, temperature=TEMPERATURE, symmetric=symmetric)
    loss.backward()


def _sentence_transformers(name: str, **settings: Any) -> Backward:
    def backward(encoder: Encoder, batch: Batch, symmetric: bool) -> None:
        both = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"} if symmetric else {}
        model = AsFeatures(encoder)
        make = getattr(peers.sentence_transformers_losses(), name)
        loss = make(model, scale=1 / TEMPERATURE, gather_across_devices=True, **both, **settings)
        loss.model = DistributedDataParallel(model)  # as its trainer does
        loss(batch.columns, None).backward()

    return backward


def _open_clip(local_loss: bool, gather_with_grad: bool) -> Backward:
    def backward(encoder: Encoder, batch: Batch, symmetric: bool) -> None:
        loss = peers.open_clip_loss()(
            local_loss=local_loss,
            gather_with_grad=gather_with_grad,
            rank=dist.get_rank(),
            world_size=dist.get_world_size(),
        )
        model = DistributedDataParallel(encoder)
        query_BD, document_BD = model(torch.cat([batch.query_B, batch.document_B])).chunk(2)
        loss(query_BD, document_BD, 1 / TEMPERATURE).backward()

    return backward


def _grad_cache(encoder: Encoder, batch: Batch, symmetric: bool) -> None:
    cache, make = peers.grad_cache()
    loss = make(n_hard_negatives=batch.negative_BK.shape[1])
    model = DistributedDataParallel(encoder)
    # It has no temperature parameter.
    step = cache([model, model], CHUNK, loss_fn=lambda query_BD, document_ND: loss(query_BD / TEMPERATURE, document_ND))
    step(batch.query_B, batch.groups, no_sync_except_last=True)


def _flag_embedding(encoder: Encoder, batch: Batch, symmetric: bool) -> None:
    model = peers.flag_embedding_model()(
        AsBackbone(encoder), negatives_cross_device=True, temperature=TEMPERATURE, normalize_embeddings=True
    )
    model = DistributedDataParallel(model.train())
    model(queries=features(batch.query_B), passages=features(batch.groups)).loss.backward()


def _pylate(encoder: Encoder, batch: Batch, symmetric: bool) -> None:
    model = DistributedDataParallel(AsFeatures(encoder))
    # For texts of one token, late interaction is the product of two vectors.
    peers.pylate_loss()(model, gather_across_devices=True, temperature=TEMPERATURE)(batch.columns).backward()


RECIPES = [
    Recipe("hbdist", "contrastive_loss", _hbdist, (False, True)),
    Recipe(
        "sentence-transformers",
        "MultipleNegativesRankingLoss, gather_across_devices",
        _sentence_transformers("MultipleNegativesRankingLoss"),
        (False, True),
    ),
    Recipe(
        "sentence-transformers",
        "CachedMultipleNegativesRankingLoss, gather_across_devices",
        _sentence_transformers("CachedMultipleNegativesRankingLoss", mini_batch_size=CHUNK),
        (False, True),
    ),
    *(
        Recipe("open-clip-torch", f"ClipLoss, {setting}", _open_clip(local, grad), (True,), hard_negatives=False)
        for setting, local, grad in (
            ("local_loss and gather_with_grad", True, True),
            ("gather_with_grad", False, True),
            ("local_loss", True, False),
            ("neither flag (its default)", False, False),
        )
    ),
    Recipe("gradcache", "GradCache with DistributedContrastiveLoss", _grad_cache),
    Recipe("flagembedding", "negatives_cross_device", _flag_embedding),
    Recipe("pylate", "Contrastive, gather_across_devices", _pylate),
]
