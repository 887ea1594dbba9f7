"""Embeddings in parts: reused only if nothing changed, complete or absent, and used again after a kill."""

import dataclasses
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from launching import ROOT
from stand_ins import BatchEncoder, HashEncoder, made_task

from hbdist.distributed.process_group import ProcessGroup
from hbdist.errors import DataError
from hbdist.evaluation.evaluate import evaluate
from hbdist.evaluation.search.embeddings import (
    MOST_ROWS,
    PARTS,
    Parts,
    corpus_fingerprint,
    folder_name,
    list_stored,
    part_rows,
)
from hbdist.evaluation.search.encoding import Texts, encode_all, encode_parts
from hbdist.evaluation.search.settings import SearchSettings


@given(st.integers(1, 200_000_000))
def test_a_pool_of_any_size_has_few_parts_of_bounded_size(candidates: int) -> None:
    rows = part_rows(candidates)
    assert rows <= MOST_ROWS
    assert rows == MOST_ROWS or -(-candidates // rows) <= PARTS


@given(st.integers(1, 500), st.integers(1, 60), st.integers(1, 5))
def test_every_row_is_in_one_part_and_every_part_of_one_rank(total: int, rows: int, world: int) -> None:
    parts = Parts(total, rows, "float32")
    assert [row for number in parts.numbers for row in parts.span(number)] == list(range(total))
    assert sorted(number for rank in range(world) for number in parts.of_rank(ProcessGroup(rank, world))) == list(
        parts.numbers
    )


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    found = Parts(10, 4, "float32", folder=tmp_path / "set", dimensions=3)
    for number in found.numbers:
        found.write(number, np.full((len(found.span(number)), 3), number, dtype=np.float32))
    return found


def test_parts_are_read_as_memory_maps_of_what_was_written(parts: Parts) -> None:
    assert all(parts.has(number) for number in parts.numbers)
    assert isinstance(parts.read(1), np.memmap)
    np.testing.assert_array_equal(parts.read(2), np.full((2, 3), 2))


@pytest.mark.parametrize("damage", ["cut", "empty", "other rows", "other dimensions", "other precision", "gone"])
def test_a_damaged_or_unfitting_part_counts_as_missing(parts: Parts, damage: str) -> None:
    path = parts.folder / "part-000001.npy"
    match damage:
        case "cut":
            path.write_bytes(path.read_bytes()[:-1])
        case "empty":
            path.write_bytes(b"")
        case "gone":
            path.unlink()
        case other:
            shape = (3, 3) if other == "other rows" else (4, 5) if other == "other dimensions" else (4, 3)
            np.save(path, np.zeros(shape, dtype="float16" if other == "other precision" else "float32"))
    assert [parts.has(number) for number in parts.numbers] == [True, False, True]


def test_float16_takes_half_the_room_and_differs_in_the_fourth_digit(tmp_path: Path) -> None:
    vector_ND = np.random.default_rng(0).normal(size=(500, 64)).astype(np.float32) / 8
    sizes = {}
    for precision in ("float32", "float16"):
        one = Parts(500, 500, precision, folder=tmp_path / precision, dimensions=64)
        one.write(0, vector_ND)
        sizes[precision] = (tmp_path / precision / "part-000000.npy").stat().st_size
        np.testing.assert_allclose(one.read(0), vector_ND, atol=3e-4)
    assert sizes["float16"] - 128 == (sizes["float32"] - 128) / 2


def test_removing_the_last_part_removes_the_folder(parts: Parts) -> None:
    parts.remove(range(2))
    assert parts.folder.is_dir()
    parts.remove(range(2, 3))
    assert not parts.folder.exists()


def test_ranks_can_remove_their_parts_at_the_same_time(tmp_path: Path) -> None:
    made = Parts(4, 1, "float32", folder=tmp_path / "once", dimensions=2)

    def remove(rank: int) -> None:
        together.wait(timeout=60)
        made.remove(made.of_rank(ProcessGroup(rank, 4)))

    for _ in range(200):
        made.folder.mkdir()
        for number in made.numbers:
            made.write(number, np.zeros((1, 2)))
        together = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(remove, range(4)))
        assert not made.folder.exists()


def test_the_error_for_a_folder_that_cannot_be_written_names_it_and_the_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = Parts(2_000_000, 2, "float32", folder=tmp_path / "file" / "set", dimensions=500)
    with pytest.raises(DataError, match=r"file/set: vectors cannot be written there .* 4\.0 GB.*--vectors"):
        one.write(0, np.zeros((2, 500), dtype=np.float32))


def test_stored_embeddings_are_listed_with_description_and_size(parts: Parts, tmp_path: Path) -> None:
    parts.describe(model="a model", task="a task")
    ((folder, about, size),) = list_stored(tmp_path)
    assert folder == parts.folder
    assert about == {"model": "a model", "task": "a task", "candidates": 10, "dimensions": 3, "precision": "float32"}
    assert size == 3 * 128 + 10 * 3 * 4


