"""Contrastive loss over ranks, under real DDP, compared with a plain loss of the full batch on one process, in float64."""

import inspect
import re
import textwrap
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.parallel import DistributedDataParallel

from hbdist.loss.contrastive import contrastive_loss
from hbdist.loss.masks import NO_IDENTITY

SHARES = {1: (11,), 2: (7, 4), 4: (5, 0, 2, 4)}
PAIRS, HARD, SIZE = 11, 2, 6
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "hard negatives": {"negatives": True},
    "symmetric": {"symmetric": True, "negatives": True},
    "identity": {"identity": True, "symmetric": True},
    "learned temperature": {"learned": True, "negatives": True},
    "all": {"learned": True, "negatives": True, "symmetric": True, "identity": True, "margin": 0.2},
}


class Encoder(nn.Module):
    """Linear map with a learned τ."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(SIZE, 5, dtype=torch.float64)
        self.log_temperature = nn.Parameter(torch.tensor(-2.0, dtype=torch.float64))

    def forward(self, text: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(text), self.log_temperature.exp()


def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder()


def texts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return queries, documents, hard negatives and two kinds of identities of the full batch."""
    generator = torch.Generator().manual_seed(1)
    query, document = (torch.randn(PAIRS, SIZE, generator=generator, dtype=torch.float64) for _ in range(2))
    negatives = torch.randn(PAIRS, HARD, SIZE, generator=generator, dtype=torch.float64)
    return query, document, negatives, torch.randint(0, 8, (PAIRS, 2), generator=generator)


def run(model: nn.Module, case: dict[str, Any], rows: slice, loss: Any) -> Tensor:
    """Return the loss of some rows of the batch, computed by `loss`, and leave its gradient in the model."""
    query, document, negatives, identity = (part[rows] for part in texts())
    model.zero_grad()
    vectors, tau = model(torch.cat([query, document, negatives.flatten(0, 1)]))
    query, document, negatives = vectors.split([len(query), len(document), len(query) * HARD])
    value = loss(
        query,
        document,
        negatives=negatives.reshape(-1, HARD, query.shape[1]) if case.get("negatives") else None,
        temperature=tau if case.get("learned") else 0.1,
        symmetric=case.get("symmetric", False),
        identity=identity if case.get("identity") else None,
        margin=case.get("margin"),
    )
    (value + 0 * tau + 0 * negatives.sum()).backward()  # DDP waits for every parameter
    return value.detach()


def plain_loss(
    query: Tensor,
    document: Tensor,
    *,
    negatives: Tensor | None,
    temperature: Tensor | float,
    symmetric: bool,
    identity: Tensor | None,
    margin: float | None,
) -> Tensor:
    """Return the mean loss of the full batch, computed from full matrices."""
    query, document = normalize(query, dim=1), normalize(document, dim=1)
    own = torch.arange(len(query))
    masked = torch.zeros(len(query), len(query), dtype=torch.bool)
    if identity is not None:
        for kind in identity.T:
            masked |= (kind[:, None] == kind[None, :]) & (kind != NO_IDENTITY)[:, None]
    masked[own, own] = False
    above = torch.inf if margin is None else margin

    def mean(scores: Tensor, masked: Tensor) -> Tensor:
        suspected = scores > scores.detach()[own, own][:, None] + above
        return cross_entropy((scores / temperature).masked_fill(masked | suspected, -torch.inf), own)

    scores = query @ document.T
    hard = scores[:, :0] if negatives is None else query @ normalize(negatives.flatten(0, 1), dim=1).T
    rows = mean(torch.cat([scores, hard], 1), torch.cat([masked, torch.zeros_like(hard, dtype=torch.bool)], 1))
    return (rows + mean(scores.T, masked)) / 2 if symmetric else rows


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def on_rank(world: int) -> dict[str, Any]:
    """Return everything the tests below compare, on this rank; starting ranks takes seconds, so they are started once."""
    share, rank = SHARES[world], dist.get_rank()
    rows = slice(sum(share[:rank]), sum(share[: rank + 1]))
    model = DistributedDataParallel(encoder())
    found = {name: (run(model, case, rows, contrastive_loss), gradient(model)) for name, case in CASES.items()}
    return found | {"documented": documented_loop(rows)}


