"""Memory, time and precision of the loss alone, in one process on two threads: forward and backward, float32, 768 dimensions.

Peak memory is that of a separate process, minus its memory after imports and inputs. Times are interleaved in one process;
if five turns of all losses would take too long, the single run of the memory measurement is reported, and marked.
"""

import time
from typing import Any

from contenders import CACHED, CONTENDERS, DIMENSIONS, MINI_BATCHES, inputs, make
from measure import MEMORY_LIMIT, RunError, arguments, interleave, launch, peak_bytes, quartiles, ratio, say, write
from peers import PeerError

SIZES = (2048, 4096, 8192, 16384, 32768)
REPETITIONS = 5
TIMING_BUDGET = 240
"""Seconds for all turns of a size; a loss that would need more is timed once."""
AGREE = 1e-4
"""Relative difference up to which two float32 losses count as equal."""
TIMEOUT = 900
NOISES = {"5": 7.0, "0.3": 1.95, "5e-5": 0.52}
"""Loss at 2,048 pairs → noise between queries and their documents that leads to it."""
LARGE = 65536


def measure(*, quick: bool) -> dict[str, Any]:
    sizes, repetitions = ((256, 512), 2) if quick else (SIZES, REPETITIONS)
    best = choose_mini_batch(sizes[1])
    say("digits of the gradient")
    result: dict[str, Any] = {
        "settings": {"dimensions": DIMENSIONS, "threads": 2, "dtype": "float32", "sizes": sizes},
        "mini_batch": best,
        "digits": _or_reason(digits, timeout=TIMEOUT, pairs=256 if quick else 2048, mini_batch_size=best["best"]),
        "memory": {},
        "times": {},
        "once": {},
    }
    for pairs in sizes:
        memory = {name: _memory(result, name, pairs) for name in CONTENDERS}
        result["memory"][str(pairs)] = memory
        _check_losses(memory)
        times_found, reason = _times(memory, pairs, repetitions, best["best"])
        result["times"][str(pairs)], result["once"][str(pairs)] = times_found, reason
    return result


def _check_losses(memory: dict[str, Any]) -> None:
    for symmetric in (False, True):
        losses = {
            name: one["loss"]
            for name, one in memory.items()
            if "loss" in one and CONTENDERS[name].symmetric == symmetric
        }
        if losses:
            assert max(losses.values()) - min(losses.values()) < AGREE * max(losses.values()), f"they differ: {losses}"


def choose_mini_batch(pairs: int) -> dict[str, Any]:
    """Return the seconds of sentence-transformers' cached loss at each mini-batch size, and the fastest size."""
    say(f"mini-batch of sentence-transformers' cached loss, {pairs:,} pairs")
    found = _or_reason(mini_batches, timeout=TIMEOUT, pairs=pairs)
    if "reason" in found:
        return {"best": MINI_BATCHES[-1], **found}
    return {
        "pairs": pairs,
        "seconds": found,
        "best": int(min(found, key=lambda size: quartiles(found[size])["median"])),
    }


def mini_batches(pairs: int) -> dict[str, list[float]]:
    query_BD, document_BD = inputs(pairs, DIMENSIONS)
    losses = {str(size): make(CACHED, size) for size in MINI_BATCHES if size <= pairs}
    cases = {size: (lambda loss=loss: loss(query_BD, document_BD)) for size, loss in losses.items()}
    return interleave(cases, repetitions=2, warmups=1)


