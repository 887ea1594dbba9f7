"""Cost of the gradient cache's second encoding: complete steps of a random encoder, forward and backward.

Six layers, 384 dimensions, 30,000 pieces, 256 pairs of about 24 and 96 tokens (lognormal), float32, two threads, no dropout.
Two passes need 8 units of arithmetic instead of the 6 of one pass, 1.33 times as many. sentence-transformers' cached loss
gets the same texts and the same encoder. Both use the fastest of the chunk sizes, or mini-batch sizes, that were tried.
"""

from collections.abc import Callable
from typing import Any

from measure import HERE, RunError, arguments, free_port, interleave, launch, quartiles, ratio, say, write
from peers import PeerError

PAIRS, LAYERS = 256, 6
REPETITIONS = 5
ONE_PASS, TWO_PASSES, PEER = "hbdist, one pass", "hbdist, two passes", "sentence-transformers, cached"
MINI_BATCHES: tuple[dict[str, int], ...] = (
    {"mini_batch_size": 16},
    {"mini_batch_size": 32},
    {"mini_batch_size": 64},
    {"mini_batch_num_tokens": 2048},
    {"mini_batch_num_tokens": 8192},
)
CHUNK_TOKENS = (1024, 2048, 4096)
AGREE = 1e-4
"""Relative difference up to which two float32 gradients count as equal."""


