"""Collectives of the loss and their gradients: three ranks compared with one process that has all rows."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from torch import Tensor

from hbdist.distributed.collectives import (
    all_reduce_max,
    all_reduce_sum,
    broadcast_object,
    combine_columns,
    gather_rows,
    row_counts,
    scale_for_averaging,
    traffic,
    world_size,
)
from hbdist.distributed.collectives import rank as rank_of_process

WORLD = 3
COUNTS = {
    "even": (2, 2, 2),
    "uneven": (3, 1, 2),
    "none on one": (4, 0, 1),
    "all on the last": (0, 0, 5),
    "none": (0, 0, 0),
}
COLUMNS = 5


def rows(counts: tuple[int, ...], *shape: int) -> Tensor:
    """Return the rows of all ranks, in rank order."""
    return torch.randn(sum(counts), *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights(rank: int, counts: tuple[int, ...]) -> Tensor:
    """Return the weights of one rank's loss, different on each rank so that gradients cannot be confused."""
    return torch.randn(sum(counts), 4, generator=torch.Generator().manual_seed(10 + rank), dtype=torch.float64)


def loss(gathered_GD: Tensor, rank: int, counts: tuple[int, ...]) -> Tensor:
    return (gathered_GD.square() * weights(rank, counts)).sum()


