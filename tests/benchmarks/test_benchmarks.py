"""The benchmarks' page and their peers. What they measure is not tested here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MACHINE = {
    "date": "2030-01-01",
    "processor": "A Processor",
    "cores": 2,
    "memory_gb": 16.0,
    "python": "3.11.7",
    "versions": {"hbdist": "0.1.0", "pylate": None},
}
EXACT = {"norm_ratio": 1.0, "cosine": 1.0, "error": 3e-7}
QUARTER = {"norm_ratio": 0.25, "cosine": 1.0, "error": 0.75}
RESUMING = ("hbdist", "webdataset, slice", "webdataset, slice, buffer of 1,000")
RESUMING += tuple(f"datasets, {way}{buffer}" for way in ("skip", "state_dict") for buffer in ("", ", buffer of 1,000"))
TURNED = {"norm_ratio": 0.5, "cosine": 0.97, "error": 0.5}


def run_python(*arguments: str, cwd: Path = BENCHMARKS) -> str:
    """What a Python process printed, started in the benchmarks' folder or in a copy of it."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def gradient_row(setting: str, last: dict[str, Any]) -> dict[str, Any]:
    loss = {"symmetric": False, "hard_negatives": 0}
    return {"peer": "someone", "setting": setting, **loss, "by_world": {"1": EXACT, "4": last}}


def data_path_results() -> dict[str, Any]:
    """Of reading, composition, resume and schedule."""
    both = {"hbdist": [300.0, 200.0], "webdataset": [100.0, 100.0]}
    shared = {"one_group": 1.0, "documents_across": 2.5, "queries_across": 0.0}
    case = {"shards": 10, "groups": 2, "pairs": 900, "seconds_a_batch": {"wall": [0.001, 0.003], "cpu": [0.001, 0.001]}}
    case["seconds"] = {
        name: {"wall": 0.5} for name in ("load manifest", "make schedule", "first batch", "new schedule, step 10^6")
    }
    case["megabytes"] = {"before": {"now": 50.0}, "planned": {"highest": 75.0}}
    missing = {"reason": "No module named 'datasets'"}
    peers = ("PROPORTIONAL", "NO_DUPLICATES", "NO_DUPLICATES_HASHED")
    made = {"hbdist": shared, **{name: missing for one in peers for name in (one, f"{one}, split_batches")}}
    speeds = {"hbdist": [1.0, 1.0], "hbdist, texts read and masks made": [2.0, 4.0]}
    ours, theirs = "hbdist", "webdataset, slice"
    gone = {name: "datasets is not installed" for name in RESUMING if name not in (ours, theirs)}
    stopped = {"seconds": {ours: [0.1, 0.1], theirs: [5.0, 3.0]}, "same": {ours: True, theirs: False}}
    return {
        "reading": {
            "texts": {"0": both},
            "tokens": {"0": both, "1": {"reason": "was not done after 200 s"}},
            "cold": both,
            "encoder": {"pairs_a_second": [5.0], "tokens_a_pair": 200.0},
            "gpu": {"encoder": "E", "parameters": 86e6, "tokens_a_pair": 160, "pairs_a_second": 4800.0},
            "versions": {"webdataset": "1.0"},
        },
        "composition": {
            "settings": {"batches": 4},
            "composition": made,
            "times": {"seconds": speeds, "first": dict.fromkeys(speeds, 9.0)},
            "masks": {"documents": 7.0, "documents_left": 0.0, "queries": 3.0, "queries_left": 3.0},
            "alpha": {"0.25": {"100": 0.24}},
            "versions": {"accelerate": "2.0"},
        },
        "resume": {"skipped": gone, "runs": {"0.9": stopped}},
        "schedule": {"settings": {"batch": 64}, "cases": {"blocks": case}},
    }