def _memory(result: dict[str, Any], name: str, pairs: int) -> dict[str, Any]:
    """Return the memory of one run, or the reason why there was none."""
    before = result["memory"].get(str(pairs // 2), {}).get(name)
    if before and "reason" in before:
        return {"reason": before["reason"]}
    predicted = 4 * before["bytes"] if before and not name.startswith("hbdist") and name != CACHED else 0
    if predicted > MEMORY_LIMIT:
        return {"reason": f"would take {predicted / 1e9:.0f} GB (four times what half as many pairs took)"}
    say(f"{pairs:,} pairs: memory of {name}")
    settings = {"name": name, "pairs": pairs, "mini_batch_size": result["mini_batch"]["best"]}
    return _or_reason(one_run, timeout=TIMEOUT, **settings)


def one_run(name: str, pairs: int, mini_batch_size: int) -> dict[str, Any]:
    """Return the peak bytes, above imports and inputs and in total, seconds and loss of one run in a separate process."""
    try:
        run = make(name, mini_batch_size)
    except PeerError as error:
        return {"reason": str(error)}
    query_BD, document_BD = inputs(pairs, DIMENSIONS)
    before, start = peak_bytes(), time.perf_counter()
    loss = run(query_BD, document_BD)
    return {
        "seconds": time.perf_counter() - start,
        "bytes": peak_bytes() - before,
        "bytes_in_all": peak_bytes(),
        "loss": loss,
    }


def _times(
    memory: dict[str, Any], pairs: int, repetitions: int, mini_batch_size: int
) -> tuple[dict[str, list[float]], str]:
    """Return the seconds of every turn, or those of the single run in the memory measurement, and the reason."""
    once = {name: [one["seconds"]] for name, one in memory.items() if "seconds" in one}
    turn = sum(seconds for (seconds,) in once.values())
    if turn * repetitions > TIMING_BUDGET:
        return once, f"{repetitions} turns would take {turn * repetitions:.0f} s"
    say(f"{pairs:,} pairs: times, {repetitions} turns of about {turn:.1f} s")
    settings = {"names": list(once), "pairs": pairs, "repetitions": repetitions, "mini_batch_size": mini_batch_size}
    found = _or_reason(times, timeout=TIMEOUT, **settings)
    return (once, found["reason"]) if "reason" in found else (found, "")


def times(names: list[str], pairs: int, repetitions: int, mini_batch_size: int) -> dict[str, list[float]]:
    losses = {name: make(name, mini_batch_size) for name in names}

    def cases(number: int) -> dict[str, Any]:
        query_BD, document_BD = inputs(number, DIMENSIONS)
        return {name: (lambda loss=loss: loss(query_BD, document_BD)) for name, loss in losses.items()}

    interleave(cases(max(64, pairs // 4)), repetitions=0, warmups=2)
    return interleave(cases(pairs), repetitions=repetitions, warmups=0)


def digits(pairs: int, mini_batch_size: int) -> dict[str, Any]:
    """Return the relative error of every contender's gradient against float64, at three losses."""
    import torch

    found: dict[str, Any] = {}
    for asked, noise in NOISES.items():
        query_BD, document_BD = inputs(pairs, DIMENSIONS, noise=noise)
        references = {symmetric: _reference(query_BD, document_BD, symmetric) for symmetric in (False, True)}
        found[asked] = {"loss": references[False][0], "errors": {}}
        for name, contender in CONTENDERS.items():
            query_BD.grad = document_BD.grad = None
            try:
                make(name, mini_batch_size)(query_BD, document_BD)
            except PeerError as error:
                found[asked]["errors"][name] = {"reason": str(error)}
                continue
            right = references[contender.symmetric][1]
            gradient = torch.cat([query_BD.grad, document_BD.grad]).double()
            found[asked]["errors"][name] = {"error": float((gradient - right).norm() / right.norm())}
    return found


def _reference(query_BD: Any, document_BD: Any, symmetric: bool) -> tuple[float, Any]:
    """Return loss and gradient in float64, from the other documents' sums: σ(o − s) does not cancel if p is close to 1."""
    import torch
    from contenders import TEMPERATURE

    query, document = (part.detach().double().requires_grad_() for part in (query_BD, document_BD))
    score_BB = query @ document.T / TEMPERATURE
    own_B = score_BB.diagonal()
    other_BB = score_BB.masked_fill(torch.eye(len(query), dtype=torch.bool), -torch.inf)
    loss = torch.nn.functional.softplus(other_BB.logsumexp(dim=1) - own_B, threshold=700).mean()
    if symmetric:
        columns = torch.nn.functional.softplus(other_BB.logsumexp(dim=0) - own_B, threshold=700).mean()
        loss = (loss + columns) / 2
    loss.backward()
    return float(loss.detach()), torch.cat([query.grad, document.grad])


def _or_reason(function: Any, **settings: Any) -> dict[str, Any]:
    try:
        return launch(function, **settings)[0]
    except RunError as error:
        return {"reason": str(error)}


def large(*, quick: bool) -> dict[str, Any]:
    """Run both losses of hbdist once with 65,536 pairs."""
    pairs = 1024 if quick else LARGE
    names = [name for name, contender in CONTENDERS.items() if contender.peer == "hbdist"]
    say(f"{pairs:,} pairs in one process")
    runs = {name: _or_reason(one_run, timeout=1800, name=name, pairs=pairs, mini_batch_size=1) for name in names}
    return {"settings": {"dimensions": DIMENSIONS, "pairs": pairs}, "runs": runs}


def table(result: dict[str, Any]) -> str:
    """Return Markdown: peak and seconds by number of pairs; then hbdist ÷ each other library; then precision."""
    sizes = list(result["memory"])
    head = "| | " + " | ".join(f"{int(pairs):,}" for pairs in sizes) + " |\n" + "|---" * (len(sizes) + 1) + "|"
    lines = ["Peak memory in MB, and seconds (median; *: one run), by the number of pairs:", "", head]
    missing = {}
    for name in CONTENDERS:
        cells = []
        for pairs in sizes:
            one, seconds = result["memory"][pairs][name], result["times"][pairs].get(name)
            if "reason" in one:
                missing[name] = one["reason"]
                cells.append("not run")
            else:
                mark = "*" if len(seconds) == 1 else ""
                cells.append(f"{one['bytes'] / 1e6:,.0f} · {quartiles(seconds)['median']:.2f} s{mark}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [f"\n{name}, not run: {reason}." for name, reason in missing.items()]
    lines += [f"\n{int(pairs):,} pairs timed once: {reason}." for pairs, reason in result["once"].items() if reason]
    lines += ["", "hbdist ÷ the other library, memory and time (median of the turns' ratios, quartiles):", "", head]
    for ours, peer in PAIRS:
        cells = [_ratio_cell(result, ours, peer, pairs) for pairs in sizes]
        lines.append(f"| {ours} ÷ {peer} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_digits_table(result["digits"])])


PAIRS = (("hbdist symmetric", "OpenCLIP symmetric"), ("hbdist", "sentence-transformers"), ("hbdist", CACHED))


def _ratio_cell(result: dict[str, Any], ours: str, peer: str, pairs: str) -> str:
    memory, seconds = result["memory"][pairs], result["times"][pairs]
    if "reason" in memory[ours] or "reason" in memory[peer]:
        return "–"
    spread = ratio(seconds[ours], seconds[peer])
    around = f" ({spread['low']:.2f}–{spread['high']:.2f})" if spread["n"] > 1 else "*"
    return f"{memory[ours]['bytes'] / memory[peer]['bytes']:.3f} · {spread['median']:.2f}{around}"


def _digits_table(found: dict[str, Any]) -> list[str]:
    if "reason" in found:
        return [f"Digits of the gradient: not measured, {found['reason']}."]
    head = " | ".join(f"loss {one['loss']:.2g}" for one in found.values())
    lines = ["Relative error of the gradient against float64:", "", f"| | {head} |", "|---" * (len(found) + 1) + "|"]
    for name in CONTENDERS:
        errors = [one["errors"][name] for one in found.values()]
        cells = [f"{one['error']:.0e}" if "error" in one else one["reason"] for one in errors]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def large_table(result: dict[str, Any]) -> str:
    """Return Markdown: seconds and memory of the largest run."""
    lines = ["| | peak of the process | above imports and inputs | seconds |", "|---|---|---|---|"]
    for name, one in result["runs"].items():
        if "reason" in one:
            lines.append(f"| {name} | {one['reason']} | – | – |")
        else:
            sizes = f"{one['bytes_in_all'] / 1e9:.2f} GB | {one['bytes'] / 1e9:.2f} GB"
            lines.append(f"| {name} | {sizes} | {one['seconds']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    given = arguments(__doc__, None, "--large")
    if given.large:
        result = large(quick=given.quick)
        write(given.out, "loss-large", result)
        print(large_table(result))
    else:
        result = measure(quick=given.quick)
        write(given.out, "loss", result)
        print(table(result))