def partials() -> Tensor:
    """Return log-sum-exps of each rank, [ranks, columns]: −∞ if a rank has no candidate for a column; large ones overflow."""
    partial_RG = torch.randn(WORLD, COLUMNS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    partial_RG[0, 1] = partial_RG[2, 1] = partial_RG[1, 3] = -torch.inf
    partial_RG[1, 2] = 2000.0
    return partial_RG


def bfloat16_weights() -> Tensor:
    """Return each rank's weights, [ranks, columns]: 256 on one rank and 1 on the others, on another one for each column.

    In bfloat16, 256 + 1 is 256, so that a sum which begins with the largest loses the others, wherever it begins.
    """
    return (1 + 255 * torch.eye(WORLD)).bfloat16()


def everything() -> dict[str, Any]:
    """Return everything the tests below compare, on this rank; starting ranks takes seconds, so they are started once."""
    rank = dist.get_rank()
    found: dict[str, Any] = {"world": world_size()}
    for name, counts in COUNTS.items():
        start, end = sum(counts[:rank]), sum(counts[: rank + 1])
        own_BD = rows(counts, 4)[start:end].requires_grad_()
        known = row_counts(len(own_BD), own_BD.device)
        before = traffic()
        gathered_GD = gather_rows(own_BD, known)
        received = traffic() - before
        loss(gathered_GD, rank, counts).backward()
        numbers_GI = torch.arange(sum(counts) * 3).reshape(-1, 3) + 2**60
        found[name] = {
            "counts": known,
            "gathered": gathered_GD.detach(),
            "gradient": own_BD.grad,
            "received": (received, traffic() - before - received),
            "vector": gather_rows(rows(counts)[start:end], known),
            "int64": gather_rows(numbers_GI[start:end], known),
        }
    halves_BD = torch.ones(1, WORLD, dtype=torch.bfloat16, requires_grad=True)
    gathered_GD = gather_rows(halves_BD, [1] * WORLD)
    (gathered_GD * bfloat16_weights()[rank]).sum().backward()
    found["bfloat16"] = gathered_GD.dtype, halves_BD.grad
    numbers = torch.tensor([1.5, 2.0**53 - 1 if rank == 0 else 0.0, float(rank)], dtype=torch.float64)
    added = all_reduce_sum(numbers.requires_grad_())
    before, pair = traffic(), dist.new_group([0, 1])
    combine_columns(partials()[rank])
    found |= {
        "rank": rank_of_process(),
        "received for columns": traffic() - before,
        "largest": all_reduce_max(torch.tensor([rank, -rank])),
        "broadcast": broadcast_object({"from": rank}),
        "of two": (
            all_reduce_max(torch.tensor(rank), pair).item(),
            all_reduce_sum(torch.tensor(rank + 1), pair).item(),
            broadcast_object(rank, pair),
            world_size(pair),
        ),
        "scaled": scale_for_averaging(torch.tensor(6.0), [3, 1, 2]).item(),
        "columns": combine_columns(partials()[rank]),
        "empty columns": combine_columns(torch.full((2, COLUMNS), -torch.inf)),
        "sum": added,
        "numbers": numbers.detach(),
    }
    return found


@pytest.fixture(scope="module")
def found() -> list[dict[str, Any]]:
    return on_ranks(WORLD, everything)


@pytest.mark.parametrize("case", COUNTS)
def test_every_rank_gathers_all_rows_in_rank_order(case: str, found: list[dict[str, Any]]) -> None:
    counts = COUNTS[case]
    for rank in range(WORLD):
        one = found[rank][case]
        assert one["counts"] == list(counts)
        assert torch.equal(one["gathered"], rows(counts, 4))
        assert torch.equal(one["vector"], rows(counts))
        assert torch.equal(one["int64"], torch.arange(sum(counts) * 3).reshape(-1, 3) + 2**60)


@pytest.mark.parametrize("case", COUNTS)
def test_the_gradient_of_gathered_rows_is_that_of_the_sum_of_all_losses(case: str, found: list[dict[str, Any]]) -> None:
    counts = COUNTS[case]
    full_GD = rows(counts, 4).requires_grad_()
    sum(loss(full_GD, rank, counts) for rank in range(WORLD)).backward()  # type: ignore[union-attr]
    together = torch.cat([found[rank][case]["gradient"] for rank in range(WORLD)])
    torch.testing.assert_close(together, full_GD.grad)


def test_gradients_of_bfloat16_rows_are_summed_in_float32_and_returned_in_bfloat16(found: list[dict[str, Any]]) -> None:
    expected = bfloat16_weights().double().sum(dim=0, keepdim=True)
    for rank in range(WORLD):
        gathered, gradient = found[rank]["bfloat16"]
        assert gathered == gradient.dtype == torch.bfloat16
        assert torch.equal(gradient.double(), expected)


def test_combined_columns_are_the_log_sum_exp_over_all_ranks(found: list[dict[str, Any]]) -> None:
    for rank in range(WORLD):
        torch.testing.assert_close(found[rank]["columns"], torch.logsumexp(partials(), dim=0), rtol=1e-14, atol=0)


def test_columns_without_candidates_on_any_rank_stay_empty(found: list[dict[str, Any]]) -> None:
    for rank in range(WORLD):
        assert torch.equal(found[rank]["empty columns"], torch.full((2, COLUMNS), -torch.inf))


def test_sums_are_over_all_ranks_and_have_no_gradient(found: list[dict[str, Any]]) -> None:
    for rank in range(WORLD):
        assert found[rank]["sum"].tolist() == [4.5, 2.0**53 - 1, 3.0]
        assert not found[rank]["sum"].requires_grad
        assert found[rank]["numbers"][2] == rank  # the input is unchanged


@pytest.mark.parametrize("case", COUNTS)
def test_a_gather_and_its_gradient_receive_the_padded_rows_of_the_others(
    case: str, found: list[dict[str, Any]]
) -> None:
    padded = max(COUNTS[case]) * 4 * 8
    for rank in range(WORLD):
        assert found[rank][case]["received"] == ((WORLD - 1) * padded, (WORLD - 1) * padded)


def test_combining_columns_receives_two_numbers_of_each_column_in_each_of_two_rings(
    found: list[dict[str, Any]],
) -> None:
    for rank in range(WORLD):
        assert found[rank]["received for columns"] == round(COLUMNS * 8 * 4 * (WORLD - 1) / WORLD)


def test_the_largest_is_over_all_ranks_and_an_object_is_that_of_rank_0(found: list[dict[str, Any]]) -> None:
    for rank in range(WORLD):
        assert found[rank]["rank"] == rank
        assert found[rank]["largest"].tolist() == [WORLD - 1, 0]
        assert found[rank]["broadcast"] == {"from": 0}


def test_a_group_of_two_leaves_the_third_rank_alone(found: list[dict[str, Any]]) -> None:
    assert [one["of two"] for one in found] == [(1, 3, 0, 2), (1, 3, 0, 2), (2, 3, 2, -1)]


def test_a_loss_is_scaled_by_the_ranks_over_the_rows_of_all(found: list[dict[str, Any]]) -> None:
    assert [one["scaled"] for one in found] == [6 * WORLD / 6] * WORLD


def test_every_rank_knows_the_world_size(found: list[dict[str, Any]]) -> None:
    assert [one["world"] for one in found] == [WORLD] * WORLD


def test_with_one_process_each_collective_is_the_identity() -> None:
    one_BD = rows((3,), 4).requires_grad_()
    assert world_size() == 1
    assert row_counts(3, one_BD.device) == [3]
    assert gather_rows(one_BD, [3]) is one_BD
    assert combine_columns(one_BD) is one_BD
    assert torch.equal(all_reduce_sum(one_BD), one_BD)
    assert torch.equal(all_reduce_max(one_BD), one_BD)
    assert broadcast_object(one_BD) is one_BD
    assert rank_of_process() == 0
    assert float(scale_for_averaging(torch.tensor(6.0), [4])) == 1.5
