"""A run is refused, or told, before it starts: shards that are gone, hard negatives that do not exist."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from damage import as_built_before_checksums
from launching import outcome
from whole_runs import main_here

from hbdist.config.config import Config
from hbdist.data.build.build import build
from hbdist.data.shards.manifest import Manifest
from hbdist.errors import ConfigError
from hbdist.training.data_checks import check_hard_negatives


def config_of(shards: Path, **sections: Any) -> Config:
    values = {"steps": 2, "data": {"shards": str(shards)}, "model": {"name": "m"}, "batch": {"size": 4}}
    return Config.check({**values, "loss": {"hard_negatives": 2}, **sections}, source="test")


def built(folder: Path, having: dict[str, int], *, layout: str = "pairs") -> Manifest:
    """Build data sets of 10 rows in two languages, of which this many have hard negatives."""
    text = ""
    for name, count in having.items():
        for language in ("en", "de"):
            rows = [
                {"id": f"{n}", "query": f"q{n} {name} {language}", "document": f"d{n} {name} {language}"}
                | ({"negatives": [f"n{n} {name} {language}"]} if n < count else {})
                for n in range(10)
            ]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files = ", ".join(f'{language} = "{name}.{language}.jsonl"' for language in ("en", "de"))
        text += f'[[dataset]]\nname = "{name}"\nreader = "jsonl"\nparallel = true\nlayout = "{layout}"\nfiles = {{ {files} }}\n'
    (folder / "recipe.toml").write_text(text)
    return build(folder / "recipe.toml", folder / "shards", workers=1)


@pytest.mark.parametrize("layout", ["pairs", "parallel"])
def test_hard_negatives_of_data_without_any_are_refused(layout: str, tmp_path: Path) -> None:
    manifest = built(tmp_path, {"a": 0}, layout=layout)
    with pytest.raises(ConfigError, match=r"loss\.hard_negatives = 2, but none of the 40 pairs .* Set loss\.hard_neg"):
        check_hard_negatives(config_of(manifest.folder), manifest)
    assert check_hard_negatives(config_of(manifest.folder, loss={}), manifest) == []


@pytest.mark.parametrize("layout", ["pairs", "parallel"])
def test_rows_without_hard_negatives_are_counted(layout: str, tmp_path: Path) -> None:
    manifest = built(tmp_path, {"a": 10, "b": 3, "c": 0}, layout=layout)
    (sentence,) = check_hard_negatives(config_of(manifest.folder), manifest)
    assert "52 of 120 rows have hard negatives; none in c." in sentence
    only = config_of(manifest.folder, data={"shards": "s", "datasets": ["a"]})
    assert check_hard_negatives(only, manifest) == []


def test_shards_that_do_not_count_hard_negatives_are_sampled(tmp_path: Path) -> None:
    none = as_built_before_checksums(built(tmp_path / "none", {"a": 0}))
    assert none.groups[0].shards.negatives is None
    (sentence,) = check_hard_negatives(config_of(none.folder), none)
    assert "none of 40 pairs looked at has hard negatives" in sentence
    some = as_built_before_checksums(built(tmp_path / "some", {"a": 2}))
    assert check_hard_negatives(config_of(some.folder), some) == []


def test_a_run_whose_shard_is_gone_is_refused_at_the_start(tiny_model: Path, tiny_shards: Path, tmp_path: Path) -> None:
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    gone = sorted(shards.rglob("*.tar"))[-1]
    gone.unlink()
    values = {"steps": 2, "data": {"shards": str(shards)}, "model": {"name": str(tiny_model)}, "batch": {"size": 4}}
    (tmp_path / "config.toml").write_text(Config.check(values, source="test").to_toml())
    done = main_here(str(tmp_path / "config.toml"), f"run.folder={tmp_path / 'run'}")
    assert done.returncode == 2
    assert f"{gone.relative_to(shards)} is missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert outcome(tmp_path / "run")["state"] == "invalid"
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