def measure(*, quick: bool) -> dict[str, Any]:
    pairs, layers, repetitions = (32, 1, 2) if quick else (PAIRS, LAYERS, REPETITIONS)
    say("chunks of hbdist, mini-batches of sentence-transformers' cached loss")
    searched = _or_reason(search, pairs=pairs // 4, layers=layers)
    best = {"chunk_tokens": CHUNK_TOKENS[-1], "mini_batch": MINI_BATCHES[1], **searched.get("best", {})}
    say(f"{pairs} pairs, {repetitions} turns, {best}")
    timed = _or_reason(times, pairs=pairs, layers=layers, repetitions=repetitions, **best)
    say("reductions of the gradient on two ranks")
    reduced = _or_reason(reductions, world=2, port=free_port())
    say("the same step as a DeepSpeed engine")
    sharded = {
        name: _or_reason(deepspeed_step, name=name, port=free_port()).get("reason", "works")
        for name in (TWO_PASSES, PEER)
    }
    settings = {"pairs": pairs, "layers": layers, "repetitions": repetitions, **best}
    return {"settings": settings, "search": searched, "steps": timed, "reductions": reduced, "zero2": sharded}


def search(pairs: int, layers: int) -> dict[str, Any]:
    """Return the seconds of one step at each chunk size and each mini-batch size, and the fastest of them."""
    from steps import Encoder, make_texts, our_step, peer_step

    encoder, texts = Encoder(layers), make_texts(pairs)
    chunks = {str(size): our_step(encoder, texts, None, "always", chunk_tokens=size).run for size in CHUNK_TOKENS}
    chunks[str(CHUNK_TOKENS[0])]()
    found = {"pairs": pairs, "chunk_tokens": interleave(chunks, repetitions=1, warmups=0)}
    found["best"] = {"chunk_tokens": int(_fastest(found["chunk_tokens"]))}
    try:
        batches = {str(number): peer_step(encoder, texts, setting)[0] for number, setting in enumerate(MINI_BATCHES)}
    except PeerError as error:
        return {**found, "peer": str(error)}
    seconds = interleave(batches, repetitions=1, warmups=0)
    found["mini_batch"] = [{**setting, "seconds": seconds[str(number)]} for number, setting in enumerate(MINI_BATCHES)]
    found["best"]["mini_batch"] = MINI_BATCHES[int(_fastest(seconds))]
    return found


def _fastest(seconds: dict[str, list[float]]) -> str:
    return min(seconds, key=lambda name: seconds[name])


def times(pairs: int, layers: int, repetitions: int, chunk_tokens: int, mini_batch: dict[str, int]) -> dict[str, Any]:
    """Return the seconds of every turn, the padding, and the gradients' error against one pass, on an eighth of the pairs."""
    from steps import Encoder, make_texts, our_step, peer_step

    encoder = Encoder(layers)
    found: dict[str, Any] = {}

    def cases(number: int) -> dict[str, Callable[[], object]]:
        texts = make_texts(number)
        ours = {
            name: our_step(encoder, texts, None, gradient_cache, chunk_tokens=chunk_tokens)
            for name, gradient_cache in ((ONE_PASS, "never"), (TWO_PASSES, "always"))
        }
        runs = {name: one.run for name, one in ours.items()}
        real = sum(len(text) for column in texts.values() for text in column)
        found["padded_over_real"], found["real_tokens"] = ours[ONE_PASS].padded_tokens / real, real
        try:
            runs[PEER] = peer_step(encoder, texts, mini_batch)[0]
        except PeerError as error:
            found["peer"] = str(error)
        return runs

    small = cases(pairs // 8)
    found["differences"] = _differences(encoder, small)
    interleave(small, repetitions=0, warmups=1)  # the comparison was the warm-up
    found["seconds"] = interleave(
        cases(pairs), repetitions=repetitions, warmups=0, before=lambda: encoder.zero_grad(set_to_none=True)
    )
    return found


def _differences(encoder: Any, cases: dict[str, Callable[[], object]]) -> dict[str, float]:
    import torch

    gradients = {}
    for name, run in cases.items():
        encoder.zero_grad(set_to_none=True)
        run()
        gradients[name] = torch.cat([parameter.grad.flatten() for parameter in encoder.parameters()])
    right = gradients[ONE_PASS]
    differences = {name: float((found - right).norm() / right.norm()) for name, found in gradients.items()}
    assert max(differences.values()) < AGREE, f"the gradients differ: {differences}"
    return differences


def reductions(port: int) -> dict[str, Any]:
    """Count, on two ranks, how often a step averages the whole gradient over them, with as many chunks as mini-batches."""
    import os

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": os.environ["WORLD_SIZE"]}
    from steps import Encoder, Engine, make_config, make_texts, our_step, peer_step

    engine = Engine.start(make_config(64, "always"))
    texts = make_texts(32, seed=engine.rank)
    found: dict[str, Any] = {}
    for name, gradient_cache in ((ONE_PASS, "never"), (TWO_PASSES, "always")):
        ours = our_step(Encoder(1), texts, engine, gradient_cache, chunk_tokens=512)
        found[name] = _count(ours.model, ours.run)
    try:
        run, model = peer_step(Encoder(1), texts, {"mini_batch_size": 8}, distributed=True)
        found[PEER] = _count(model, run)
    except PeerError as error:
        found[PEER] = str(error)
    return found


def deepspeed_step(name: str, port: int) -> dict[str, Any]:
    """Run one training step under DeepSpeed's ZeRO-2 in one process; return the error that it raises."""
    import os

    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    os.environ |= alone
    from steps import Encoder, Engine, make_config, make_texts, our_step, peer_engine_step

    texts = make_texts(32)
    if name == PEER:
        try:
            peer_engine_step(Encoder(1), texts, {"mini_batch_size": 8})
        except PeerError as error:
            return {"reason": str(error)}
        return {}
    engine = Engine.start(make_config(32, "always", deepspeed=str(HERE.parent / "launch" / "deepspeed" / "zero2.json")))
    our_step(Encoder(1), texts, engine, "always", chunk_tokens=512).run()
    engine.update(1e-4)
    return {}


def _count(model: Any, run: Callable[[], object]) -> int:
    import torch
    from torch.distributed import GradBucket
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    whole: list[bool] = []

    def hook(_: None, bucket: GradBucket) -> torch.futures.Future[torch.Tensor]:
        whole.append(bucket.is_last())
        return allreduce_hook(None, bucket)

    model.register_comm_hook(None, hook)
    run()
    return sum(whole)


def _or_reason(function: Any, **settings: Any) -> dict[str, Any]:
    try:
        return launch(function, timeout=1200, **settings)[0]
    except RunError as error:
        return {"reason": str(error)}


def table(result: dict[str, Any]) -> str:
    """Return Markdown: seconds and ratios of the steps, and gradient reductions."""
    steps, reduced = result["steps"], result["reductions"]
    if "reason" in steps:
        return f"Not measured: {steps['reason']}."
    lines = ["| | seconds | ÷ one pass | reductions per step, 2 ranks | under DeepSpeed, ZeRO-2 |", "|---" * 5 + "|"]
    for name in (ONE_PASS, TWO_PASSES, PEER):
        if name not in steps["seconds"]:
            lines.append(f"| {name} | not run: {steps['peer']} | – | – | – |")
            continue
        seconds = quartiles(steps["seconds"][name])
        cells = [f"{seconds['median']:.2f} ({seconds['low']:.2f}–{seconds['high']:.2f})"]
        cells.append("1" if name == ONE_PASS else _spread(ratio(steps["seconds"][name], steps["seconds"][ONE_PASS])))
        cells.append(str(reduced.get(name, reduced.get("reason", "–"))))
        sharded = result["zero2"].get(name, "–")
        cells.append(sharded if sharded in ("works", "–") else f"fails: {sharded}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    if PEER in steps["seconds"]:
        against = _spread(ratio(steps["seconds"][TWO_PASSES], steps["seconds"][PEER]))
        best = ", ".join(f"{key} = {value}" for key, value in result["settings"]["mini_batch"].items())
        lines += ["", f"Two passes ÷ sentence-transformers with its best setting, {best}: {against}."]
    padding = f"{steps['padded_over_real'] - 1:.1%} padding in hbdist's chunks of {result['settings']['chunk_tokens']:,} tokens"
    return "\n".join([*lines, "", f"{steps['real_tokens']:,} real tokens; {padding}."])


def _spread(found: dict[str, float]) -> str:
    return f"{found['median']:.3f} ({found['low']:.3f}–{found['high']:.3f})"


if __name__ == "__main__":
    given = arguments(__doc__)
    result = measure(quick=given.quick)
    write(given.out, "gradient_cache", result)
    print(table(result))
