"""The loss against a plain float64 reference that knows nothing of tensors in bulk."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hbdist.loss import NO_IDENTITY, Candidates, info_nce

TEMPERATURE = 0.05


def random_problem(seed: int, pairs: int, hard: int, *, same: bool = True) -> dict[str, torch.Tensor]:
    """Random unit vectors in float64; with `same`, identities and blocks that clash now and then."""
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, 8, generator=generator, dtype=torch.float64), dim=-1)

    spread = 4 if same else 10**6
    identity = torch.randint(1, spread * pairs + 1, (pairs, 3), generator=generator)
    identity[:, 1] *= torch.randint(0, 2, (pairs,), generator=generator)  # a passage id is not always there
    negative_identity = torch.zeros(pairs * hard, 3, dtype=torch.int64)
    negative_identity[:, 2] = torch.randint(0, spread * pairs, (pairs * hard,), generator=generator)
    block = torch.randint(0, 2, (pairs,), generator=generator)
    return {
        "query": unit(pairs),
        "positive": unit(pairs),
        "identity": identity,
        "block": block,
        "negative": unit(pairs * hard),
        "negative_identity": negative_identity,
        "negative_block": block.repeat_interleave(hard),
    }


def candidates_of(problem: dict[str, torch.Tensor]) -> Candidates:
    return Candidates(
        problem["positive"],
        problem["identity"],
        problem["block"],
        problem["negative"],
        problem["negative_identity"],
        problem["negative_block"],
    )


def slow_loss(problem: dict[str, torch.Tensor], *, block_scope: bool, symmetric: bool) -> tuple[float, int, int]:
    """The equation, one number at a time: sum of losses, candidates, masked."""
    p = {name: tensor.detach().numpy() for name, tensor in problem.items()}
    pairs = range(len(p["query"]))

    def same(one: np.ndarray, other: np.ndarray) -> bool:
        return any(a == b != NO_IDENTITY for a, b in zip(one, other, strict=True))

    def in_scope(i: int, block: int) -> bool:
        return not block_scope or p["block"][i] == block

    def cross_entropy(own: float, others: list[float]) -> float:
        logits = np.array([own, *others]) / TEMPERATURE
        return float(-logits[0] + logits.max() + math.log(np.exp(logits - logits.max()).sum()))

    total = counted = masked = 0
    for i in pairs:
        own = float(p["query"][i] @ p["positive"][i])
        others = []
        for j in pairs:
            if j != i and in_scope(i, p["block"][j]):
                if same(p["identity"][i], p["identity"][j]):
                    masked += 1
                else:
                    others.append(float(p["query"][i] @ p["positive"][j]))
        for h in range(len(p["negative"])):
            if p["negative_identity"][h].any() and in_scope(i, p["negative_block"][h]):
                if same(p["identity"][i], p["negative_identity"][h]):
                    masked += 1
                else:
                    others.append(float(p["query"][i] @ p["negative"][h]))
        row = cross_entropy(own, others)
        if symmetric:
            column = cross_entropy(
                own,
                [
                    float(p["query"][j] @ p["positive"][i])
                    for j in pairs
                    if j != i and in_scope(i, p["block"][j]) and not same(p["identity"][i], p["identity"][j])
                ],
            )
            row = (row + column) / 2
        total += row
        counted += 1 + len(others)
    return total, counted, masked


@given(
    seed=st.integers(0, 10**6),
    pairs=st.integers(1, 9),
    hard=st.integers(0, 3),
    block_scope=st.booleans(),
    symmetric=st.booleans(),
)
def test_the_loss_is_the_equation_whatever_masks_scopes_and_negatives(
    seed: int, pairs: int, hard: int, block_scope: bool, symmetric: bool
) -> None:
    problem = random_problem(seed, pairs, hard)
    parts = info_nce(
        problem["query"],
        torch.arange(pairs),
        candidates_of(problem),
        temperature=TEMPERATURE,
        block_scope=block_scope,
        combine_columns=(lambda column: column) if symmetric else None,
    )
    loss, counted, masked = slow_loss(problem, block_scope=block_scope, symmetric=symmetric)
    assert float(parts.loss) == pytest.approx(loss, rel=1e-10, abs=1e-12)
    assert (int(parts.candidates), int(parts.masked)) == (counted, masked)


@given(seed=st.integers(0, 10**6), block_scope=st.booleans(), symmetric=st.booleans())
def test_the_gradient_is_that_of_finite_differences(seed: int, block_scope: bool, symmetric: bool) -> None:
    problem = random_problem(seed, 4, 1)

    def loss(query: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
        return info_nce(
            query,
            torch.arange(4),
            candidates_of(problem | {"positive": positive, "negative": negative}),
            temperature=1.0,
            block_scope=block_scope,
            combine_columns=(lambda column: column) if symmetric else None,
        ).loss

    inputs = [problem[name].requires_grad_() for name in ("query", "positive", "negative")]
    assert torch.autograd.gradcheck(loss, inputs)


def test_translations_and_copies_of_the_own_document_are_no_negatives() -> None:
    problem = random_problem(0, 4, 0, same=False)
    alone = info_nce(problem["query"], torch.arange(4), candidates_of(problem), temperature=TEMPERATURE)
    assert int(alone.masked) == 0
    for kind in range(3):  # item, passage, text
        identity = torch.tensor([[10 * i + k + 1 for k in range(3)] for i in range(4)])
        identity[3, kind] = identity[0, kind]
        parts = info_nce(
            problem["query"], torch.arange(4), candidates_of(problem | {"identity": identity}), temperature=TEMPERATURE
        )
        assert int(parts.masked) == 2
        assert int(parts.candidates) == 16 - 2


def test_accuracy_counts_a_tie_as_a_miss() -> None:
    problem = random_problem(0, 3, 0, same=False)
    problem["positive"] = problem["query"].clone()
    perfect = info_nce(problem["query"], torch.arange(3), candidates_of(problem), temperature=TEMPERATURE)
    problem["positive"] = problem["query"][:1].expand(3, -1)
    tied = info_nce(problem["query"], torch.arange(3), candidates_of(problem), temperature=TEMPERATURE)
    assert (int(perfect.correct), int(tied.correct)) == (3, 0)
