"""InfoNCE loss compared with a plain float64 reference that computes one number at a time."""

import math
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hbdist.loss import infonce, masks, shapes, tiles
from hbdist.loss.infonce import info_nce
from hbdist.loss.masks import MASKED_LOGIT, NO_IDENTITY, Candidates

TEMPERATURE = 0.05


def random_problem(seed: int, pairs: int, hard: int, *, same: bool = True) -> dict[str, Tensor]:
    """Return random unit vectors in float64; with `same`, some identities and blocks clash."""
    generator = torch.Generator().manual_seed(seed)

    def unit(*shape: int) -> Tensor:
        return torch.nn.functional.normalize(torch.randn(*shape, 8, generator=generator, dtype=torch.float64), dim=-1)

    spread = 4 if same else 10**6
    identity = torch.randint(1, spread * pairs + 1, (pairs, 3), generator=generator)
    identity[:, 1] *= torch.randint(0, 2, (pairs,), generator=generator)  # not every document has a passage id
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


def slow_loss(
    problem: dict[str, Tensor], *, block_scope: bool, symmetric: bool, margin: float | None = None
) -> tuple[float, int, int, int]:
    """Compute the equation one number at a time: sum of losses, candidates, masked, suspected."""
    p = {name: tensor.detach().numpy() for name, tensor in problem.items()}
    pairs = range(len(p["query"]))

    def same(one: np.ndarray, other: np.ndarray) -> bool:
        return any(a == b != NO_IDENTITY for a, b in zip(one, other, strict=True))

    def in_scope(i: int, block: int) -> bool:
        return not block_scope or p["block"][i] == block

    def cross_entropy(own: float, others: list[float]) -> float:
        logits = np.array([own, *others]) / TEMPERATURE
        return float(-logits[0] + logits.max() + math.log(np.exp(logits - logits.max()).sum()))

    def likely(own: float, other: float) -> bool:
        return margin is not None and other > own + margin

    total = counted = masked = suspected = 0
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
        candidates = [other for other in others if not likely(own, other)]
        suspected += len(others) - len(candidates)
        row = cross_entropy(own, candidates)
        if symmetric:
            others = [
                float(p["query"][j] @ p["positive"][i])
                for j in pairs
                if j != i and in_scope(i, p["block"][j]) and not same(p["identity"][i], p["identity"][j])
            ]
            column = cross_entropy(own, [other for other in others if not likely(own, other)])
            row = (row + column) / 2
        total += row
        counted += 1 + len(candidates)
    return total, counted, masked, suspected


@pytest.fixture(params=["one tile", "many tiles", "clashes compared"], autouse=True)
def _tiling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run every test with different tiles and both ways of finding clashes."""
    if request.param != "one tile":
        monkeypatch.setattr(shapes, "TILE_SCORES", 1)
        monkeypatch.setattr(shapes, "TILE_QUERIES", 3)
        monkeypatch.setattr(tiles, "PRODUCT_DOCUMENTS", 4)
        monkeypatch.setattr(shapes, "CACHED_SCORES", 13)
    if request.param == "clashes compared":
        monkeypatch.setattr(masks, "LISTED_CLASHES", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with matrices this small, threads only wait for one another
    yield
    torch.set_num_threads(threads)


@given(
    seed=st.integers(0, 10**6),
    pairs=st.integers(1, 9),
    hard=st.integers(0, 3),
    block_scope=st.booleans(),
    symmetric=st.booleans(),
    margin=st.sampled_from([None, 0.0, 0.3]),
)
def test_the_loss_equals_the_equation_for_any_masks_scopes_and_negatives(
    seed: int, pairs: int, hard: int, block_scope: bool, symmetric: bool, margin: float | None
) -> None:
    problem = random_problem(seed, pairs, hard)
    parts = info_nce(
        problem["query"],
        torch.arange(pairs),
        candidates_of(problem),
        temperature=TEMPERATURE,
        block_scope=block_scope,
        combine_columns=(lambda column: column) if symmetric else None,
        margin=margin,
    )
    loss, *counts = slow_loss(problem, block_scope=block_scope, symmetric=symmetric, margin=margin)
    assert float(parts.loss) == pytest.approx(loss, rel=1e-10, abs=1e-12)
    assert [int(parts.candidates), int(parts.masked), int(parts.suspected)] == counts


@settings(max_examples=6)
@given(
    seed=st.integers(0, 10**6),
    block_scope=st.booleans(),
    symmetric=st.booleans(),
    margin=st.sampled_from([None, 0.3]),
)
def test_the_gradient_matches_finite_differences(
    seed: int, block_scope: bool, symmetric: bool, margin: float | None
) -> None:
    problem = random_problem(seed, 4, 1)

    def loss(query: Tensor, positive: Tensor, negative: Tensor, temperature: Tensor) -> Tensor:
        return info_nce(
            query,
            torch.arange(4),
            candidates_of(problem | {"positive": positive, "negative": negative}),
            temperature=temperature,
            block_scope=block_scope,
            combine_columns=(lambda column: column) if symmetric else None,
            margin=margin,
        ).loss

    inputs = [problem[name].requires_grad_() for name in ("query", "positive", "negative")]
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, [*inputs, temperature])


def test_translations_and_copies_of_the_own_document_are_not_negatives() -> None:
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
    """Late in training p_ii is nearly 1, and 1 − p_ii computed directly is rounding noise: plain float32 is off by percents."""
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


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("temperature", [0.01, 2.01 / infonce.ONE_EXP_SPAN])
def test_the_widest_range_of_scores_is_safe_in_float32(temperature: float, symmetric: bool) -> None:
    """With τ = 0.01, s/τ spans 200 but float32's exp only 88 either way: a shift that suits a row fails a column."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(40, 2, generator=generator, dtype=torch.float64) * 2 * math.pi
    problem = random_problem(0, 40, 0, same=False)

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        sides = [torch.stack([one.cos(), one.sin()], 1).to(dtype).requires_grad_() for one in angle.T]
        known = candidates_of(problem | {"positive": sides[1], "negative": sides[0][:0].detach()})
        tau = torch.tensor(temperature, dtype=dtype, requires_grad=True)
        combine = (lambda column: column) if symmetric else None
        loss = info_nce(sides[0], torch.arange(40), known, temperature=tau, combine_columns=combine).loss
        return [loss.detach().double(), *(one.double() for one in torch.autograd.grad(loss, [*sides, tau]))]

    for exact, rounded in zip(gradients(torch.float64), gradients(torch.float32), strict=True):
        assert (rounded - exact).norm() / exact.norm() < 1e-5


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_retained_graph_gives_the_same_gradient_again(symmetric: bool) -> None:
    problem = random_problem(3, 9, 2)
    inputs = [problem[name].requires_grad_() for name in ("query", "positive", "negative")]
    combine = (lambda column: column) if symmetric else None
    parts = info_nce(inputs[0], torch.arange(9), candidates_of(problem), temperature=0.05, combine_columns=combine)
    first = torch.autograd.grad(parts.loss, inputs, retain_graph=True)
    again = torch.autograd.grad(3 * parts.loss, inputs)
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(3 * one, other)


