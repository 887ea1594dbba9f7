"""Studies that ship, in a full and a small version: they expand, their batches can be made, their columns exist."""

import importlib.util
import re
import shutil
import tomllib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbdist.data.batching.mixture import plan_mixture
from hbdist.data.build.build import build
from hbdist.data.shards.groups import Group, View
from hbdist.data.shards.manifest import Manifest
from hbdist.evaluation.evaluate import evaluate
from hbdist.evaluation.tasks.registry import load_task
from hbdist.runs.plan import Plan
from hbdist.studies.api import Study
from hbdist.studies.cost import plan_text

ROOT = Path(__file__).parents[2]
FULL = ("batch-size", "low-resource-ratio", "miracl-alignment", "domain-shift", "m2m100-precision")
SMALL = [f"{name}-small" for name in FULL]


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def shipped(name: str) -> Study:
    return Study.load(Path("launch", "studies", f"{name}.toml"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    out = tmp_path_factory.mktemp("demo") / "shards"
    return build(ROOT / "shards" / "recipes" / "demo.toml", out, workers=1)


@pytest.fixture(scope="module")
def tico19(tmp_path_factory: pytest.TempPathFactory) -> Path:
    script = ROOT / "launch" / "studies" / "tico19_tasks.py"
    spec = importlib.util.spec_from_file_location("tico19_tasks", script)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path_factory.mktemp("data") / "tico19"
    module.make_tasks(out)
    return out


class RandomEncoder:
    """Substitute for a model: an embedding per text that depends only on the text."""

    def encode(self, texts: Sequence[str], kind: str, **_: Any) -> np.ndarray:
        rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(8) for text in texts]
        return np.asarray(rows, dtype=np.float32).reshape(len(texts), 8)


def test_the_file_in_the_docs_is_a_study(tmp_path: Path) -> None:
    page = Path("docs", "studies.md").read_text(encoding="utf-8")
    (tmp_path / "train").mkdir()
    (tmp_path / "studies").mkdir()
    shutil.copy(Path("launch", "train", "demo.toml"), tmp_path / "train")
    (example,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    path = tmp_path / "studies" / "example.toml"
    path.write_text(example, encoding="utf-8")
    study = Study.load(path)
    assert len(study.runs) == 3 * (3 * 3 - 2)
    assert {run.config.steps * run.config.batch.size for run in study.runs} == {8192}
    assert f"{len(study.runs)} runs" in plan_text(study)


def test_no_other_studies_ship() -> None:
    assert sorted(path.stem for path in Path("launch", "studies").glob("*.toml")) == sorted([*FULL, *SMALL])


@pytest.mark.parametrize("name", [*FULL, *SMALL])
def test_a_study_expands_and_explains_itself(name: str) -> None:
    study = shipped(name)
    assert study.name == name
    assert study.folder == Path("runs/studies") / name
    assert study.question.endswith("?")
    assert study.runs
    assert study.baselines
    assert study.note
    assert ("(small: " in study.title) == name.endswith("small")
    assert not name.endswith("small") or "stand" in study.title + study.note
    batches = {run.config.batch.size for run in study.runs}
    assert len(batches) == 1 or (study.file.lr_rule and study.file.equal == "pairs")


@pytest.mark.parametrize("name", FULL)
def test_a_full_study_is_planned_for_8_to_1024_gpus(name: str) -> None:
    study = shipped(name)
    text = plan_text(study)
    rows = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    assert "not known" not in text
    assert "?" not in text.replace(study.question, "")
    for gpus in (8, 64, 1024):
        assert any(row[0] == f"{gpus:,}" and row[1] == f"{gpus // 8:,}" for row in rows)
    assert f"{len(study.runs)} runs" in text


@pytest.mark.parametrize("name", SMALL)
def test_a_small_study_makes_batches_from_the_data_that_ship(name: str, demo: Manifest) -> None:
    for run in shipped(name).runs:
        plan = Plan.of(run.config, demo, ranks=2)
        languages = {code for kind in plan.mixture.kinds for pool in kind.pools for code in pool.pair.split("-")}
        assert not plan.mixture.small
        assert not languages & {"el", "vi"}
        datasets = {
            demo.groups[one].dataset for kind in plan.mixture.kinds for pool in kind.pools for one in pool.groups
        }
        # No study is evaluated on its training data.
        assert "tico19" not in datasets or not any("tico19" in one.task for one in shipped(name).measures)


def groups_of(recipe: Path) -> list[Group]:
    """Return the sizes of the groups that a recipe builds whose data do not ship; English-only datasets are left out."""
    values = tomllib.loads(recipe.read_text(encoding="utf-8"))
    rows = {"mmarco": 400_000, "ntrex": 1_000}  # the small triples of MS MARCO have about 400,000 questions
    return [
        Group(
            one["name"], x, y, view=View("", "", rows[one["name"]] if x == y else min(rows[one["name"]], most), 1_000)
        )
        for most in [values["pairs_per_group"]]
        for one in values["dataset"]
        if one.get("parallel")
        for x in one.get("sources") or one["files"]
        for y in one.get("sources") or one["files"]
    ]


@pytest.mark.parametrize("name", FULL)
def test_a_full_study_needs_no_more_pairs_of_a_language_than_its_data_have(name: str) -> None:
    for run in shipped(name).runs:
        groups = groups_of(Path("shards", "recipes", f"{Path(run.config.data.shards).name}.toml"))
        assert not plan_mixture(groups, run.config.batch, run.config.data).small


def test_low_resource_languages_are_trained_on_and_unseen_ones_measured() -> None:
    for name in ("low-resource-ratio", "low-resource-ratio-small"):
        study = shipped(name)
        (unseen,) = (one for one in study.measures if one.name == "xquad-r-unseen")
        for run in study.runs:
            assert not set(unseen.languages) & set(run.config.data.languages)
    assert {"sw", "am"} <= set(shipped("low-resource-ratio").runs[0].config.data.languages)


def test_every_column_of_a_small_study_is_in_the_scores(tico19: Path) -> None:
    made: dict[Any, dict[str, Any]] = {}
    for measure in (measure for name in SMALL for measure in shipped(name).measures):
        if measure.task == "tydiqa":
            continue  # its data do not ship
        key = (measure.task, measure.languages)
        if key not in made:
            task = load_task(measure.task.replace("data/tico19", str(tico19)), languages=measure.languages)
            made[key] = evaluate(
                RandomEncoder(), task.cut(languages=measure.languages, questions=5), model="random"
            ).scores
        for column in measure.columns:
            assert measure.number(made[key], column) is not None, f"{measure.columns[column]} in {measure.task}"


def test_columns_of_full_studies_are_numbers_of_scores_json() -> None:
    """Check the names only, since the data of the full studies do not ship."""
    ends = {"map", "ndcg@10", "recall@10", "recall@100", "precision@1", "precision@10", "rank_distance"}
    for name in FULL:
        for measure in shipped(name).measures:
            for path in measure.columns.values():
                assert path.startswith("alignment.") or path.split(".")[-1] in ends, path


def test_tico19_has_one_query_per_passage_in_every_language(tico19: Path) -> None:
    passages = load_task(f"beir:{tico19 / 'passages'}", languages=[])
    counts = {language: part.stop - part.start for language, part in passages.query_slices.items()}
    assert counts.keys() == {"am", "ar", "en", "es", "hi", "ru", "sw", "zh"}
    assert set(counts.values()) == {574} or max(counts.values()) - min(counts.values()) <= 5
    assert len(passages.candidates) == len(passages.queries)
    sentences = load_task(f"parallel:{tico19 / 'parallel'}")
    assert len(sentences.queries) > 13_000
