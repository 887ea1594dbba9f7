"""The loss on one CUDA GPU in bfloat16: memory and speed by number of pairs, compared with a plain matrix product and OpenCLIP.

The symmetric loss of unit vectors of 768 dimensions, forward and backward. Every implementation needs at least 6·B²·D
operations; speed is the rate of these, as a share of the rate of a bfloat16 matrix product on the same GPU. Without a GPU,
the result says so.
"""

from typing import Any

from contenders import DIMENSIONS, TEMPERATURE
from measure import arguments, quartiles, say, write
from peers import PeerError, inf_cl_loss, open_clip_loss

SIZES = tuple(1 << power for power in range(13, 21))
REPETITIONS, WARMUPS = 5, 2
OPERATIONS = 6
"""Fewest operations of a loss with its gradient, divided by B²·D: the scores, and one product for each of the two gradients."""
NO_GPU = "no CUDA GPU is there"


def measure(*, quick: bool) -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        say(NO_GPU)
        return {"reason": NO_GPU}
    sizes = SIZES[:2] if quick else SIZES
    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(), "settings": {"dtype": "bfloat16", "sizes": sizes}}
    result["matmul"] = matmul_rate("cuda", 8192)
    losses: dict[str, Any] = {}
    result["skipped"] = {}
    for name, make in MAKERS.items():
        try:
            losses[name] = make()
        except PeerError as error:
            result["skipped"][name] = str(error)
    result["runs"] = {name: {} for name in losses}
    for pairs in sizes:
        for name, loss in losses.items():
            before = result["runs"][name].get(str(pairs // 2), {})
            say(f"{pairs:,} pairs: {name}")
            result["runs"][name][str(pairs)] = before if "reason" in before else one_size(loss, pairs, "cuda")
    return result


def matmul_rate(device: str, size: int) -> float:
    """Return the operations per second of a square bfloat16 matrix product."""
    import torch

    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / quartiles(timed(lambda: one @ other, device, repetitions=20))["median"]


def one_size(loss: Any, pairs: int, device: str) -> dict[str, Any]:
    """Return the seconds of every repetition and the peak bytes above the inputs, or the reason why there are none."""
    import torch
    from torch.nn.functional import normalize

    torch.manual_seed(0)
    leaves = [torch.randn(pairs, DIMENSIONS, device=device, dtype=torch.bfloat16) for _ in range(2)]
    leaves = [normalize(leaf, dim=-1).requires_grad_() for leaf in leaves]
    before = 0
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    try:
        seconds = timed(lambda: loss(*leaves).backward(), device, repetitions=REPETITIONS)
    except torch.OutOfMemoryError:
        return {"reason": "out of memory"}
    except Exception as error:  # another library's kernel may refuse the shape or the GPU
        return {"reason": f"{type(error).__name__}: {error}"[:200]}
    return {"seconds": seconds, "bytes": torch.cuda.max_memory_allocated() - before if device == "cuda" else 0}


def timed(run: Any, device: str, *, repetitions: int) -> list[float]:
    """Return the seconds of each run, by the device's own clock if it has one."""
    import time

    import torch

    seconds = []
    for turn in range(-WARMUPS, repetitions):
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            torch.cuda.synchronize()
            taken = start.elapsed_time(end) / 1e3
        else:
            began = time.perf_counter()
            run()
            taken = time.perf_counter() - began
        if turn >= 0:
            seconds.append(taken)
    return seconds


def _hbdist() -> Any:
    from hbdist.loss.contrastive import contrastive_loss

    return lambda query_BD, document_BD: contrastive_loss(
        query_BD, document_BD, temperature=TEMPERATURE, symmetric=True, normalize=False
    )


def _open_clip() -> Any:
    clip = open_clip_loss()()
    return lambda query_BD, document_BD: clip(query_BD, document_BD, 1 / TEMPERATURE)


def _inf_cl() -> Any:
    flash = inf_cl_loss()
    scale = 1 / TEMPERATURE
    return lambda query_BD, document_BD: (
        (flash(query_BD, document_BD, scale=scale).mean() + flash(document_BD, query_BD, scale=scale).mean()) / 2
    )


MAKERS = {"hbdist": _hbdist, "Inf-CL": _inf_cl, "OpenCLIP": _open_clip}


def table(result: dict[str, Any]) -> str:
    """Return Markdown: one column per number of pairs, or what is missing."""
    if "reason" in result:
        return f"Not measured: {result['reason']}."
    sizes = list(next(iter(result["runs"].values())))
    matmul = f"A bfloat16 matrix product on this {result['gpu']} makes {result['matmul'] / 1e12:.0f} TFLOP/s."
    lines = [
        matmul,
        "",
        "| | " + " | ".join(f"{int(pairs):,}" for pairs in sizes) + " |",
        "|---" * (len(sizes) + 1) + "|",
    ]
    for name, runs in result["runs"].items():
        cells = []
        for pairs in sizes:
            one = runs[pairs]
            if "reason" in one:
                cells.append(one["reason"])
                continue
            seconds = quartiles(one["seconds"])["median"]
            rate = OPERATIONS * int(pairs) ** 2 * DIMENSIONS / seconds
            cells.append(f"{seconds:.3g} s · {one['bytes'] / 1e9:.2f} GB · {rate / result['matmul']:.0%}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines + [f"\n{name}, not run: {why}." for name, why in result["skipped"].items()])


if __name__ == "__main__":
    given = arguments(__doc__)
    result = measure(quick=given.quick)
    if "reason" not in result:
        write(given.out, "gpu", result)
    print(table(result))