@pytest.fixture(scope="module", params=SHARES)
def found(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return on_ranks(request.param, on_rank, request.param)


@pytest.mark.parametrize("case", CASES)
def test_ddp_on_any_number_of_ranks_gives_the_gradient_of_the_whole_batch(
    case: str, found: list[dict[str, Any]]
) -> None:
    model = encoder()
    loss = run(model, CASES[case], slice(None), plain_loss)
    for rank in found:
        torch.testing.assert_close(rank[case][1], gradient(model), rtol=1e-10, atol=1e-12)
    mean = torch.stack([rank[case][0] for rank in found]).mean()
    torch.testing.assert_close(mean, loss, rtol=1e-10, atol=0)


def test_the_cases_give_different_losses() -> None:
    losses = [float(run(encoder(), case, slice(None), plain_loss)) for case in CASES.values()]
    assert len({round(loss, 6) for loss in losses}) == len(CASES)


@pytest.mark.parametrize("case", CASES)
def test_one_process_needs_no_process_group(case: str) -> None:
    found, expected = encoder(), encoder()
    loss = run(found, CASES[case], slice(None), contrastive_loss)
    torch.testing.assert_close(loss, run(expected, CASES[case], slice(None), plain_loss), rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient(found), gradient(expected), rtol=1e-10, atol=1e-12)


def documented_loop(rows: slice) -> list[float]:
    """Return the losses of the documented loop, run on this rank with its rows."""
    text = inspect.getdoc(contrastive_loss) or ""
    _, _, after = text.partition("::\n")
    example = textwrap.dedent(
        "\n".join(line for line in after.splitlines() if line.startswith("    ") or not line)
    ).strip()
    example = example[: example.index("optimizer.step()") + len("optimizer.step()")]
    query, document, _, _ = texts()
    losses: list[float] = []
    names = {
        "DistributedDataParallel": DistributedDataParallel,
        "batches": [(query[rows], document[rows])] * 3,
        "contrastive_loss": contrastive_loss,
        "encoder": nn.Sequential(nn.Linear(SIZE, 5, dtype=torch.float64)),
        "losses": losses,
        "torch": torch,
    }
    exec(example.replace("optimizer.step()", "optimizer.step(); losses.append(loss.item())"), names)
    return losses


def test_the_documented_loop_runs_and_learns(found: list[dict[str, Any]]) -> None:
    means = torch.tensor([rank["documented"] for rank in found]).mean(dim=0)
    assert len(means) == 3
    assert means[2] < means[1] < means[0]


def test_vectors_are_not_normalised_on_request() -> None:
    query, document, _, _ = texts()
    unnormalised = contrastive_loss(query, document, temperature=1.0, normalize=False)
    torch.testing.assert_close(unnormalised, cross_entropy(query @ document.T, torch.arange(PAIRS)))


OF_QUERY = "and query float32 [3, 4]"
ONE_DOCUMENT = "give one document per query, with the same shape and type"
K_NEGATIVES = "give the K hard negatives of each query, [B, K, D]"
INT64 = "give int64 numbers, [B] or [B, I], with 0 for a document that has none"


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"query": torch.zeros(3)}, "query is float32 [3]; expected vectors, floating point [B, D]"),
        (
            {"query": torch.zeros(3, 4, dtype=torch.int64)},
            "query is int64 [3, 4]; expected vectors, floating point [B, D]",
        ),
        ({"document": torch.zeros(3, 5)}, f"document is float32 [3, 5] {OF_QUERY}; {ONE_DOCUMENT}"),
        ({"document": torch.zeros(3, 4).bfloat16()}, f"document is bfloat16 [3, 4] {OF_QUERY}; {ONE_DOCUMENT}"),
        ({"negatives": torch.zeros(3, 4)}, f"negatives is float32 [3, 4] {OF_QUERY}; {K_NEGATIVES}"),
        ({"negatives": torch.zeros(2, 1, 4)}, f"negatives is float32 [2, 1, 4] {OF_QUERY}; {K_NEGATIVES}"),
        ({"negatives": torch.zeros(3, 1, 5)}, f"negatives is float32 [3, 1, 5] {OF_QUERY}; {K_NEGATIVES}"),
        ({"negatives": torch.zeros(3, 1, 4).double()}, f"negatives is float64 [3, 1, 4] {OF_QUERY}; {K_NEGATIVES}"),
        ({"identity": torch.zeros(3)}, f"identity is float32 [3] for 3 documents; {INT64}"),
        ({"identity": torch.zeros(2, dtype=torch.int64)}, f"identity is int64 [2] for 3 documents; {INT64}"),
        (
            {"identity": torch.zeros(3, 1, 1, dtype=torch.int64)},
            f"identity is int64 [3, 1, 1] for 3 documents; {INT64}",
        ),
        ({"temperature": 0}, "temperature is 0; give a number above 0 (0.01 to 0.1 is usual)"),
        ({"temperature": -0.1}, "temperature is -0.1; give a number above 0 (0.01 to 0.1 is usual)"),
        (
            {"temperature": torch.ones(2)},
            "temperature is float32 [2]; give a number, or a tensor with one element",
        ),
        (
            {"query": torch.zeros(0, 4), "document": torch.zeros(0, 4)},
            "no rank has a pair; skip the empty batch on all ranks",
        ),
    ],
)
def test_wrong_input_is_named(changed: dict[str, Any], sentence: str) -> None:
    given = {"query": torch.ones(3, 4), "document": torch.ones(3, 4)} | changed
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        contrastive_loss(given.pop("query"), given.pop("document"), **given)


