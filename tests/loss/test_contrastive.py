"""Contrastive loss over ranks, under real DDP, compared with a plain loss of the full batch on one process, in float64."""

import inspect
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


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"query": torch.zeros(3)}, r"query is float32 \[3\]"),
        ({"query": torch.zeros(3, 4, dtype=torch.int64)}, r"query is int64 \[3, 4\]; expected vectors"),
        ({"document": torch.zeros(3, 5)}, r"document is float32 \[3, 5\] and query float32 \[3, 4\]"),
        ({"document": torch.zeros(3, 4).bfloat16()}, "document is bfloat16"),
        ({"negatives": torch.zeros(3, 4)}, r"negatives is float32 \[3, 4\]"),
        ({"negatives": torch.zeros(2, 1, 4)}, r"hard negatives of each query, \[B, K, D\]"),
        ({"identity": torch.zeros(3)}, r"identity is float32 \[3\] for 3 documents; give int64"),
        ({"identity": torch.zeros(2, dtype=torch.int64)}, "for 3 documents"),
        ({"temperature": 0}, "temperature is 0; give a number above 0"),
        ({"temperature": torch.ones(2)}, r"temperature is float32 \[2\]"),
        ({"query": torch.zeros(0, 4), "document": torch.zeros(0, 4)}, "no rank has a pair"),
    ],
)
def test_wrong_input_is_named(changed: dict[str, Any], sentence: str) -> None:
    given = {"query": torch.ones(3, 4), "document": torch.ones(3, 4)} | changed
    with pytest.raises(ValueError, match=sentence):
        contrastive_loss(given.pop("query"), given.pop("document"), **given)
