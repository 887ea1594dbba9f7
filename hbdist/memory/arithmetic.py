"""What training holds in memory and receives from other ranks, in bytes, by arithmetic alone: nothing is loaded or measured.

Ψ parameters · W ranks · D dimensions · t texts of one rank · G documents of all ranks, hard negatives included
"""

import math
from dataclasses import dataclass

from hbdist.distributed.zero import Zero
from hbdist.loss.shapes import IDENTITIES, INTEGER, tile_height

BUCKET = 500_000_000
"""Numbers that DeepSpeed reduces at once where its file does not say it."""
LIVE = 1_000_000_000
"""Gathered parameters that DeepSpeed keeps at stage 3 where its file does not say it."""


@dataclass(frozen=True)
class States:
    """Bytes on a rank's own device."""

    parameters: int
    gradients: int
    optimizer: int
    """AdamW's moments and, where they are sharded, the copy of the parameters beside them."""


def state_bytes(
    parameters: int,
    *,
    stage: int = 0,
    ranks: int = 1,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
) -> States:
    """What Ψ parameters take in training with AdamW on W ranks, in float32 (Rajbhandari et al. 2020, arXiv 1910.02054, §5).

    Parameters and gradients are 4Ψ bytes each, the two moments 8Ψ. Stage 1 divides the moments by W and brings a copy of the
    parameters, divided too: 12Ψ/W. Stage 2 divides the gradients as well, stage 3 the parameters. Offloaded states are
    in main memory, and the divided gradients go with the optimizer (Ren et al. 2021, arXiv 2101.06840, §4).

    Args:
        stage: of ZeRO; 0 where every rank holds all.
    """
    whole, share = 4 * parameters, 4 * math.ceil(parameters / ranks)
    gradients = whole if stage < 2 else 0 if offload_optimizer else share
    optimizer = 0 if offload_optimizer else 2 * whole if stage == 0 else 3 * share
    return States(0 if offload_parameters else share if stage == 3 else whole, gradients, optimizer)


def bytes_of_parameters(parameters: int, *, ranks: int, zero: Zero | None, offloads: bool = True) -> dict[str, int]:
    """Bytes that follow from Ψ, by what they are for.

    Gradients are reduced in a copy: DDP's of all, or DeepSpeed's bucket. At stage 3 DeepSpeed keeps what it has gathered until
    that is `stage3_max_live_parameters`: of a model with fewer it keeps all, and stage 3 takes more memory than stage 2.

    Args:
        offloads: what the file offloads leaves the device; on a CPU it stays in the same memory.
    """
    states = state_bytes(
        parameters,
        stage=zero.stage if zero else 0,
        ranks=ranks,
        offload_optimizer=bool(zero and offloads and zero.offload_optimizer),
        offload_parameters=bool(zero and offloads and zero.offload_parameters),
    )
    settings = zero.values.get("zero_optimization", {}) if zero else {}
    bucket = settings.get("reduce_bucket_size", BUCKET) if zero else parameters
    kept = settings.get("stage3_max_live_parameters", LIVE) if zero and zero.stage == 3 else 0
    return {
        "parameters": states.parameters,
        "gathered parameters": 4 * min(parameters, int(kept)) if ranks > 1 else 0,
        "gradients": states.gradients,
        "optimizer": states.optimizer,
        "reduction buckets": 4 * min(parameters, int(bucket)) if ranks > 1 else 0,
    }


def vector_bytes(texts: int, documents: int, dimensions: int, *, ranks: int) -> int:
    """Of t texts by chunk, in order, and their gradients: 3tD numbers. Of G documents, which come, go back and have
    gradients: 4GD.
    """
    return 4 * dimensions * (3 * texts + (4 if ranks > 1 else 2) * documents)


def score_bytes(queries: int, documents: int) -> int:
    """Of the scores that one rank holds at once: those of a strip of its queries and all documents."""
    return 4 * documents * min(queries, tile_height(documents))


def loss_traffic(
    pairs: int, batch: int, dimensions: int, *, ranks: int, hard_negatives: int, vector_bytes: int, symmetric: bool
) -> int:
    """What a rank receives for the loss in a step, as `gather` counts it (`exchanged_bytes` of metrics.jsonl).

    Documents of all other ranks, as many as the largest has: vectors, identities and blocks; their gradients in float32.
    With the symmetric loss also two sums a column, each by a MAX and a SUM.

    Args:
        pairs: of the rank that has the most.
        batch: pairs of all ranks.
        vector_bytes: of one number of a vector, in the run's precision.
    """
    document = dimensions * (vector_bytes + 4) + INTEGER * (IDENTITIES + 1)
    columns = 2 * round(batch * 4 * 4 * (1 - 1 / ranks)) if symmetric else 0
    return pairs * (1 + hard_negatives) * (ranks - 1) * document + columns


def gradient_traffic(parameters: int, *, ranks: int, stage: int, chunks: int, two_passes: bool) -> float:
    """What a rank receives for gradients and parameters in a step, in float32, as rings move them.

    A reduce-scatter or an all-gather of Ψ numbers brings 4Ψ(W − 1)/W bytes to each rank, an all-reduce twice that. DDP and
    stage 0 need an all-reduce a step. So do stages 1 and 2, where the paper has a reduce-scatter (Rajbhandari et al. 2020,
    arXiv 1910.02054, §7): DeepSpeed reduces whole buckets for all ranks. They also gather what was updated, and stage 2 reduces
    in each backward pass. Stage 3 needs a reduce-scatter in each backward pass, and an all-gather for each chunk's forward pass
    and each backward pass.

    Args:
        stage: of ZeRO; 0 is DDP too.
        chunks: that the rank with the most encodes; in two passes each has a backward pass of its own.
    """
    once = 4 * parameters * (ranks - 1) / ranks
    forward, backward = (2 * chunks, chunks) if two_passes else (chunks, 1)
    return once * (2, 3, 2 * backward + 1, forward + 2 * backward)[stage]
