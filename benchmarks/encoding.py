"""Texts per second of the demo's encoder: hbdist's `Encoder.encode` and sentence-transformers' `encode`.

    python benchmarks/encoding.py [--quick] [--out FOLDER]

XQuAD-R's questions, its sentences, and its sentences with their paragraphs, spread evenly over all eleven languages;
tokenization is included. sentence-transformers uses the batch size that is fastest here for each kind of text.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from made_up import MODEL
from measure import arguments, interleave, launch, quartiles, ratio, say, write
from peers import PeerError, sentence_transformer

OURS, PEER = "hbdist", "sentence-transformers"
TEXTS = {"questions": 1200, "sentences": 600, "sentences with paragraphs": 120}
BATCH_SIZES = (4, 8, 16, 32, 64, 128)


def make_texts(kind: str, count: int) -> list[str]:
    """Return the middle text of each of `count` equal sections of XQuAD-R."""
    from hbdist.evaluation.tasks.xquad_r import load_xquad_r

    task = load_xquad_r(with_paragraph=kind == "sentences with paragraphs")
    texts = [text.text for text in (task.queries if kind == "questions" else task.candidates)]
    return [texts[(2 * part + 1) * len(texts) // (2 * count)] for part in range(count)]


def rates(kind: str, count: int, repetitions: int) -> dict[str, Any]:
    """Return the seconds of every turn, A B A B …, the other library at its best batch size, and the vectors' distance."""
    from hbdist.models.encoder import Encoder, settings_of

    texts, side = make_texts(kind, count), "query" if kind == "questions" else "document"
    encoder = Encoder.load_for_use(settings_of(str(MODEL)))
    try:
        model = sentence_transformer(MODEL)
    except PeerError as error:
        return {"reason": str(error)}

    def theirs(batch_size: int) -> np.ndarray:
        return np.asarray(model.encode(texts, prompt_name=side, batch_size=batch_size, show_progress_bar=False))

    off = float(np.abs(encoder.encode(texts, side) - theirs(32)).max())
    tried = {size: min(_seconds(theirs, size) for _ in range(2)) for size in BATCH_SIZES}
    best = min(tried, key=lambda size: tried[size])
    cases = {OURS: lambda: encoder.encode(texts, side), PEER: lambda: theirs(best)}
    seconds = interleave(cases, repetitions=repetitions, warmups=1)
    ids, cut = encoder.tokenize(texts, side)
    tokens = sum(map(len, ids))
    return {
        "seconds": seconds,
        "texts": count,
        "tokens": tokens,
        "cut": cut,
        "batch_size": best,
        "tried": tried,
        "off": off,
    }


def _seconds(run: Callable[[int], object], value: int) -> float:
    start = time.perf_counter()
    run(value)
    return time.perf_counter() - start


def measure(*, quick: bool) -> dict[str, Any]:
    result: dict[str, Any] = {"kinds": {}}
    for kind, count in TEXTS.items():
        say(kind)
        given = {"count": count // 10, "repetitions": 2} if quick else {"count": count, "repetitions": 5}
        result["kinds"][kind] = launch(rates, timeout=900, kind=kind, **given)[0]
    return result


def table(result: dict[str, Any]) -> str:
    """Return Markdown: one row per kind of text."""
    lines = [
        "| | tokens per text | hbdist, texts/s | sentence-transformers, texts/s | its batch size | hbdist ÷ it | largest"
        " difference |",
        "|---" * 7 + "|",
    ]
    for kind, found in result["kinds"].items():
        if "reason" in found:
            lines.append(f"| {kind} | not run: {found['reason']} | | | | | |")
            continue
        ours, theirs = (quartiles([found["texts"] / one for one in found["seconds"][name]]) for name in (OURS, PEER))
        speed = ratio(found["seconds"][PEER], found["seconds"][OURS])
        lines.append(
            f"| {kind} | {found['tokens'] / found['texts']:.0f} | {ours['median']:,.1f} | {theirs['median']:,.1f}"
            f" | {found['batch_size']} | {speed['median']:.2f} ({speed['low']:.2f}–{speed['high']:.2f})"
            f" | {found['off']:.0e} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    given = arguments(__doc__ or "")
    result = measure(quick=given.quick)
    write(given.out, "encoding", result)
    print(table(result))
