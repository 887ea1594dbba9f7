"""Registry of tasks: tasks by their names, and errors."""

import json

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
