"""Composition of a global batch of 8,192 pairs on 4 ranks, and a rank's time to compute it: hbdist and sentence-transformers.

360,448 synthetic pairs in 22 groups: 11 languages, each with itself and with the next one. 5 % of the pairs share the
document, or the query, with another pair of their group. For each rank, sentence-transformers' batch samplers are wrapped
in accelerate's BatchSamplerShard, as its trainer does; this needs no process group. hbdist makes batches of one group; its
unmasked repeats are counted text by text, from the batches that training gets and the masks that the loss makes of them.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from made_up import make_shards, pairs_of
from measure import RunError, arguments, interleave, launch, quartiles, ratio, say, write
from peers import version_of
from samplers import (
    GROUPS,
    OURS,
    REPEATED,
    SAMPLERS,
    WITH_MASKS,
    WORLD,
    all_ranks,
    make_datasets,
    masks_of,
    opened,
    our_batch,
    our_sampler,
    their_sampler,
    their_shard,
)

REPETITIONS = 5
ALPHAS = (0.25, 0.5, 0.8)
ALPHA_STEPS = (100, 1_000, 65_536)


def measure(*, quick: bool) -> dict[str, Any]:
    sizes = {"size": 512, "rows": 1_024} if quick else {"size": 8_192, "rows": 16_384}
    batches, repetitions = (4, 2) if quick else (16, REPETITIONS)
    with tempfile.TemporaryDirectory() as folder:
        say(f"shards of {len(GROUPS) * sizes['rows']:,} pairs")
        make_shards(Path(folder), GROUPS, rows=sizes["rows"], shard_rows=4_096, repeated=REPEATED)
        given = {"folder": folder, "batches": batches, **sizes}
        result: dict[str, Any] = {
            "settings": {**sizes, "ranks": WORLD, "groups": len(GROUPS), "batches": batches, "repeated": REPEATED},
            "versions": {name: version_of(name) for name in ("sentence-transformers", "accelerate", "datasets")},
        }
        say("composition")
        result["composition"] = launch(compositions, timeout=280, **given)[0]
        say("masks")
        result["masks"] = _or_reason(unmasked, **{**given, "batches": batches // 4})
        say("times")
        names = [name for name, found in result["composition"].items() if "reason" not in found]
        result["times"] = _or_reason(times, names=names, repetitions=repetitions, **given)
        result["alpha"] = _or_reason(alphas, folder=folder, size=sizes["size"])
    return result


def _or_reason(function: Callable[..., Any], **settings: Any) -> dict[str, Any]:
    try:
        return dict(launch(function, timeout=300, **settings)[0])
    except RunError as error:
        return {"reason": str(error)}


def compositions(folder: str, size: int, rows: int, batches: int) -> dict[str, Any]:
    """Return the share of the first global batches with one group on all ranks, and the texts per batch on several ranks."""
    query, document = text_numbers(rows)
    found: dict[str, Any] = {}
    data = None
    for name in (OURS, *SAMPLERS):
        try:
            data = data or (None if name == OURS else make_datasets(rows))
            ranks = all_ranks(name, folder, size, data, batches)
            found[name] = composition(ranks, query, document, size=size, rows=rows, batches=batches)
        except Exception as error:  # whatever another library raises is its result
            found[name] = {"reason": f"{type(error).__name__}: {error}"[:200]}
    return found


def composition(
    ranks: list[Iterator[list[int]]],
    query: np.ndarray,
    document: np.ndarray,
    *,
    size: int,
    rows: int,
    batches: int,
) -> dict[str, float]:
    """Return the same for these ranks; `query` and `document` are the numbers of the texts."""
    found: dict[str, list[float]] = {"one_group": [], "documents_across": [], "queries_across": []}
    for batch in islice(zip(*ranks, strict=True), batches):
        places = [np.array(mine) for mine in batch]
        assert sum(map(len, places)) == size, f"{sum(map(len, places))} pairs in a batch of {size}"
        found["one_group"].append(len(np.unique(np.concatenate(places) // rows)) == 1)
        found["documents_across"].append(across([document[mine] for mine in places]))
        found["queries_across"].append(across([query[mine] for mine in places]))
    assert len(found["one_group"]) == batches, f"{len(found['one_group'])} global batches of {batches}"
    return {key: float(np.mean(values)) for key, values in found.items()}


def text_numbers(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a number for the query and for the document of each pair; equal texts have equal numbers."""
    pairs = [pair for group in GROUPS for pair in pairs_of(group, rows, repeated=REPEATED)]
    numbers: dict[str, int] = {}
    query, document = (
        np.array([numbers.setdefault(text, len(numbers)) for text in texts])
        for texts in ([pair.query for pair in pairs], [pair.document for pair in pairs])
    )
    return query, document


def across(ranks: list[np.ndarray]) -> int:
    """Return the number of texts of a batch that an earlier rank has, too."""
    return sum(len(np.unique(texts)) for texts in ranks) - len(np.unique(np.concatenate(ranks)))


