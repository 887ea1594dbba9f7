"""Arithmetic of training: bytes in memory and bytes received from other ranks; nothing is loaded or measured.

Ψ parameters · W ranks · D dimensions · t texts of one rank · G documents of all ranks, hard negatives included
"""

import math
from dataclasses import dataclass

from hbdist.distributed.zero import Zero
from hbdist.loss.shapes import IDENTITIES, INT64_BYTES

BUCKET = 500_000_000
"""Number of elements DeepSpeed reduces at once unless its file says otherwise."""
LIVE = 1_000_000_000
"""Number of gathered parameters DeepSpeed keeps at stage 3 unless its file says otherwise."""


@dataclass(frozen=True)
class States:
    """Bytes on one rank's own device."""

    parameters: int
    gradients: int
    optimizer: int
    """Bytes of AdamW's moments and, if they are sharded, of the copy of the parameters beside them."""


def state_bytes(
    parameters: int,
    *,
    stage: int = 0,
    ranks: int = 1,
    offload_optimizer: bool = False,
    offload_parameters: bool = False,
) -> States:
    """Return the bytes Ψ parameters take with AdamW on W ranks, in float32 (Rajbhandari et al. 2020, arXiv 1910.02054, §5).

    Parameters and gradients are 4Ψ bytes each, the two moments 8Ψ. Stage 1 divides the moments by W and adds a copy of the
    parameters, divided too: 12Ψ/W. Stage 2 divides the gradients as well, stage 3 the parameters. Offloaded states are
    in main memory, and the divided gradients go with the optimizer (Ren et al. 2021, arXiv 2101.06840, §4). At stage 0 every
    rank has full copies.
    """
    full, share = 4 * parameters, 4 * math.ceil(parameters / ranks)
    gradients = full if stage < 2 else 0 if offload_optimizer else share
    optimizer = 0 if offload_optimizer else 2 * full if stage == 0 else 3 * share
    return States(0 if offload_parameters else share if stage == 3 else full, gradients, optimizer)


def bytes_of_parameters(parameters: int, *, ranks: int, zero: Zero | None, offloads: bool = True) -> dict[str, int]:
    """Return the bytes that follow from Ψ, by purpose.

    Gradients are reduced in a copy: DDP's of all, or DeepSpeed's bucket. At stage 3 DeepSpeed keeps gathered parameters up to
    `stage3_max_live_parameters`: of a smaller model it keeps all, and stage 3 takes more memory than stage 2. `offloads` is
    True if offloaded states leave the device; on a CPU they stay in the same memory.
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
    live = settings.get("stage3_max_live_parameters", LIVE) if zero and zero.stage == 3 else 0
    return {
        "parameters": states.parameters,
        "gathered parameters": 4 * min(parameters, int(live)) if ranks > 1 else 0,
        "gradients": states.gradients,
        "optimizer": states.optimizer,
        "reduction buckets": 4 * min(parameters, int(bucket)) if ranks > 1 else 0,
    }


def loss_traffic(
    pairs: int, batch: int, dimensions: int, *, ranks: int, hard_negatives: int, vector_bytes: int, symmetric: bool
) -> int:
    """Return the bytes a rank receives for the loss per step, as `collectives.traffic` counts them (`exchanged_bytes`).

    Documents of all other ranks, as many as the largest has: vectors, identities and blocks; their gradients in float32.
    With the symmetric loss also two sums per column, each by a MAX and a SUM.

    Args:
        pairs: number of pairs of the rank that has the most.
        batch: number of pairs of all ranks.
        vector_bytes: bytes of one number of a vector, in the run's precision.
    """
    document = dimensions * (vector_bytes + 4) + INT64_BYTES * (IDENTITIES + 1)
    columns = 2 * round(batch * 4 * 4 * (1 - 1 / ranks)) if symmetric else 0
    return pairs * (1 + hard_negatives) * (ranks - 1) * document + columns


def gradient_traffic(parameters: int, *, ranks: int, stage: int, chunks: int, two_passes: bool) -> float:
    """Return the bytes a rank receives for gradients and parameters per step, in float32, in ring collectives.

    A reduce-scatter or an all-gather of Ψ numbers brings 4Ψ(W − 1)/W bytes to each rank, an all-reduce twice that. DDP and
    stage 0 need one all-reduce per step. So do stages 1 and 2, where the paper has a reduce-scatter (Rajbhandari et al. 2020,
    arXiv 1910.02054, §7): DeepSpeed reduces whole buckets for all ranks. They also gather the updated parameters, and stage 2
    reduces in each backward pass. Stage 3 needs a reduce-scatter in each backward pass, and an all-gather for each chunk's
    forward pass and each backward pass.

    Args:
        stage: stage of ZeRO; 0 for DDP too.
        chunks: number of chunks of the rank that encodes the most; in two passes each has a backward pass of its own.
    """
    once = 4 * parameters * (ranks - 1) / ranks
    forward, backward = (2 * chunks, chunks) if two_passes else (chunks, 1)
    return once * (2, 3, 2 * backward + 1, forward + 2 * backward)[stage]
