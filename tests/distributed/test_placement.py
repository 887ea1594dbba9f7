"""One decision for all ranks: CPUs over gloo, or a GPU each over NCCL. A function of what the ranks see."""

import pytest
from ranks import on_ranks

from hbdist.distributed.identity import Identity
from hbdist.distributed.meeting import Meeting
from hbdist.distributed.placement import place
from hbdist.errors import ConfigError

Node = list[tuple[int, str]]
"""GPUs that each rank of a node sees, and the identity of the only one."""


def ranks(*nodes: Node, local_ranks: bool = True) -> list[Identity]:
    world, found = sum(map(len, nodes)), list[Identity]()
    for number, node in enumerate(nodes):
        for local, (gpus, gpu) in enumerate(node):
            rank, host = len(found), f"node{number}"
            local_rank = local if local_ranks else None
            found.append(Identity(rank, world, host, host, 100 + rank, local_rank=local_rank, gpus=gpus, gpu=gpu))
    return found


NONE, ONE = (0, ""), (1, "GPU-a")


@pytest.mark.parametrize(
    ("nodes", "places"),
    [
        ([[NONE]], [None]),
        ([[NONE] * 3, [NONE]], [None] * 4),
        ([[ONE]], [0]),
        ([[(8, "")]], [0]),
        ([[(2, "")] * 2], [0, 1]),
        ([[(8, "")] * 2, [(8, "")] * 2], [0, 1, 0, 1]),
        ([[(1, "GPU-a"), (1, "GPU-b")]], [0, 0]),  # --gpus-per-task=1
        ([[ONE], [ONE]], [0, 0]),  # one on each of two nodes: identities are compared within a node
        ([[(2, "")] * 2, [ONE]], [0, 1, 0]),
    ],
)
def test_each_rank_has_a_gpu_of_its_own_or_all_compute_on_cpus(nodes: list[Node], places: list[int | None]) -> None:
    assert place(ranks(*nodes)) == places
    assert place(ranks(*nodes, local_ranks=False)) == places
    assert place(ranks(*nodes), on_cpu=True) == [None] * len(places)


@pytest.mark.parametrize(
    ("nodes", "sentences"),
    [
        ([[(1, "")] * 2], ["node0 has 2 ranks", "rank 1 (node0, process 101) sees 1 GPU:", "with rank 0 (node0"]),
        ([[(1, "GPU-a")] * 2], ["it would share one with rank 0 (node0, process 100)", "--gpus-per-task=1"]),
        ([[(2, "")] * 3], ["node0 has 3 ranks", "sees 2 GPUs: there is none for it", "engine.device=cpu"]),
        ([[(2, "")] * 2, [NONE] * 2], ["rank 2 (node1, process 102) and 1 more ranks sees no GPU", "on node1"]),
        ([[NONE], [ONE]], ["rank 0 (node0, process 100) sees no GPU", "rank 1 (node1, process 101) sees 1"]),
    ],
)
def test_what_does_not_fit_is_refused_by_the_name_of_the_node(nodes: list[Node], sentences: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        place(ranks(*nodes))
    for sentence in sentences:
        assert sentence in str(error.value)
    assert place(ranks(*nodes), on_cpu=True) == [None] * sum(map(len, nodes)), "unless it is asked for"


def meet(gpus: list[int], on_cpu: bool) -> str:
    import torch.distributed as dist

    try:
        meeting = Meeting.of({}, timeout_s=30, on_cpu=on_cpu, gpus=gpus[dist.get_rank()])
    except ConfigError as error:
        return str(error)
    meeting.watchdog.leave()
    return f"{meeting.backend} {meeting.gpu}"


def test_ranks_agree_before_they_join() -> None:
    first, second = on_ranks(2, meet, [0, 2], False)
    assert first == second
    assert "sees no GPU, rank 1" in first
    assert on_ranks(2, meet, [2, 2], False) == ["nccl 0", "nccl 1"]
    assert on_ranks(2, meet, [0, 2], True) == ["gloo None", "gloo None"]