def unmasked(folder: str, size: int, rows: int, batches: int) -> dict[str, float]:
    """Return the pairs (query, other document) per batch that share a text in hbdist's first batches, and those not masked."""
    import torch

    ranks = [our_batch(folder, size, rank) for rank in range(WORLD)]
    names = ("documents", "documents_left", "queries", "queries_left")
    found = dict.fromkeys(names, 0.0)
    for step in range(batches):
        parts = [one[step] for one, _ in ranks]
        identity_GI = torch.cat([part.identity_BI for part in parts])
        for kind, name in (("document", "documents"), ("query", "queries")):
            numbers: dict[str, int] = {}
            texts = [text for _, recorder in ranks for text in recorder.texts[kind]]
            text_G = np.array([numbers.setdefault(text, len(numbers)) for text in texts])
            for rank in range(WORLD):
                mine = size // WORLD
                own = np.arange(mine) + rank * mine
                same_BG = text_G[own][:, None] == text_G[None, :]
                same_BG[np.arange(mine), own] = False
                clash_M = masks_of(identity_GI, rank, mine).clash_M
                assert clash_M is not None, "more clashes than are listed"
                found[name] += same_BG.sum() / batches
                same_BG.reshape(-1)[clash_M.numpy()] = False
                found[f"{name}_left"] += same_BG.sum() / batches
    return {name: float(value) for name, value in found.items()}


def times(names: list[str], folder: str, size: int, rows: int, batches: int, repetitions: int) -> dict[str, Any]:
    """Return the seconds in which rank 0 computes this many of its batches, for every turn and for the very first one."""
    import torch

    data = make_datasets(rows) if any(name != OURS for name in names) else None
    manifest, config = opened(folder, size)
    going_on = our_sampler(manifest, config, 0)
    shards = {}
    for name in names:
        if name != OURS:
            batch_sampler, split_batches = SAMPLERS[name]
            whole = their_sampler(batch_sampler, split_batches, size, data)
            shards[name] = their_shard(whole, split_batches, 0)
    batch, _ = our_batch(folder, size, 0)
    others_GI = torch.cat([our_batch(folder, size, rank)[0][0].identity_BI for rank in range(1, WORLD)])
    steps = iter(range(1 << 20))

    def with_masks() -> None:
        for step in islice(steps, batches):
            identity_BI = batch[step].identity_BI
            masks_of(torch.cat([identity_BI, others_GI]), 0, len(identity_BI))

    def run(iterator: Iterator[Any]) -> None:
        assert sum(1 for _ in islice(iterator, batches)) == batches

    cases: dict[str, Callable[[], object]] = {OURS: lambda: run(going_on), WITH_MASKS: with_masks}
    cases |= {name: lambda shard=shard: run(iter(shard)) for name, shard in shards.items()}  # type: ignore[misc]
    first = {}
    for name, case in cases.items():
        start = time.perf_counter()
        case()
        first[name] = time.perf_counter() - start
    return {"seconds": interleave(cases, repetitions=repetitions, warmups=0), "first": first}


def alphas(folder: str, size: int) -> dict[str, dict[str, float]]:
    """Return the share of monolingual batches after this many steps, for every requested share."""
    from hbdist.data.batching.schedule import Schedule

    found = {}
    for alpha in ALPHAS:
        manifest, config = opened(folder, size, alpha=alpha)
        schedule = Schedule.of(config, manifest)
        found[str(alpha)] = {str(steps): schedule.turns_before(steps)[0] / steps for steps in ALPHA_STEPS}
    return found


def table(result: dict[str, Any]) -> str:
    """Return Markdown: one row per way to make batches, then the pairs that hbdist masks, and α."""
    heads = (
        "one group on all ranks | documents · queries that ranks share | first 16 batches, s | batches/s | hbdist ÷ it"
    )
    heads = heads.replace("16", str(result["settings"]["batches"]))
    lines = [f"| | {heads} |", "|---" * 6 + "|"]
    made, timed = result["composition"], result["times"]
    for name in (OURS, WITH_MASKS, *SAMPLERS):
        one = made[OURS if name == WITH_MASKS else name]
        if "reason" in one:
            lines.append(f"| {name} | not run: {one['reason']} | | | | |")
            continue
        shared = f"{one['documents_across']:,.1f} · {one['queries_across']:,.1f}"
        lines.append(f"| {name} | {one['one_group']:.3f} | {shared} | {' | '.join(_speed(name, timed, result))} |")
    return "\n".join([*lines, "", _masked(result["masks"]), "", *_alpha(result["alpha"])])


def _speed(name: str, timed: dict[str, Any], result: dict[str, Any]) -> tuple[str, str, str]:
    if "reason" in timed:
        return timed["reason"], "", ""
    seconds, ours = timed["seconds"][name], timed["seconds"][OURS]
    rate = result["settings"]["batches"] / quartiles(seconds)["median"]
    faster = ratio(seconds, ours)
    return (
        f"{timed['first'][name]:.2f}",
        f"{rate:,.1f}",
        f"{faster['median']:,.1f} ({faster['low']:,.1f}–{faster['high']:,.1f})",
    )


def _masked(masks: dict[str, Any]) -> str:
    if "reason" in masks:
        return f"Masks were not counted: {masks['reason']}."
    return (
        f"hbdist leaves repeats in the batch and masks them. Of {masks['documents']:,.1f} cases per batch where a query meets "
        f"its own document under another number, {masks['documents_left']:,.1f} are not masked; of {masks['queries']:,.1f} "
        f"where it meets the other document of a query with exactly its text, {masks['queries_left']:,.1f}."
    )


def _alpha(found: dict[str, Any]) -> Iterator[str]:
    if "reason" in found:
        yield f"α was not counted: {found['reason']}."
        return
    for alpha, shares in found.items():
        reached = ", ".join(f"{share:.4f} over {int(steps):,} steps" for steps, share in shares.items())
        yield f"- hbdist with α = {alpha} reaches {reached}."
    yield "- sentence-transformers has no α: its shares are those of the data."


if __name__ == "__main__":
    given = arguments(__doc__)
    result = measure(quick=given.quick)
    write(given.out, "composition", result)
    print(table(result))
