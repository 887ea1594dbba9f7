"""Model selection and early stopping, and the settings a config may combine."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_groups import MANIFEST

from hbdist.config.config import Config, difference
from hbdist.config.criterion import Criterion
from hbdist.errors import ConfigError
from hbdist.runs.plan import Plan
from hbdist.training.model_selection import ModelSelection


def config(steps: int = 9, **sections: dict[str, Any]) -> Config:
    values = {"steps": steps, "data": {"shards": "d"}, "model": {"name": "m"}, "batch": {"size": 16}, **sections}
    return Config.check(values, source="test")


def selection_of(criterion: Criterion, values: list[float], kept: list[bool] | None = None) -> ModelSelection:
    selection = ModelSelection(criterion)
    for step, value in enumerate(values, start=1):
        selection.add(step, value, has_checkpoint=kept[step - 1] if kept else True)
    return selection


CRITERIA = [Criterion(), Criterion("multilingual.map", "xquad-r"), Criterion("bias.rank_distance", "xquad-r")]
VALUES = st.lists(st.sampled_from([0.1, 0.2, 0.3, 0.4]), min_size=1, max_size=12)


@pytest.mark.parametrize(("criterion", "good"), list(zip(CRITERIA, (min, max, min), strict=True)))
@given(values=VALUES)
def test_the_best_step_is_the_first_with_the_best_value(criterion: Criterion, good: Any, values: list[float]) -> None:
    assert selection_of(criterion, values).step == 1 + values.index(good(values))


@given(values=VALUES, data=st.data())
def test_only_a_step_with_a_checkpoint_can_be_the_best(values: list[float], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    saved = [value for value, is_kept in zip(values, kept, strict=True) if is_kept]
    step = selection_of(CRITERIA[1], values, kept).step
    assert (step is None) == (not saved)
    assert step is None or (kept[step - 1] and values[step - 1] == max(saved))


@given(values=VALUES, patience=st.integers(1, 5))
def test_patience_ends_a_run_after_that_many_values_no_better_than_the_best(values: list[float], patience: int) -> None:
    ended = selection_of(Criterion(patience=patience), values).exhausted
    assert ended == (len(values) - 1 - values.index(min(values)) >= patience)


def test_without_patience_a_run_is_never_stopped_early() -> None:
    assert not selection_of(Criterion(), [1.0] + [9.0] * 99).exhausted


def test_a_metric_belongs_to_the_first_task_unless_it_names_one() -> None:
    tasks = {"every": 3, "tasks": ["xquad-r", "beir:data/nf:corpus"]}
    first = Criterion.of(config(evaluation={**tasks, "metric": "multilingual.map"}))
    named = Criterion.of(config(evaluation={**tasks, "metric": "beir:data/nf:corpus:monolingual.ndcg@10"}))
    assert first == Criterion("multilingual.map", "xquad-r", exported=True)
    assert named == Criterion("monolingual.ndcg@10", "beir:data/nf:corpus", exported=True)


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"validation": {"patience": 2}}, r"validation\.patience = 2 .* do nothing without validation\.every"),
        ({"validation": {"keep": "best"}}, r"validation\.keep = 'best' do nothing without validation\.every"),
        (
            {"evaluation": {"metric": "multilingual.map"}},
            r"'multilingual\.map' is never measured without evaluation\.every",
        ),
        (
            {"evaluation": {"every": 2, "patience": 2}},
            r"evaluation\.patience = 2 does nothing without evaluation\.metric",
        ),
        (
            {"evaluation": {"every": 2, "metric": "mlqa-r:multilingual.map"}},
            r"is a score of mlqa-r, which is not in evaluation\.tasks: xquad-r",
        ),
        (
            {"evaluation": {"every": 2, "metric": "multilingual.map"}, "validation": {"every": 2, "keep": "best"}},
            r"selects by a score, and validation\.keep = 'best' .* by the validation loss: the two may disagree",
        ),
        (
            {"evaluation": {"every": 2, "metric": "multilingual.map"}, "validation": {"every": 2, "patience": 1}},
            r"validation\.patience = 1 by the validation loss: the two may disagree",
        ),
    ],
)
def test_criteria_that_cannot_decide_are_refused_by_the_plan(sections: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Plan.of(config(**sections), MANIFEST)


def test_evaluation_may_change_when_a_run_resumes() -> None:
    changed = {"every": 3, "tasks": ["mlqa-r"], "questions": 7, "metric": "multilingual.map", "patience": 1}
    assert difference(config(), config(evaluation=changed)) == {}


def test_the_plan_states_measurements_and_the_exported_model(tiny_shards: Path) -> None:
    evaluation = {"every": 4, "languages": ["en", "ar"], "questions": 50, "metric": "multilingual.map", "patience": 2}
    validation = {"every": 3, "shards": [str(tiny_shards)]}
    text = Plan.of(config(evaluation=evaluation, validation=validation), MANIFEST).text()
    assert "validation     every 3 steps and at the end" in text
    assert (
        "evaluation     every 4 steps and at the end: xquad-r; languages cut to en, ar and questions cut to 50" in text
    )
    assert "exported       the model chosen on xquad-r for the highest multilingual.map\n" in text
    assert "early stopping after 2 measurements without a better one\n" in text
    assert "xquad-r; nothing cut\n" in Plan.of(config(evaluation={"every": 4}), MANIFEST).text()
    plain = {line.split()[0] for line in Plan.of(config(), MANIFEST).text().splitlines()}
    assert not {"validation", "evaluation", "exported"} & plain


def test_the_best_checkpoint_outlives_the_newest(tmp_path: Path) -> None:
    from hbdist.runs import checkpoint

    for step in range(1, 6):
        checkpoint.save(tmp_path, checkpoint.Position(step, 1, "f"), {}, keep=1)
        if step == 2:
            checkpoint.point_at_best(tmp_path, step)
    assert checkpoint.steps(tmp_path) == [2, 5]
    checkpoint.point_at_best(tmp_path, 4)
    assert checkpoint.best(tmp_path) is None
