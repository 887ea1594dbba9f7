"""Resumption: after a kill at any moment, the next builder makes the same bytes and leaves nothing behind."""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from built_folders import contents, stopped
from shard_sources import parallel, row, write_jsonl

from hbdist.data.build.build import build
from hbdist.data.shards.manifest import Manifest
from hbdist.errors import ConfigError, DataError

BUILD = "import sys; from hbdist.data.build.build import build; build(sys.argv[1], sys.argv[2], workers=2)"


def source(folder: Path, count: int = 200, **keys: Any) -> Path:
    rows = {language: [row(n, language) for n in range(count)] for language in ("en", "de")}
    return parallel(folder / "source", rows, **keys)


@pytest.mark.parametrize("layout", ["pairs", "parallel"])
def test_builders_killed_at_random_moments_and_restarted_make_the_same_bytes(tmp_path: Path, layout: str) -> None:
    rows = {language: [row(n, language) for n in range(800)] for language in ("en", "de", "ar")}
    path = parallel(tmp_path / "source", rows, shard_rows=100, validation=0.1)
    path.write_text(f'{path.read_text()}\nlayout = "{layout}"\n')
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", BUILD, path, tmp_path / "sound"], check=True, timeout=120)
    duration = time.monotonic() - start
    undisturbed = contents(tmp_path / "sound")
    shutil.rmtree(tmp_path / "sound")
    moments, kills = random.Random(0), 0
    while kills < 4:
        builder = subprocess.Popen([sys.executable, "-c", BUILD, path, tmp_path / "out"])
        try:
            assert builder.wait(timeout=moments.uniform(0.15, 0.9) * duration) == 0
        except subprocess.TimeoutExpired:
            builder.send_signal(signal.SIGKILL)  # its workers have to notice by themselves
            builder.wait()
            kills += 1
        else:
            assert contents(tmp_path / "out") == undisturbed
            shutil.rmtree(tmp_path / "out")
    build(path, tmp_path / "out", workers=2)
    assert contents(tmp_path / "out") == undisturbed
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "source"]


def test_finished_work_of_a_killed_builder_is_reused(tmp_path: Path) -> None:
    path = source(tmp_path)
    partial = stopped(path, tmp_path / "out", at="writing")
    tars = {tar.relative_to(partial): tar.stat().st_ino for tar in partial.glob("p/*/*.tar")}
    assert tars
    build(path, tmp_path / "out", workers=1)
    assert {name: (tmp_path / "out" / name).stat().st_ino for name in tars} == tars


@pytest.mark.parametrize("damaged", ["p/*/*.tar", "p/*/*.npy", ".build/rows/*/*/texts", ".build/records/*/*.json"])
def test_finished_work_that_was_damaged_since_is_redone(tmp_path: Path, damaged: str) -> None:
    path = source(tmp_path)
    sound = contents(build(path, tmp_path / "sound", workers=1).root)
    partial = stopped(path, tmp_path / "out", at="writing")
    file = next(partial.glob(damaged))
    file.write_bytes(file.read_bytes()[:-100])
    assert contents(build(path, tmp_path / "out", workers=1).root) == sound


def test_leftovers_of_a_build_from_other_inputs_are_deleted(tmp_path: Path) -> None:
    partial = stopped(source(tmp_path), tmp_path / "out", at="reading")
    build(source(tmp_path, count=20), tmp_path / "out", workers=1)
    assert not partial.exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "source"]


def test_leftovers_of_a_build_of_another_folder_are_kept(tmp_path: Path) -> None:
    partial = stopped(source(tmp_path), tmp_path / "out.2", at="reading")
    build(source(tmp_path), tmp_path / "out", workers=1)
    assert partial.exists()


def test_a_folder_that_appears_during_a_build_is_not_replaced(tmp_path: Path) -> None:
    def progress(done: int, total: int, what: str) -> None:
        write_jsonl(tmp_path / "out" / "mine.jsonl", [{}])

    with pytest.raises(ConfigError, match="is not a complete build"):
        build(source(tmp_path), tmp_path / "out", workers=1, progress=progress)
    assert (tmp_path / "out" / "mine.jsonl").exists()


def test_of_two_builders_of_one_folder_one_waits_and_reuses_the_others_result(tmp_path: Path) -> None:
    path = source(tmp_path, count=600)
    code = BUILD.replace("workers=2", "workers=1, progress=lambda done, total, what: print(what, flush=True)")
    both = [
        subprocess.Popen([sys.executable, "-c", code, path, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    messages = [builder.communicate(timeout=120)[0] for builder in both]
    assert [builder.returncode for builder in both] == [0, 0]
    assert sum("writing" in text for text in messages) == 1
    assert sum("reused" in text for text in messages) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "source"]


def test_the_old_folder_is_restored_after_a_kill_between_two_renames(tmp_path: Path) -> None:
    old = build(source(tmp_path), tmp_path / "out", workers=1)
    sound = contents(old.root)
    old.root.rename(tmp_path / ".out.0123abcd.old")
    broken = source(tmp_path)
    write_jsonl(tmp_path / "source" / "de.jsonl.gz", [{"id": 1, "query": 5}])
    with pytest.raises(DataError):
        build(broken, tmp_path / "out", workers=1)
    assert contents(tmp_path / "out") == sound
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "source"]


def test_a_folder_of_an_earlier_version_is_rebuilt(tmp_path: Path) -> None:
    path = source(tmp_path)
    root = build(path, tmp_path / "out", workers=1).root
    sound = contents(root)
    (root / "manifest.json").write_text('{"version": 0, "licences": {"p": "x"}}')
    assert contents(build(path, root, workers=1).root) == sound


MEASURED = """
import resource, sys
from hbdist.data.build.build import build
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
build(sys.argv[1], sys.argv[2], workers=1)
print(peak() - before)
"""


@pytest.mark.slow
def test_the_texts_are_not_kept_in_memory(tmp_path: Path) -> None:
    count, letters = 200_000, 600
    for language in ("en", "de"):
        with (tmp_path / f"{language}.jsonl").open("w") as file:
            for n in range(count):
                file.write(f'{{"id":"{n}","query":"q{n} {language}","document":"{language} {n} {"x" * letters}"}}\n')
    path = tmp_path / "recipe.toml"
    path.write_text(
        "pairs_per_group = 5000\n"
        '[[dataset]]\nname = "p"\nreader = "jsonl"\nparallel = true\nfiles = { en = "en.jsonl", de = "de.jsonl" }\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, path, tmp_path / "out"],
        check=True,
        capture_output=True,
        text=True,
        timeout=280,
    )
    # The texts of one language alone take 120 MB.
    assert int(done.stdout) < 80_000_000
    assert {group.rows for group in Manifest.load(tmp_path / "out").groups} == {count, 5000}
