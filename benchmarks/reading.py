"""Pairs per second read from the same shards: hbdist's random access and webdataset's stream, raw and tokenized.

208,000 pairs of about 1 KB in tars of 2,000; batches of 512; 0, 1 and 2 workers. hbdist reads each batch in random order
from all shards of one language; webdataset reads tar after tar, without shuffling and with `json.loads` for decoding, its
fastest. The rate
that an encoder needs is measured, too: that of the forward pass of the demo's encoder, which is faster than training. And the
price of comparing each text with its checksum: the same shards with and without checksums, in CPU time, turn by turn
(`--checksums` measures this alone, and puts it into the results that are there).
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from made_up import LANGUAGES, demo_tokenize, make_config, make_shards, monolingual, tars
from measure import RunError, arguments, launch, quartiles, ratio, say, write
from peers import version_of

BATCH = 512
WORKERS = (0, 1, 2)
REPETITIONS, WARMUPS = 5, 2
OURS, PEER = "hbdist", "webdataset"
BATCHES = {"texts": 80, "tokens": 12}
"""Number of batches of each turn."""
CHECKSUM_TURNS = 15
ENCODER_PAIRS = 16
GPU = {"encoder": "XLM-R-base", "parameters": 86e6, "tokens_a_pair": 160, "operations_a_second": 0.4 * 989e12}
"""Assumed H200 at 40 % of its bfloat16 peak; parameters without the embedding table. Computed, not measured."""


def gpu_need() -> float:
    """Return the pairs per second that such a GPU trains on: 6 operations per parameter and token, forward and backward."""
    return GPU["operations_a_second"] / (6 * GPU["parameters"] * GPU["tokens_a_pair"])


def measure(*, quick: bool) -> dict[str, Any]:
    rows, repetitions, warmups = (2_000, 2, 0) if quick else (26_000, REPETITIONS, WARMUPS)
    workers = WORKERS[:2] if quick else WORKERS
    with tempfile.TemporaryDirectory() as folder:
        say(f"shards of {8 * rows:,} pairs")
        manifest = make_shards(Path(folder), monolingual(LANGUAGES[:8]), rows=rows, shard_rows=2_000)
        size = sum(os.path.getsize(path) for path in tars(manifest)) / manifest.rows
        result: dict[str, Any] = {
            "settings": {
                "pairs": manifest.rows,
                "bytes_a_pair": size,
                "batch": BATCH,
                "batches": BATCHES,
                "repetitions": repetitions,
                "warmups": warmups,
            },
            "versions": {name: version_of(name) for name in ("webdataset", "tokenizers")},
            "gpu": {**GPU, "pairs_a_second": gpu_need()},
        }
        say("the encoder")
        pairs = ENCODER_PAIRS // (4 if quick else 1)
        result["encoder"] = _or_reason(encoder_rate, root=folder, pairs=pairs, repetitions=repetitions)
        turns = {"root": folder, "repetitions": repetitions}
        for what, batches in BATCHES.items():
            result[what] = {}
            for number in workers:
                say(f"{what}, {number} workers")
                # Starting workers takes as long as a turn, and is a warm-up, too.
                given = {**turns, "batches": batches // (4 if quick else 1), "warmups": 0 if number else warmups}
                result[what][str(number)] = _or_reason(rates, what=what, workers=number, **given)
        say("texts, files not in memory")
        result["cold"] = _or_reason(rates, what="texts", workers=0, batches=20, warmups=0, cold=True, **turns)
    return {**result, "checksums": measure_checksums(quick=quick)}


def measure_checksums(*, quick: bool) -> dict[str, Any]:
    """Return the pairs per CPU second of every turn, with checksums and without."""
    say("checksums")
    rows, turns = (2_000, 3) if quick else (8_000, CHECKSUM_TURNS)
    with tempfile.TemporaryDirectory() as folder:
        root, without = Path(folder, "with"), Path(folder, "without")
        manifest = make_shards(root, monolingual(LANGUAGES[:8]), rows=rows, shard_rows=2_000)
        leave_checksums_out(manifest, without)
        found = _or_reason(
            checksum_rates, roots=[str(root), str(without)], batches=80 // (4 if quick else 1), turns=turns
        )
    return {**found, "date": datetime.now(UTC).strftime("%Y-%m-%d"), "pairs": manifest.rows}


def leave_checksums_out(manifest: Any, root: Path) -> None:
    """Make a folder of the same shards with the indexes of before, which have no checksums."""
    import numpy as np

    from hbdist.data.shards.groups import Shards
    from hbdist.data.shards.sample import INDEX_WITHOUT_CHECKSUMS
    from hbdist.utils.files import sha256

    groups = []
    for group in manifest.groups:
        (root / group.name).mkdir(parents=True)
        shards = []
        for shard in group.shards:
            os.link(manifest.folder / shard.path, root / shard.path)
            entries = np.load(manifest.folder / shard.index)
            np.save(root / shard.index, entries[list(INDEX_WITHOUT_CHECKSUMS.names)].astype(INDEX_WITHOUT_CHECKSUMS))
            shards.append(replace(shard, index_sha256=sha256(root / shard.index)))
        groups.append(replace(group, shards=Shards.of(shards)))
    replace(manifest, root=root, groups=tuple(groups)).save(root)


def checksum_rates(roots: list[str], batches: int, turns: int) -> dict[str, list[float]]:
    from hbdist.data.shards.manifest import Manifest

    cases = dict(zip(("with", "without"), map(Manifest.load, roots), strict=True))
    found: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-2, turns):
        for name, manifest in cases.items():
            loader = our_texts(manifest, 0, batches)
            iterator = iter(loader)
            next(iterator)  # opens the shards
            start = time.process_time()
            count = sum(len(batch) for batch in iterator)
            if turn >= 0:
                found[name].append(count / (time.process_time() - start))
    return found


def _or_reason(function: Callable[..., Any], **settings: Any) -> dict[str, Any]:
    try:
        return dict(launch(function, timeout=200, **settings)[0])
    except RunError as error:
        return {"reason": str(error)}


def rates(
    root: str, what: str, workers: int, batches: int, repetitions: int, warmups: int, cold: bool = False
) -> dict[str, list[float]]:
    """Return the pairs per second of every turn, A B A B …, counted from the first batch on, which excludes the start.

    Args:
        what: "texts" or "tokens".
        cold: remove the files from the page cache before each turn.
    """
    from hbdist.data.shards.manifest import Manifest

    manifest = Manifest.load(root)
    cases = {
        "texts": {OURS: our_texts, PEER: their_texts},
        "tokens": {OURS: our_tokens, PEER: their_tokens},
    }[what]
    found: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(-warmups, repetitions):
        for name, make in cases.items():
            if cold:
                forget(manifest)
            rate = _rate(make(manifest, workers, batches), batches, workers)
            if turn >= 0:
                found[name].append(rate)
    return found


def _rate(loader: Iterable[Any], batches: int, workers: int) -> float:
    iterator, begun = iter(loader), 1 + workers
    # Batches that workers have started before the first one arrives are not counted.
    for _ in islice(iterator, begun):
        pass
    start, count = time.perf_counter(), sum(1 for _ in islice(iterator, batches - begun))
    seconds = time.perf_counter() - start
    assert count == batches - begun, f"{count + begun} batches of {batches}"
    return count * BATCH / seconds


def forget(manifest: Any) -> None:
    """Remove the shards from the system's page cache."""
    os.sync()
    for path in tars(manifest):
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def our_texts(manifest: Any, workers: int, batches: int) -> Iterable[Any]:
    from torch.utils.data import DataLoader

    from hbdist.data.batching.sampler import HybridBatchSampler, PairDataset
    from hbdist.data.batching.schedule import Schedule

    sampler = HybridBatchSampler(Schedule.of(config_of(manifest, workers, batches), manifest), 0, 1, steps=batches)
    return DataLoader(PairDataset(manifest), batch_sampler=sampler, collate_fn=list, num_workers=workers)


