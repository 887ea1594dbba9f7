"""Data workers: many chunks at few open files; a killed, stopped or failing worker ends the run with a sentence."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from launching import environment
from torch.utils.data import Dataset

from hbdist.training.read_ahead import read_ahead
from hbdist.utils.processes import raise_open_files_limit


class Items(Dataset[Any]):
    """Item n is n, unless it is the one at which something happens."""

    def __init__(self, at: int = -1, what: str = "") -> None:
        self.at, self.what = at, what

    def __getitem__(self, number: int) -> Any:
        if number == self.at:
            if self.what == "wait":
                time.sleep(60)
            if self.what == "raise":
                raise ValueError("a mistake in the code")
            if self.what == "exit":
                os._exit(3)
            if self.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        return np.full(300_000, number)


def taken(items: Items, **settings: Any) -> list[int]:
    settings = {"workers": 1, "timeout_s": 100.0, **settings}
    return [int(one[0]) for one in read_ahead(items, range(6), **settings)]


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "resource_tracker" not in " ".join(one.cmdline())]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (
            "kill",
            r"data worker 1 of 1 \(process \d+\) was killed by SIGKILL\. The system does this .* lower data\.workers",
        ),
        ("exit", r"data worker 1 of 1 \(process \d+\) was ended with status 3"),
    ],
)
def test_a_worker_that_ends_is_named(what: str, sentence: str) -> None:
    with pytest.raises(RuntimeError, match=sentence) as caught:
        taken(Items(2, what))
    assert not children()
    # torch looks at all workers that it knows whenever a child of this process ends, and would raise the error again.
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert caught.value


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_workers_that_are_no_longer_needed_end_without_an_error() -> None:
    items = read_ahead(Items(), range(6), workers=1, timeout_s=100.0)
    next(items)
    items.close()
    assert not children()
    subprocess.run([sys.executable, "-c", ""], check=True)


def test_a_worker_that_makes_no_batch_in_time_is_named_and_ended() -> None:
    before = time.monotonic()
    with pytest.raises(
        RuntimeError, match=r"no batch within 1 s \(data\.timeout_s\): process \d+ is \w+ after \d+ s of CPU"
    ):
        taken(Items(0, "wait"), timeout_s=1.0)
    assert time.monotonic() - before < 50
    assert not children()


def test_a_mistake_in_a_workers_code_keeps_its_traceback() -> None:
    with pytest.raises(ValueError, match=r"(?s)Traceback.*a mistake in the code"):
        taken(Items(1, "raise"))


@pytest.mark.slow
def test_items_come_in_order_from_several_workers() -> None:
    assert taken(Items(), workers=2) == list(range(6))
    assert not children()


def test_the_limit_of_open_files_is_raised_as_far_as_it_may_be() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert raise_open_files_limit() == min(hard, 65_536) == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


MANY_CHUNKS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
from hbdist.config.config import Config
from hbdist.config.sections import ModelSection
from hbdist.data.shards.manifest import Manifest
from hbdist.models.encoder import Encoder
from hbdist.training.loader import Batches, measure_token_rates

def main():
    model, shards = sys.argv[3:]
    manifest, tokenize = Manifest.load(shards), Encoder.load(ModelSection(name=model)).tokenize
    values = {
        "steps": 4,
        "data": {"shards": shards, "workers": 1, "timeout_s": 60},
        "model": {"name": model},
        "batch": {"size": 400, "mono_share": 0.0},
        "loss": {"chunk_tokens": 64},
    }
    config = Config.check(values, source="test")
    batches = Batches(config, manifest, tokenize, token_rates=measure_token_rates(manifest, tokenize))
    print([len(batch.chunks) for batch in batches.from_step(0)])

if __name__ == "__main__":
    main()
"""


def test_batches_of_many_chunks_pass_between_processes_with_few_files(
    tiny_model: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    """A tensor is a file descriptor, and a chunk three tensors: 600 chunks once hung for ever at the usual 1024."""
    (tmp_path / "many.py").write_text(MANY_CHUNKS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "many.py"), "256", "256", str(tiny_model), str(tiny_shards)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    chunks = json.loads(done.stdout)
    assert len(chunks) == 4
    assert min(chunks) > 256
