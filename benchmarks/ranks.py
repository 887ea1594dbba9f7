"""The loss on two ranks of one thread each: seconds, peak memory and bytes received, and OpenCLIP's at its best flags.

Forward and backward of the symmetric loss from each rank's unit vectors, float32, 768 dimensions, gloo on loopback. OpenCLIP
uses local_loss and gather_with_grad, the exact setting that needs the least memory.
"""

import time
from typing import Any

from contenders import DIMENSIONS, TEMPERATURE, inputs
from measure import RunError, arguments, interleave, join, launch, peak_bytes, quartiles, ratio, say, write
from peers import PeerError, open_clip_loss

WORLD = 2
SIZES = (4096, 8192, 16384)
"""Number of pairs of the global batch."""
REPETITIONS = 5
TIMING_BUDGET = 150
"""Seconds for all turns of a size; a loss that would need more is timed once."""
NAMES = ("hbdist", "OpenCLIP")
AGREE = 1e-4
"""Relative difference up to which two float32 gradients count as equal."""


def measure(*, quick: bool) -> dict[str, Any]:
    sizes, repetitions = ((512, 1024), 2) if quick else (SIZES, REPETITIONS)
    result: dict[str, Any] = {
        "settings": {"dimensions": DIMENSIONS, "ranks": WORLD, "threads_a_rank": 1, "sizes": sizes},
        "alone": {},
        "times": {},
    }
    for pairs in sizes:
        say(f"{pairs:,} pairs: memory and bytes")
        alone = {name: _or_reason(one_run, name=name, pairs=pairs) for name in NAMES}
        result["alone"][str(pairs)] = alone
        result["times"][str(pairs)] = _times(alone, pairs, repetitions)
    return result


def one_run(name: str, pairs: int) -> dict[str, Any]:
    """Return, on each rank, the peak bytes above imports and inputs, bytes received, seconds and loss of one run."""
    import torch.distributed as dist
    from traffic import Counter, loopback_bytes

    rank, world = join()
    counter = Counter()
    try:
        run = make(name)
    except PeerError as error:
        return {"reason": str(error)}
    leaves = own_inputs(rank, world, pairs)
    dist.barrier()
    counter.bytes, wire, before, start = 0.0, loopback_bytes(), peak_bytes(), time.perf_counter()
    loss = run(*leaves)
    seconds, peak, counted = time.perf_counter() - start, peak_bytes() - before, counter.bytes
    dist.barrier()
    return {
        "seconds": seconds,
        "bytes": peak,
        "received": counted,
        "on_the_wire": (loopback_bytes() - wire) / world,
        "loss": loss,
    }


def make(name: str) -> Any:
    """Return the function that computes this rank's loss and adds the gradients to the leaves."""
    import torch.distributed as dist

    if name == "hbdist":
        from hbdist.loss.contrastive import contrastive_loss

        def ours(query_BD: Any, document_BD: Any) -> float:
            loss = contrastive_loss(query_BD, document_BD, temperature=TEMPERATURE, symmetric=True, normalize=False)
            loss.backward()
            return float(loss.detach())

        return ours
    clip = open_clip_loss()(
        local_loss=True, gather_with_grad=True, rank=dist.get_rank(), world_size=dist.get_world_size()
    )

    def theirs(query_BD: Any, document_BD: Any) -> float:
        loss = clip(query_BD, document_BD, 1 / TEMPERATURE)
        loss.backward()
        return float(loss.detach())

    return theirs