def their_texts(manifest: Any, workers: int, batches: int) -> Iterable[Any]:
    import webdataset

    return webdataset.WebLoader(_stream(manifest), batch_size=None, num_workers=workers)


def our_tokens(manifest: Any, workers: int, batches: int) -> Iterable[Any]:
    from hbdist.training.loader import Batches, measure_token_rates

    tokenize = demo_tokenize()
    rates_ = measure_token_rates(manifest, tokenize)
    return Batches(config_of(manifest, workers, batches), manifest, tokenize, token_rates=rates_).from_step(0)


def their_tokens(manifest: Any, workers: int, batches: int) -> Iterable[Any]:
    import webdataset

    # Spawned, as hbdist's: in forked processes, tokenizers use a single thread.
    start = {"multiprocessing_context": "spawn"} if workers else {}
    return webdataset.WebLoader(
        _stream(manifest).map(Tokens(demo_tokenize())), batch_size=None, num_workers=workers, **start
    )


def _stream(manifest: Any) -> Any:
    import webdataset

    stream = webdataset.WebDataset(tars(manifest), shardshuffle=False)
    return stream.map_dict(json=json.loads).batched(BATCH, collation_fn=None)


class Tokens:
    """Tokenization of a batch of webdataset samples in the fastest way of Hugging Face's tokenizers: all at once, padded."""

    def __init__(self, tokenize: Any) -> None:
        self.tokenizer, self.settings = tokenize.tokenizer, tokenize.settings

    def __call__(self, samples: list[dict[str, Any]]) -> list[Any]:
        settings, pairs = self.settings, [sample["json"] for sample in samples]
        queries = [settings.query_prefix + pair["query"] for pair in pairs]
        documents = [settings.document_prefix + pair["document"] for pair in pairs]
        lengths = settings.max_query_tokens, settings.max_document_tokens
        return [
            self.tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            for texts, limit in zip((queries, documents), lengths, strict=True)
        ]


