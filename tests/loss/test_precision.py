"""Precision of the loss: in which type sums are made, where approximations begin, and when two scores count as equal."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from hbdist.loss import shapes, tiles
from hbdist.loss.infonce import LossParts, info_nce
from hbdist.loss.masks import Candidates


def candidates(positive: Tensor, negative: Tensor | None = None) -> Candidates:
    """Return documents without any clash."""
    number = torch.arange(1, len(positive) + 1)
    negative = positive[:0] if negative is None else negative
    others = 1000 + torch.arange(len(negative))
    return Candidates(positive, number[:, None], number, negative, others[:, None], others)


def in_plane(*cosines: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return unit vectors whose products with (1, 0) are these."""
    return torch.tensor([[cosine, math.sqrt(max(0.0, 1 - cosine**2))] for cosine in cosines], dtype=dtype)


def one_query(own: float, *others: float, temperature: float = 0.05, symmetric: bool = False) -> LossParts:
    """Return the parts of a query whose document has the score `own`, among negatives with the scores `others`."""
    combine = (lambda column: column) if symmetric else None
    return info_nce(
        in_plane(1.0),
        torch.arange(1),
        candidates(in_plane(own), in_plane(*others)),
        temperature=temperature,
        combine_columns=combine,
    )


@pytest.mark.parametrize("span", [-30.0, -5.0, 0.0, 19.5, 21.0, 30.0, 45.0, 49.0])
def test_the_loss_of_a_query_is_exact_however_far_its_document_is_behind(span: float) -> None:
    # log(1 + eˣ) is replaced by x only where the two are equal in float64.
    own, other, temperature = (0.0, span / 100, 0.01)
    expected = math.log1p(math.exp(span))
    found = float(one_query(own, other, temperature=temperature).loss)
    assert found == pytest.approx(expected, rel=1e-13)
    # Of the symmetric loss, half is that of the document, which has no other query.
    assert float(one_query(own, other, temperature=temperature, symmetric=True).loss) == pytest.approx(
        expected / 2, rel=1e-14
    )


@pytest.mark.parametrize(("lead", "correct"), [(-1e-3, 0), (0.0, 0), (4.0, 0), (12.0, 1), (1e6, 1)])
@pytest.mark.parametrize("temperature", [0.05, 2.0])
def test_a_lead_of_a_few_rounding_errors_is_a_tie(lead: float, correct: int, temperature: float) -> None:
    lead = lead * torch.finfo(torch.float64).eps if lead >= 0 else lead
    assert int(one_query(0.5 + lead, 0.5, temperature=temperature).correct) == correct


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("margin", [None, 0.1])
def test_counts_are_whole_numbers_and_add_up(margin: float | None, symmetric: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query, positive, negative = (
        normalize(torch.randn(rows, 4, generator=generator), dim=1).requires_grad_() for rows in (5, 5, 10)
    )
    combine = (lambda column: column) if symmetric else None
    parts = info_nce(
        query, torch.arange(5), candidates(positive, negative), temperature=0.05, combine_columns=combine, margin=margin
    )
    counts = (parts.correct, parts.candidates, parts.masked, parts.suspected)
    assert {count.dtype for count in counts} == {torch.int64}
    assert not any(count.requires_grad for count in counts)
    scores = query @ torch.cat([positive, negative]).T
    own = scores.diagonal()[:, None]
    suspected = 0 if margin is None else int((scores > own + margin).sum())
    assert (int(parts.suspected), int(parts.candidates)) == (suspected, 5 * 15 - suspected)
    best = scores.masked_fill(torch.eye(5, 15, dtype=torch.bool), -2)
    if margin is not None:
        best = best.masked_fill(best > own + margin, -2)
    assert int(parts.correct) == int((own[:, 0] > best.amax(dim=1)).sum())


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_of_bfloat16_vectors_are_summed_in_float32_over_tiles_and_rounded_once(
    symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapes, "TILE_SCORES", 1)
    monkeypatch.setattr(shapes, "TILE_QUERIES", 3)
    monkeypatch.setattr(tiles, "PRODUCT_DOCUMENTS", 4)
    generator = torch.Generator().manual_seed(0)
    sides = [normalize(torch.randn(rows, 8, generator=generator), dim=1).bfloat16() for rows in (21, 21, 42)]

    def gradients(dtype: torch.dtype) -> list[Tensor]:
        query, positive, negative = (side.to(dtype, copy=True).requires_grad_() for side in sides)
        tau = torch.tensor(0.1, dtype=torch.promote_types(dtype, torch.float32), requires_grad=True)
        combine = (lambda column: column) if symmetric else None
        loss = info_nce(
            query, torch.arange(21), candidates(positive, negative), temperature=tau, combine_columns=combine
        ).loss
        found = torch.autograd.grad(loss, [query, positive, negative, tau])
        assert [one.dtype for one in found] == [dtype, dtype, dtype, tau.dtype]
        return [loss.detach().double(), *(one.double() for one in found)]

    exact, rounded = gradients(torch.float64), gradients(torch.bfloat16)
    torch.testing.assert_close(rounded[0], exact[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(rounded[4], exact[4], rtol=1e-4, atol=0)
    for mine, expected in zip(rounded[1:4], exact[1:4], strict=True):
        # Half a unit in the last of 8 binary digits, and a little for float32.
        torch.testing.assert_close(mine, expected, rtol=2**-8, atol=1e-4)


def test_the_temperature_is_as_precise_as_the_sums() -> None:
    vectors = normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1)
    exact = float(info_nce(vectors, torch.arange(4), candidates(vectors.flip(0)), temperature=0.07).loss)
    in_float32 = info_nce(vectors.float(), torch.arange(4), candidates(vectors.float().flip(0)), temperature=0.07).loss
    assert in_float32.dtype == torch.float32
    assert float(in_float32) == pytest.approx(exact, rel=1e-5)
    as_tensor = info_nce(vectors, torch.arange(4), candidates(vectors.flip(0)), temperature=torch.tensor(0.07))
    assert as_tensor.loss.dtype == torch.float64
    in_bfloat16 = info_nce(
        vectors.bfloat16(), torch.arange(4), candidates(vectors.bfloat16().flip(0)), temperature=0.07
    )
    assert in_bfloat16.loss.dtype == torch.float32