def test_the_loss_is_the_same_under_autocast_and_without_gradients() -> None:
    problem = {k: v.float() if v.is_floating_point() else v for k, v in random_problem(0, 9, 1).items()}
    query = problem["query"].requires_grad_()

    def found() -> list[float]:
        known, own = candidates_of(problem), torch.arange(9)
        combines = (None, lambda column: column)
        parts = [info_nce(query, own, known, temperature=0.05, combine_columns=combine) for combine in combines]
        return [float(one.loss.detach()) for one in parts]

    plain = found()
    with torch.no_grad():
        assert found() == plain
    with torch.autocast("cpu", torch.bfloat16):
        assert found() == plain


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("add", [False, True])
def test_products_equal_those_of_vectors_cast_to_the_precision_of_the_sums(dtype: torch.dtype, add: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(5, 7, generator=generator).to(dtype) for _ in range(2))
    wide = torch.promote_types(dtype, torch.float32)
    tile = torch.full((5, 9), 2.0 if add else torch.nan, dtype=wide)
    tiles.multiply(one, other.T, out=tile[:, 2:7], add=add)
    torch.testing.assert_close(tile[:, 2:7], one.to(wide) @ other.T.to(wide) + (2 if add else 0))
    assert not tiles.multiplies_into(wide, dtype, torch.device("cpu"))


def test_log_sum_exp_equals_that_of_torch() -> None:
    logits = 100 * torch.randn(17, 23, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for dim in (0, 1):
        largest, summed = tiles.log_sum_exp(logits, dim=dim)
        assert torch.equal(largest, logits.amax(dim=dim))
        torch.testing.assert_close(summed, logits.logsumexp(dim=dim), rtol=1e-14, atol=0)


def test_one_exp_gives_the_log_sum_exps_of_rows_and_columns() -> None:
    generator = torch.Generator().manual_seed(0)
    # As far apart as allowed, with single masked logits and a fully masked row and column.
    logits = infonce.ONE_EXP_SPAN * (torch.rand(17, 23, generator=generator, dtype=torch.float64) - 0.5)
    logits[torch.rand(17, 23, generator=generator) < 0.2] = MASKED_LOGIT
    logits[3] = logits[:, 5] = MASKED_LOGIT
    for precision, digits in ((torch.float64, 1e-13), (torch.float32, 1e-6)):
        largest, rows, columns = tiles.row_and_column_log_sum_exp(logits.to(precision), columns=20)
        assert torch.equal(largest, logits.to(precision).amax(dim=1))
        for found, expected in ((rows, logits.logsumexp(dim=1)), (columns, logits[:, :20].logsumexp(dim=0))):
            torch.testing.assert_close(found.double(), expected, rtol=digits, atol=digits)


MEASURE = """
import resource, torch
from hbdist.loss.infonce import Candidates, info_nce
torch.set_num_threads(1)
pairs = 8_192
query, document = (torch.nn.functional.normalize(torch.randn(pairs, 4), dim=1).requires_grad_() for _ in range(2))
number, none = torch.arange(1, pairs + 1), torch.zeros(0, dtype=torch.int64)
known = Candidates(document, number[:, None], number, query[:0].detach(), none[:, None], none)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
info_nce(query, torch.arange(pairs), known, temperature=0.05, combine_columns=lambda column: column).loss.backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_the_full_score_matrix_never_exists(request: pytest.FixtureRequest) -> None:
    if "one tile" not in request.node.name:
        pytest.skip("only with the real constants")
    megabytes = float(
        subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, check=True, timeout=120).stdout
    )
    assert megabytes < 8_192**2 * 4 / 2**20 / 2