def config_of(manifest: Any, workers: int, batches: int) -> Any:
    return make_config(
        manifest.root, steps=batches, batch={"size": BATCH, "mono_share": 1.0}, data={"workers": workers}
    )


def encoder_rate(root: str, pairs: int, repetitions: int) -> dict[str, Any]:
    """Return the pairs per second of the demo encoder's forward pass on a batch of these shards, and the tokens per pair."""
    import torch

    from hbdist.data.shards.manifest import Manifest
    from hbdist.models.encoder import Encoder
    from hbdist.training.loader import Batches, measure_token_rates

    manifest = Manifest.load(root)
    config = make_config(Path(root), steps=1, batch={"size": pairs, "mono_share": 1.0})
    encoder = Encoder.load(config.model).eval()
    token_rates = measure_token_rates(manifest, encoder.tokenize)
    batch = Batches(config, manifest, encoder.tokenize, token_rates=token_rates)[0]
    found = []
    for turn in range(-1, repetitions):
        start = time.perf_counter()
        with torch.inference_mode():
            for chunk in batch.chunks:
                encoder(chunk.input_ids_BL, chunk.attention_mask_BL)
        if turn >= 0:
            found.append(pairs / (time.perf_counter() - start))
    return {"pairs_a_second": found, "tokens_a_pair": batch.counts.tokens / pairs}


def table(result: dict[str, Any]) -> str:
    """Return Markdown: pairs per second, the ratio, and the rates that encoders need."""
    lines = [
        "| | workers | hbdist, pairs/s | webdataset, pairs/s | hbdist ÷ webdataset |",
        "|---|---|---|---|---|",
    ]
    rows = [(what, number, found) for what in ("texts", "tokens") for number, found in result[what].items()]
    for what, number, found in [*rows, ("texts, from a disk", "0", result["cold"])]:
        cells = (
            [found["reason"], "", ""]
            if "reason" in found
            else [_count(found[OURS]), _count(found[PEER]), _ratio(found)]
        )
        lines.append(f"| {what} | {number} | {' | '.join(cells)} |")
    if "with" in (compared := result.get("checksums", {})):
        one = ratio(compared["with"], compared["without"])
        cells = f"{_count(compared['with'])} | without: {_count(compared['without'])}"
        lines.append(
            f"| texts compared with their checksums, pairs per CPU second | 0 | {cells} | {one['median']:.3f}"
            f" ({one['low']:.3f}–{one['high']:.3f}) |"
        )
    return "\n".join([*lines, "", *_needs(result)])


def _count(rates: list[float]) -> str:
    return f"{quartiles(rates)['median']:,.0f}"


def _ratio(found: dict[str, list[float]]) -> str:
    one = ratio(found[OURS], found[PEER])
    return f"{one['median']:.2f} ({one['low']:.2f}–{one['high']:.2f})"


def _needs(result: dict[str, Any]) -> list[str]:
    fed = [quartiles(found[OURS])["median"] for found in result["tokens"].values() if OURS in found]
    gpu, encoder = result["gpu"], result["encoder"]
    tokens = gpu["pairs_a_second"] * gpu["tokens_a_pair"]
    need = (
        f"Not measured here: an H200 at 40 % of its peak trains {gpu['encoder']} on 0.4 · 989e12 ÷ (6 · "
        f"{gpu['parameters'] / 1e6:.0f}e6) = {tokens:,.0f} tokens/s, {gpu['pairs_a_second']:,.0f} pairs/s of "
        f"{gpu['tokens_a_pair']} tokens."
    )
    if "reason" in encoder or not fed:
        return [f"The encoder was not measured: {encoder.get('reason', 'nothing to compare with')}.", need]
    rate, length = quartiles(encoder["pairs_a_second"])["median"], encoder["tokens_a_pair"]
    return [
        f"The demo's encoder processes {rate:,.1f} pairs/s of {length:.0f} tokens here in its forward pass alone: tokenised "
        f"batches come {max(fed) / rate:,.0f} times as fast, {max(fed) * length:,.0f} tokens/s. {need}"
    ]


if __name__ == "__main__":
    given = arguments(__doc__, None, "--checksums")
    if given.checksums:
        path = given.out / "reading.json"
        result = json.loads(path.read_text(encoding="utf-8")) | {"checksums": measure_checksums(quick=given.quick)}
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    else:
        result = measure(quick=given.quick)
        write(given.out, "reading", result)
    print(table(result))