def test_what_is_small_is_not_refused() -> None:
    one = torch.ones(1, 4)
    loss = contrastive_loss(one, one, negatives=torch.zeros(1, 0, 4), identity=torch.zeros(1, 1, dtype=torch.int64))
    assert float(loss) == 0
    assert float(contrastive_loss(one, one, temperature=torch.tensor([1e-9]))) == 0


@pytest.mark.parametrize("case", CASES)
def test_tensors_are_made_on_the_device_of_the_vectors(case: str) -> None:
    plain, elsewhere = encoder(), encoder()
    expected = run(plain, CASES[case], slice(None), contrastive_loss)

    def loss(*arguments: Any, **named: Any) -> Tensor:
        with torch.device("meta"):  # a tensor made without a device would have no values
            return contrastive_loss(*arguments, **named)

    assert torch.equal(run(elsewhere, CASES[case], slice(None), loss), expected)
    assert torch.equal(gradient(elsewhere), gradient(plain))


def test_defaults_are_those_of_the_documentation() -> None:
    query, document, _, _ = texts()
    expected = contrastive_loss(
        *(query, document),
        negatives=None,
        temperature=0.05,
        symmetric=False,
        identity=None,
        margin=None,
        normalize=True,
    )
    assert torch.equal(contrastive_loss(query, document), expected)


def test_a_hard_negative_with_the_text_of_a_document_still_counts() -> None:
    query, document, negatives, _ = texts()
    # Nothing is known of a hard negative: it has no identity, and is in the only block.
    identity = torch.arange(1, PAIRS + 1)
    known = contrastive_loss(query, document, negatives=negatives, identity=identity)
    assert torch.equal(known, contrastive_loss(query, document, negatives=negatives))
    assert known > contrastive_loss(query, document, identity=identity)