def own_inputs(rank: int, world: int, pairs: int) -> Any:
    """Return this rank's queries and documents: [pairs ÷ world, D] each."""
    return inputs(pairs // world, DIMENSIONS, seed=rank)


def _times(alone: dict[str, Any], pairs: int, repetitions: int) -> dict[str, Any]:
    once = {name: [max(one["seconds"] for one in ranks)] for name, ranks in alone.items() if isinstance(ranks, list)}
    turn = sum(seconds for (seconds,) in once.values())
    if turn * repetitions > TIMING_BUDGET:
        return {"seconds": once, "reason": f"{repetitions} turns would take {turn * repetitions:.0f} s"}
    say(f"{pairs:,} pairs: times, {repetitions} turns of about {turn:.1f} s")
    found = _or_reason(times, names=list(once), pairs=pairs, repetitions=repetitions)
    if not isinstance(found, list):
        return {"seconds": once, **found}
    # A step is done when its last rank is.
    seconds = {
        name: [max(turn) for turn in zip(*(one["seconds"][name] for one in found), strict=True)] for name in once
    }
    return {"seconds": seconds, "difference": max(one["difference"] for one in found)}


def times(names: list[str], pairs: int, repetitions: int) -> dict[str, Any]:
    """Return, on each rank, the seconds of every turn and the difference of the two gradients."""
    import torch
    import torch.distributed as dist

    rank, world = join()
    losses = {name: make(name) for name in names}

    def cases(number: int) -> dict[str, Any]:
        leaves = own_inputs(rank, world, number)
        return {name: (lambda loss=loss: loss(*leaves)) for name, loss in losses.items()}

    gradients = []
    for loss in losses.values():
        leaves = own_inputs(rank, world, min(pairs, 1024))
        loss(*leaves)
        gradients.append(torch.cat([leaf.grad for leaf in leaves]))
    difference = float((gradients[0] - gradients[-1]).norm() / gradients[0].norm())
    assert difference < AGREE, f"the gradients of {' and '.join(names)} differ by {difference:.0e}"
    interleave(cases(pairs // 4), repetitions=0, before=dist.barrier)
    seconds = interleave(cases(pairs), repetitions=repetitions, warmups=0, before=dist.barrier)
    return {"seconds": seconds, "difference": difference}


def _or_reason(function: Any, **settings: Any) -> Any:
    """Return the result of each rank, or a dictionary with the reason why there is none."""
    try:
        found = launch(function, world=WORLD, timeout=600, **settings)
    except RunError as error:
        return {"reason": str(error)}
    return found[0] if "reason" in found[0] else found


def table(result: dict[str, Any]) -> str:
    """Return Markdown: one line per number of pairs and loss, and hbdist ÷ OpenCLIP."""
    lines = [
        "| pairs | | seconds | peak per rank | received per rank | on the wire, gloo |",
        "|---|---|---|---|---|---|",
    ]
    for pairs, alone in result["alone"].items():
        seconds = result["times"][pairs]["seconds"]
        for name, ranks in alone.items():
            if not isinstance(ranks, list):
                lines.append(f"| {int(pairs):,} | {name} | not run: {ranks['reason']} | – | – | – |")
                continue
            mark = "*" if len(seconds[name]) == 1 else ""
            cells = [f"{quartiles(seconds[name])['median']:.2f}{mark}"]
            cells += [f"{max(one[key] for one in ranks) / 1e6:,.1f} MB" for key in QUANTITIES]
            lines.append(f"| {int(pairs):,} | {name} | {' | '.join(cells)} |")
        if all(isinstance(ranks, list) for ranks in alone.values()):
            spread = ratio(*(seconds[name] for name in NAMES))
            around = f" ({spread['low']:.2f}–{spread['high']:.2f})" if spread["n"] > 1 else "*"
            cells = [f"{spread['median']:.2f}{around}"]
            for key in QUANTITIES:
                ours, theirs = (max(one[key] for one in alone[name]) for name in NAMES)
                cells.append(f"{ours / theirs:.3f}")
            lines.append(f"| | **hbdist ÷ OpenCLIP** | {' | '.join(cells)} |")
    for pairs, timed in result["times"].items():
        if "reason" in timed:
            lines.append(f"\n{int(pairs):,} pairs timed once: {timed['reason']}.")
    return "\n".join(lines)


QUANTITIES = ("bytes", "received", "on_the_wire")

if __name__ == "__main__":
    given = arguments(__doc__)
    result = measure(quick=given.quick)
    write(given.out, "ranks", result)
    print(table(result))
