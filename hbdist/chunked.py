"""The gradient of one global batch: encode in chunks, gather, score, backward.

B pairs on this rank · N hard negatives on this rank · G pairs, H hard negatives in the global batch · D dimensions
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from hbdist.batches import Chunk, RankBatch
from hbdist.config import Config
from hbdist.gather import combine_columns, gather_rows, row_counts
from hbdist.loss import Candidates, LossParts, info_nce


def contrastive_step(
    model: nn.Module, batch: RankBatch, config: Config, *, rank: int, world: int, backward: Callable[[Tensor], None]
) -> LossParts:
    """Accumulate the gradient of the global batch's mean loss, and return this rank's sums.

    Whoever reduces the ranks' gradients (DDP, ZeRO) averages them. Each rank's sum of losses is therefore scaled by W/B,
    the one place where the number of ranks enters.
    """
    device = next(model.parameters()).device
    encode = ChunkEncoder(model, device, seed=f"{config.seed}/{batch.step}/{rank}")
    query_BD = encode(batch.query_chunks)
    document_BD, negative_ND = encode(batch.document_chunks).split([len(batch.block_B), len(batch.negative_block_N)])
    counts = row_counts(len(query_BD), device)
    negative_counts = [count * config.loss.hard_negatives for count in counts]
    candidates = Candidates(
        positive_GD=gather_rows(document_BD, counts),
        identity_GI=gather_rows(batch.identity_BI.to(device), counts),
        block_G=gather_rows(batch.block_B.to(device), counts),
        negative_HD=gather_rows(negative_ND, negative_counts),
        negative_identity_HI=gather_rows(batch.negative_identity_NI.to(device), negative_counts),
        negative_block_H=gather_rows(batch.negative_block_N.to(device), negative_counts),
    )
    parts = info_nce(
        query_BD,
        sum(counts[:rank]) + torch.arange(len(query_BD), device=device),
        candidates,
        temperature=config.loss.temperature,
        block_scope=config.batch.negatives == "block",
        combine_columns=combine_columns if config.loss.symmetric else None,
    )
    backward(parts.loss * (world / config.batch.size))
    return parts


class ChunkEncoder:
    """Encodes the chunks of one step; dropout follows from (seed, step, rank, number of the chunk) alone."""

    def __init__(self, model: nn.Module, device: torch.device, *, seed: str) -> None:
        self.model = model
        self.device = device
        self.seed = seed
        self.chunks_done = 0

    def __call__(self, chunks: Sequence[Chunk]) -> Tensor:
        """The vectors of all texts of these chunks, in the order of their places: [B, D]."""
        encoded = [self._encode(chunk) for chunk in chunks]
        places = torch.cat([chunk.places_B for chunk in chunks])
        return torch.cat(encoded)[torch.argsort(places).to(self.device)]

    def _encode(self, chunk: Chunk) -> Tensor:
        torch.manual_seed(_seed(f"dropout/{self.seed}/{self.chunks_done}"))
        self.chunks_done += 1
        return self.model(chunk.input_ids_BL.to(self.device), chunk.attention_mask_BL.to(self.device))


def _seed(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
