"""The generator of README.md in this folder, from the JSON files in results/: one table per benchmark."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import composition
import encoding
import feeding
import gpu
import gradient_cache
import gradients
import layouts
import loss
import ranks
import reading
import resume
import schedule
import scoring
import search
from measure import HERE, RESULTS

TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str], str]] = {
    "gradients": (
        "Is the gradient of W ranks that of the whole batch?",
        gradients.table,
        "‖g‖ ÷ ‖reference‖ under DistributedDataParallel, which averages over the ranks, then the lowest cosine and the"
        " largest relative error over all losses and ranks. The reference is the gradient of the global batch's mean"
        " loss, computed by one process in float64. q→d: query to document; q⇄d: both directions; +2: with two hard"
        " negatives per pair. Adam hides a gradient of the wrong length; clipping, auxiliary losses and comparisons"
        " between different W do not.",
    ),
    "loss": (
        "The loss alone, one process",
        loss.table,
        "The input is unit vectors of 768 dimensions, the output the loss and both gradients; float32, two threads."
        " Memory is the peak of a separate process, above its imports and inputs. Targets: memory ≤ 0.05 × OpenCLIP at"
        " 16,384 pairs; time ≤ 0.6 × OpenCLIP's symmetric loss and ≤ 1.0 × sentence-transformers' cached loss with its"
        " fastest mini-batch.",
    ),
    "loss-large": (
        "65,536 pairs in one process",
        loss.large_table,
        "The same with 65,536 pairs, where each copy of the full score matrix would take 17 GB. Target: the whole process"
        " ≤ 2.5 GB.",
    ),
    "ranks": (
        "The loss over two ranks",
        ranks.table,
        "The symmetric loss, forward and backward, from each rank's unit vectors; two processes of one thread, gloo."
        " OpenCLIP runs with local_loss and gather_with_grad. Bytes are counted at the collectives, as a ring moves them."
        " The last column is what the loopback interface carried: gloo implements a reduce-scatter as an all-reduce,"
        " which moves twice as much. Targets: time ≤ 1.0, peak ≤ 0.1, bytes ≤ 0.75 × OpenCLIP.",
    ),
    "gradient_cache": (
        "The gradient cache",
        gradient_cache.table,
        "A whole step of a random encoder of six layers and 384 dimensions, with 256 pairs of about 24 and 96 tokens. Two"
        " passes need at least 1.33 times the arithmetic of one. Target: ≤ 1.40 times its time.",
    ),
    "reading": (
        "Reading",
        reading.table,
        "Pairs per second, read from the same shards of about 1 KB per pair. The files are in the page cache, except in"
        " the last row, for which they were evicted from it. Both tokenise 512 pairs at once with the demo's tokenizer;"
        " hbdist also sorts them, cuts them into chunks and assigns identities. Targets: ≥ 1.0 × webdataset; ≥ 2 × what the"
        " encoder needs; checksums ≤ 5 %.",
    ),
    "composition": (
        "What is in a global batch",
        composition.table,
        "Eleven languages, 4 ranks, 5 % of the texts repeated; sentence-transformers' samplers for several datasets,"
        " sharded by accelerate. hbdist's second row also reads and truncates the texts, which the other rows leave to"
        " later stages. Shared documents and queries: mean number per batch of a rank's texts that an earlier rank also"
        " has. The first batches include one-time work (hashes); the speed is that of later turns. Targets: 1.000; none"
        " unmasked; ≥ 5 × batches/s.",
    ),
    "resume": (
        "Resuming after a kill",
        resume.table,
        "Seconds from the imports to the first batch of 256 texts, and whether all later ids are those of an"
        " uninterrupted run. The streaming libraries skip over what was already read; `state_dict` of datasets knows the"
        " position in a shard, and loses what a shuffle buffer contained. Target: the same batches, ≥ 20 times as soon at"
        " 90 %.",
    ),
    "schedule": (
        "Planning at scale",
        schedule.table,
        "Synthetic manifests. Memory is the peak of a separate process, above its imports.",
    ),
    "feeding": (
        "Feeding a large batch",
        feeding.table,
        "What every rank does for the whole batch before it reads its own share: planning, looking up lengths, dealing to 8"
        " ranks, counting. CPU seconds per batch (median and quartiles), parts of them, and the same for the first batch, which"
        " opens the indexes of 2,450 windows; in parts, the work is done a second time. Memory is the peak of a separate"
        " process, above what it needs to start. Target: ≤ 0.5 s for 1,048,576 pairs.",
    ),
    "layouts": (
        "Layouts of parallel data",
        layouts.table,
        "NTREX and TICO-19 in eleven languages: shards that store each pair whole (`pairs`), and shards that store each"
        " text once (`parallel`).",
    ),
    "scoring": (
        "Scoring XQuAD-R",
        scoring.table,
        "13,090 questions against 13,014 sentences, 132 settings, from the same synthetic vectors of 384 dimensions."
        " hbdist ranks all candidates; sentence-transformers' InformationRetrievalEvaluator ranks the first 100, and mteb"
        " the first 1,000, scored by pytrec_eval. The last column is over all settings' nDCG@10, recall@10 and map@100."
        " hbdist's second row includes bias, alignment, two baselines and intervals. Targets: sentence-transformers ≥ 5,"
        " mteb ≥ 20 times hbdist's time; the process < 1 GB.",
    ),
    "encoding": (
        "Encoding",
        encoding.table,
        "The demo's encoder on XQuAD-R's texts in eleven languages, float32, two threads, tokenising included;"
        " sentence-transformers runs with its fastest batch size. Target: ≥ 1.0 times its texts per second.",
    ),
    "search": (
        "Searching ten million vectors",
        search.table,
        "Random vectors of 384 dimensions, float16, in parts on disk; two threads. FAISS uses a flat index that is filled"
        " with each part in turn. The peak is that of a separate process, imports included; the files are in the page"
        " cache as far as they fit. Targets: ≤ 4 GB; ≤ 1.0 × FAISS's time.",
    ),
    "gpu": (
        "One GPU, bfloat16",
        gpu.table,
        "The symmetric loss with 8,192 to 1,048,576 pairs of 768 dimensions, compared with Inf-CL's kernel and OpenCLIP:"
        " seconds, peak memory above the inputs, and speed as a share of that of a plain matrix product.",
    ),
}
INTRODUCTION = """# Benchmarks

