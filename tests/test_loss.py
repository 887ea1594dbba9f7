"""The loss against a plain float64 reference that knows nothing of tensors in bulk."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hbdist import loss as loss_module
from hbdist.loss import NO_IDENTITY, Candidates, info_nce

TEMPERATURE = 0.05


def random_problem(seed: int, pairs: int, hard: int, *, same: bool = True) -> dict[str, Tensor]:
    """Random unit vectors in float64; with `same`, identities and blocks that clash now and then."""
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> Tensor:
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


def candidates_of(problem: dict[str, Tensor]) -> Candidates:
    return Candidates(
        problem["positive"],
        problem["identity"],
        problem["block"],
        problem["negative"],
        problem["negative_identity"],
        problem["negative_block"],
    )


def slow_loss(problem: dict[str, Tensor], *, block_scope: bool, symmetric: bool) -> tuple[float, int, int]:
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


@pytest.fixture(params=[(1024, 2048), (5, 3)], ids=["one tile", "many tiles"], autouse=True)
def _tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every claim holds however the scores are cut into tiles."""
    monkeypatch.setattr(loss_module, "TILE_QUERIES", request.param[0])
    monkeypatch.setattr(loss_module, "TILE_DOCUMENTS", request.param[1])


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


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), block_scope=st.booleans(), symmetric=st.booleans())
def test_the_gradient_is_that_of_finite_differences(seed: int, block_scope: bool, symmetric: bool) -> None:
    problem = random_problem(seed, 4, 1)

    def loss(query: Tensor, positive: Tensor, negative: Tensor, temperature: Tensor) -> Tensor:
        return info_nce(
            query,
            torch.arange(4),
            candidates_of(problem | {"positive": positive, "negative": negative}),
            temperature=temperature,
            block_scope=block_scope,
            combine_columns=(lambda column: column) if symmetric else None,
        ).loss

    inputs = [problem[name].requires_grad_() for name in ("query", "positive", "negative")]
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, [*inputs, temperature])


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


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("noise", [0.9, 0.5, 0.1])
def test_float32_gradients_are_right_early_and_late_in_training(noise: float, symmetric: bool) -> None:
    """Late in training p_ii is nearly 1, and 1 − p_ii taken literally is rounding noise: plain float32 is off by percents."""
    generator = torch.Generator().manual_seed(0)
    query = torch.nn.functional.normalize(torch.randn(96, 64, generator=generator, dtype=torch.float64), dim=1)
    drift = noise * torch.randn(96, 64, generator=generator, dtype=torch.float64) / 8
    positive = torch.nn.functional.normalize(query + drift, dim=1)
    identity = torch.arange(1, 289).reshape(96, 3)

    def gradients(dtype: torch.dtype) -> tuple[float, Tensor]:
        vectors = [one.to(dtype, copy=True).requires_grad_() for one in (query, positive)]
        none = torch.zeros(0, dtype=torch.int64)
        known = Candidates(vectors[1], identity, identity[:, 0], query[:0].to(dtype), none.reshape(0, 3), none)
        parts = info_nce(
            vectors[0],
            torch.arange(96),
            known,
            temperature=TEMPERATURE,
            combine_columns=(lambda column: column) if symmetric else None,
        )
        parts.loss.backward()
        return float(parts.loss.detach()) / 96, torch.cat(
            [vector.grad for vector in vectors if vector.grad is not None]
        ).double()

    (loss, exact), (rounded_loss, rounded) = gradients(torch.float64), gradients(torch.float32)
    assert rounded_loss == pytest.approx(loss, rel=1e-5)
    assert (rounded - exact).norm() / exact.norm() < 1e-5


def test_bf16_vectors_are_scored_in_float32() -> None:
    problem = {k: v.bfloat16() if v.is_floating_point() else v for k, v in random_problem(0, 9, 1).items()}
    exact = {k: v.double() if v.is_floating_point() else v for k, v in problem.items()}
    found, expected = (
        info_nce(one["query"], torch.arange(9), candidates_of(one), temperature=0.01) for one in (problem, exact)
    )
    assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-5)
