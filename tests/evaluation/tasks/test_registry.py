"""Registry of tasks: tasks by their names, and errors."""

import json
import re

import pytest
from task_files import write_text

from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.tasks.registry import NAMES, load_task
from hbdist.evaluation.tasks.wikihop import SAMPLES


def test_the_registry_loads_tasks_by_name(tmp_path):
    write_text(tmp_path / "two" / "de.txt", "eins\n")
    write_text(tmp_path / "two" / "en.txt", "one\n")
    fields = {"query": "country place", "answer": "land", "supports": ["A land."]}
    samples = [{"id": f"WH_{number}", **fields} for number in range(SAMPLES)]
    folder = write_text(tmp_path / "qangaroo" / "dev.json", json.dumps(samples)).parent
    assert load_task(f"parallel:{tmp_path / 'two'}").name == "parallel:two"
    assert load_task("wikihop", folder).name == "wikihop:answer (derived)"
    assert load_task("wikihop:any", folder).name == "wikihop:any (derived)"
    assert load_task("xquad-r:paragraph").name == "xquad-r:paragraph"
    for name in ("mlqa-r", "miracl", "tydiqa", "wikihop", f"beir:{tmp_path}", f"parallel:{tmp_path}"):
        with pytest.raises(DataError):
            load_task(name, None if ":" in name else tmp_path)


@pytest.mark.parametrize("name", ["xquad", "xquad-r:x", "miracl:sw", "wikihop:all", "beir:", "parallel", ""])
def test_the_error_of_an_unknown_task_lists_the_known_ones(name):
    with pytest.raises(ConfigError, match=f"--task {name} is not known.*{NAMES[0]}"):
        load_task(name)


def test_two_folders_for_one_task_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Leave out --data"):
        load_task("beir:here", tmp_path)


@pytest.mark.parametrize("name", [f"beir:{'x' * 300}", f"parallel:here/{'x' * 300}", "beir:a\0b"])
def test_a_folder_that_cannot_be_is_refused(name):
    with pytest.raises(ConfigError, match=r"cannot be read: .* which no file has in its path"):
        load_task(name)


HALF = '"x\\ud83d"'


@pytest.mark.parametrize(
    ("name", "file", "line", "place"),
    [
        ("beir", "corpus.jsonl", f'{{"_id": "d0", "text": {HALF}}}', "line 1"),
        ("beir", "queries.jsonl", f'{{"_id": "q0", "text": {HALF}}}', "line 1"),
        ("parallel", "en.jsonl", f'{{"id": "a", "text": {HALF}}}', "line 1"),
        ("miracl", "miracl-corpus-v1.0-sw/docs-0.jsonl", f'{{"docid": "0", "title": {HALF}, "text": "x"}}', "line 1"),
        (
            "wikihop",
            "dev.json",
            f'[{{"id": "a", "query": "a b", "answer": "c", "supports": [{HALF}]}}]',
            r"at \[0\]\.supports",
        ),
        (
            "tydiqa",
            "tydiqa-goldp-v1.1-dev.json",
            f'{{"data": [{{"paragraphs": [{{"context": {HALF}, "qas": []}}]}}]}}',
            "data",
        ),
    ],
)
def test_half_a_surrogate_pair_is_refused_with_its_place_before_anything_is_encoded(tmp_path, name, file, line, place):
    write_text(tmp_path / "corpus.jsonl", '{"_id": "d0", "text": "x"}\n')
    write_text(tmp_path / "queries.jsonl", '{"_id": "q0", "text": "x"}\n')
    write_text(tmp_path / "qrels/test.tsv", "q0\td0\t1\n")
    write_text(tmp_path / "topics.miracl-v1.0-sw-dev.tsv", "7\tx\n")
    write_text(tmp_path / "qrels.miracl-v1.0-sw-dev.tsv", "7 Q0 0 1\n")
    write_text(tmp_path / file, line)
    if name == "parallel":
        (tmp_path / "corpus.jsonl").unlink()
        (tmp_path / "queries.jsonl").unlink()
    folder = name in ("beir", "parallel")
    with pytest.raises(DataError, match=rf"{file}.*half of a surrogate pair") as error:
        load_task(f"{name}:{tmp_path}" if folder else name, None if folder else tmp_path)
    assert re.search(place, str(error.value))