These benchmarks compare hbdist with the libraries that are used for the same purpose, on the same machine within the same
minutes. `make bench` repeats all measurements and makes this page. Each file here also runs on its own; with `--quick` it
takes minutes and only shows that it works.

The other libraries run with their best settings. Times are interleaved, A B C A B C, in five turns after two warm-ups on a
smaller batch, and a ratio is the median of the turns' ratios, with its quartiles; `*` marks what was run once, because five
turns would take too long. Each benchmark first checks that all of them compute the same. If a library could not run
something, the table says so and why. Raw numbers are in [results/](results/), versions of the other libraries in
[peers.txt](peers.txt); none of their code is here.
"""


def page(results: Path) -> str:
    """Return the whole page, from the JSON files in a folder; a benchmark without one is listed as not measured."""
    parts, machines = [INTRODUCTION], dict[str, dict[str, str | None]]()
    for name, (title, table, text) in TABLES.items():
        path = results / f"{name}.json"
        body = f"Not measured. `python benchmarks/{COMMANDS.get(name, name + '.py')}` does it."
        if path.is_file():
            result = json.loads(path.read_text(encoding="utf-8"))
            body = table(result)
            named = result["machine"]["versions"]
            more = {name: version for name, version in result.get("versions", {}).items() if name not in named}
            machines.setdefault(_describe(result["machine"]), {}).update(more)
        parts.append(f"## {title}\n\n{text}\n\n{body}\n")
    described = [f"- {', '.join((machine, *_versions(more)))}" for machine, more in machines.items()]
    parts.append("## Measured on\n\n" + "\n".join(described or ["- nothing yet"]) + "\n")
    return "\n".join(parts)


COMMANDS = {"loss-large": "loss.py --large"}


def _describe(machine: dict[str, Any]) -> str:
    where = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB"
    return f"{machine['date']}: {where}; Python {', '.join((machine['python'], *_versions(machine['versions'])))}"


def _versions(found: dict[str, str | None]) -> list[str]:
    return [f"{name} {version or 'not installed'}" for name, version in found.items()]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=HERE / "README.md")
    given = parser.parse_args()
    given.out.write_text(page(given.results), encoding="utf-8")