def test_any_change_of_model_corpus_or_settings_changes_the_folder() -> None:
    same = {"model": "m", "corpus": "c", "precision": "float32", "rows": 4, "by_length": False}
    others = [{"model": "n"}, {"corpus": "d"}, {"precision": "float16"}, {"rows": 8}, {"by_length": True}]
    assert len({folder_name(**same), *(folder_name(**same | other) for other in others)}) == 6


def test_the_corpus_fingerprint_depends_on_texts_and_languages_and_not_on_queries() -> None:
    task = made_task()
    known = corpus_fingerprint(task)
    assert corpus_fingerprint(task.cut(questions=3)) == known
    first, *others = task.candidates
    for change in ({"text": "other"}, {"language": "da"}):
        changed = dataclasses.replace(
            task, candidates=(first._replace(**change), *others), languages=("da", *task.languages)
        )
        assert corpus_fingerprint(changed) != known


def test_stored_embeddings_are_reused_only_for_the_same_model_and_corpus(tmp_path: Path) -> None:
    task, search = made_task(), SearchSettings(tmp_path)
    first = evaluate(HashEncoder(), task, model="m", fingerprint="one", search=search)

    def count_encoded(**change: object) -> int:
        encoder = HashEncoder()
        arguments = {"task": task, "fingerprint": "one", "search": search} | change
        found = evaluate(
            encoder, arguments["task"], model="m", fingerprint=arguments["fingerprint"], search=arguments["search"]
        )
        assert found.scores["multilingual"] == first.scores["multilingual"] or "task" in change
        return len(encoder.encoded) - len(arguments["task"].queries)

    assert count_encoded() == 0
    assert count_encoded(task=task.cut(questions=5)) == 0
    assert count_encoded(fingerprint="two") == len(task.candidates)
    assert count_encoded(task=task.cut(languages=["de", "en"])) == 300
    assert count_encoded(search=SearchSettings(tmp_path, "float16")) == len(task.candidates)
    assert count_encoded(search=SearchSettings(tmp_path, keep=False)) == len(task.candidates)
    assert len(list(list_stored(tmp_path))) == 4


def test_small_pools_leave_nothing_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HBDIST_CACHE", str(tmp_path))
    evaluate(HashEncoder(), made_task(), model="m", fingerprint="one")
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from stand_ins import BatchEncoder, made_task
from hbdist.evaluation.search.encoding import encode_parts, read_candidates
from hbdist.evaluation.search.embeddings import Parts
from hbdist.distributed.process_group import ProcessGroup

class Killed(BatchEncoder):
    calls = 0
    def encode(self, texts, kind, *, languages=None, progress=None):
        self.calls += 1
        if self.calls == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(texts, kind)

task = made_task()
parts = Parts(450, 50, "float32", folder=Path(sys.argv[1]), dimensions=32)
encode_parts(Killed(), lambda number: read_candidates(task, parts.span(number)), "document", ranks=ProcessGroup(), parts=parts)
"""


def test_after_a_kill_only_missing_parts_are_encoded_and_nothing_differs(tmp_path: Path) -> None:
    def text_of(number: int) -> Texts:
        chosen = [made_task().candidates[index] for index in parts.span(number)]
        return Texts([one.text for one in chosen], [one.language for one in chosen])

    command = [sys.executable, "-c", KILLED, str(tmp_path / "set")]
    done = subprocess.run(command, cwd=ROOT / "tests/support", timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    parts = Parts(450, 50, "float32", folder=tmp_path / "set", dimensions=32)
    assert [number for number in parts.numbers if parts.has(number)] == [0, 1, 2]
    encoder, calls = BatchEncoder(), []
    encode_parts(
        encoder,
        text_of,
        "document",
        ranks=ProcessGroup(),
        parts=parts,
        progress=lambda *arguments: calls.append(arguments),
    )
    assert len(encoder.encoded) == 300
    assert calls[0] == (150, 450)
    assert calls[-1] == (450, 450)
    whole = Parts(450, 50, "float32")
    encode_parts(BatchEncoder(), text_of, "document", ranks=ProcessGroup(), parts=whole)
    for number in whole.numbers:
        np.testing.assert_array_equal(parts.read(number), whole.read(number))


def test_vectors_come_back_in_the_order_of_the_texts() -> None:
    texts = Texts([f"{'x' * (n * 7 % 13)} {n}" for n in range(1_300)], ["en"] * 1_300)
    found = encode_all(HashEncoder(), texts, "query", ranks=ProcessGroup())
    np.testing.assert_array_equal(found, HashEncoder().encode(texts.texts, "query"))