def evaluation_results() -> dict[str, Any]:
    """Of scoring and encoding."""
    one = {"bytes": 5e7, "bytes_in_all": 6e8, "settings": 6, "off": 2e-7}
    memory = {"hbdist": one, "sentence-transformers": one, "mteb": {"reason": "mteb is not installed"}}
    seconds = {"hbdist": [1.0, 2.0], "sentence-transformers": [6.0, 12.0]}
    kind = {"seconds": seconds, "texts": 12, "tokens": 240, "batch_size": 8, "off": 2e-7}
    return {
        "scoring": {"memory": memory, "seconds": {**seconds, "sentence-transformers": [7.0]}},
        "encoding": {"kinds": {"questions": kind, "sentences": {"reason": "no model"}}},
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Made-up results of most benchmarks."""
    ours, theirs = ({"bytes": size, "bytes_in_all": size, "seconds": 1.0, "loss": 1.0} for size in (2e8, 8e9))
    missing = {"reason": "open-clip-torch is not installed"}
    memory = {"hbdist": ours, "hbdist symmetric": ours, "sentence-transformers": theirs, "OpenCLIP symmetric": missing}
    memory["sentence-transformers cached"] = theirs
    seconds = {name: [2.0, 3.0, 4.0] for name in memory} | {"hbdist": [1.0, 1.5, 2.0]}
    digits = {"5": {"loss": 5.03, "errors": {name: {"error": 4e-6} for name in memory}}}
    digits["5"]["errors"]["OpenCLIP symmetric"] = missing
    last = [gradient_row("right", EXACT), gradient_row("short", QUARTER), gradient_row("turned", TURNED)]
    last.append(gradient_row("absent", {"skipped": "pylate is not installed"}))
    made_up: dict[str, Any] = {
        "gradients": {"settings": {"worlds": [1, 4]}, "rows": last},
        "loss": {"memory": {"2048": memory}, "times": {"2048": seconds}, "once": {"2048": ""}, "digits": digits},
        "gradient_cache": {
            "settings": {"chunk_tokens": 1024, "mini_batch": {"mini_batch_size": 32}},
            "steps": {
                "seconds": {"hbdist, one pass": [1.0] * 3, "hbdist, two passes": [1.35] * 3},
                "peer": "sentence-transformers is not installed",
                "padded_over_real": 1.05,
                "real_tokens": 30_000,
            },
            "reductions": {"hbdist, two passes": 1},
            "zero2": {"hbdist, two passes": "works"},
        },
    }
    for name, result in (made_up | data_path_results() | evaluation_results()).items():
        (tmp_path / f"{name}.json").write_text(json.dumps({"name": name, "machine": MACHINE, **result}))
    return tmp_path


def test_the_page_shows_what_was_measured_and_names_what_was_not(results: Path) -> None:
    run_python("page.py", "--results", str(results), "--out", str(results / "README.md"))
    page = (results / "README.md").read_text(encoding="utf-8")
    lines = page.splitlines()

    def line(start: str) -> str:
        return next(line for line in lines if line.startswith(start))

    assert line("| someone right").endswith("exact |")
    assert line("| someone short").endswith("| 1.0000 | 0.2500 | 1.000000 | 8e-01 | 1/W of it |")
    assert line("| someone turned").endswith("another direction |")
    assert line("| someone absent").endswith("skipped: pylate is not installed |")
    assert line("| hbdist ÷ sentence-transformers |") == "| hbdist ÷ sentence-transformers | 0.025 · 0.50 (0.50–0.50) |"
    assert "OpenCLIP symmetric, not run: open-clip-torch is not installed." in lines
    assert "| 1.350 (1.350–1.350) | 1 | works |" in line("| hbdist, two passes")
    assert "not run: sentence-transformers is not installed" in line("| sentence-transformers, cached")
    assert "Not measured. `python benchmarks/ranks.py` does it." in lines
    assert page.count("A Processor") == 1
    assert "webdataset 1.0, accelerate 2.0" in page
    assert "pylate not installed" in page


def test_the_page_shows_the_data_path(results: Path) -> None:
    run_python("page.py", "--results", str(results), "--out", str(results / "README.md"))
    lines = (results / "README.md").read_text(encoding="utf-8").splitlines()

    def line(start: str) -> str:
        return next(line for line in lines if line.startswith(start))

    assert line("| texts | 0 |") == "| texts | 0 | 250 | 100 | 2.50 (2.25–2.75) |"
    assert "was not done after 200 s" in line("| tokens | 1 |")
    assert "come 50 times as fast, 50,000 tokens/s. Not measured here:" in line(
        "The demo's encoder processes 5.0 pairs/s"
    )
    assert line("| hbdist | 1.000 |") == "| hbdist | 1.000 | 2.5 · 0.0 | 9.00 | 4.0 | 1.0 (1.0–1.0) |"
    assert line("| hbdist, texts read").endswith("| 9.00 | 1.3 | 3.0 (2.5–3.5) |")
    assert "not run: No module named 'datasets'" in line("| NO_DUPLICATES |")
    assert "0.0 are not masked; of 3.0" in line("hbdist leaves repeats")
    assert line("| webdataset, slice |") == "| webdataset, slice | 4 | 40.0 (35.0–45.0) | **no** |"
    assert "datasets is not installed" in line("| datasets, skip |")
    assert line("| blocks |") == "| blocks | 1.00 | 0.50 | 2.0 (1.5–2.5) | 3.0 | 0.50 | 25 |"


def test_the_page_shows_evaluation(results: Path) -> None:
    run_python("page.py", "--results", str(results), "--out", str(results / "README.md"))
    lines = (results / "README.md").read_text(encoding="utf-8").splitlines()
    assert "| hbdist | 1.5 | 1.0 (1.0–1.0) | 50 |  |" in lines
    assert "| sentence-transformers | 7.0* | 7.0* | 50 | 2e-07 |" in lines
    assert "| mteb | not run: mteb is not installed | | | |" in lines
    assert "| questions | 20 | 9.0 | 1.5 | 8 | 6.00 (6.00–6.00) | 2e-07 |" in lines
    assert "| sentences | not run: no model | | | | | |" in lines


def test_the_made_up_pairs_repeat_as_many_texts_as_asked() -> None:
    asked = "import json, made_up; p = made_up.pairs_of(('de', 'en'), 400, repeated=0.1); print(json.dumps(["
    asked += "len({one.query for one in p}), len({one.document for one in p}), len({one.id for one in p})]))"
    queries, documents, ids = json.loads(run_python("-c", asked))
    assert ids == 400
    # One in twenty pairs has another's text; now and then it is drawn its own.
    assert 378 <= queries <= 382
    assert 378 <= documents <= 382


def test_every_pinned_peer_is_used_and_every_peer_is_pinned() -> None:
    pinned = [
        line.split("==") for line in (BENCHMARKS / "peers.txt").read_text().splitlines() if line and line[0] != "#"
    ]
    asked = "import json, peers, recipes; print(json.dumps([list(peers.LOADERS), [r.peer for r in recipes.RECIPES]]))"
    peers, compared = json.loads(run_python("-c", asked))
    assert {name for name, _ in pinned} | {"sentence-transformers", "mteb"} == set(peers)
    # inf-cl's kernel needs a GPU (gpu.py has it); mteb has no loss (scoring.py has it).
    assert set(compared) == {"hbdist", *peers} - {"inf-cl", "mteb"}


def test_a_peer_that_is_not_there_is_a_result_with_its_name(tmp_path: Path) -> None:
    copy = tmp_path / "benchmarks"
    shutil.copytree(BENCHMARKS, copy, ignore=shutil.ignore_patterns(".cache", "results", "__pycache__"))
    said = run_python("-c", "import loss; print(loss.one_run('OpenCLIP symmetric', 8, 8)['reason'])", cwd=copy)
    assert said.strip() == "open-clip-torch is not installed; benchmarks/peers.txt says how"
