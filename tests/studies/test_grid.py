"""Expansion of a study's file: its runs, their names and configs, and the mistakes that are refused."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_studies import MEASURE, write_base, write_study

from hbdist.config.config import Config, difference
from hbdist.errors import ConfigError
from hbdist.studies.api import Study
from hbdist.studies.schema import Measure
from hbdist.studies.submit import write_copies

VALUES: dict[str, list[Any]] = {
    "loss.temperature": [0.01, 0.02, 0.05, 1.0],
    "optimizer.lr": [1e-5, 1e-4, 1e-3],
    "model.pooling": ["mean", "cls"],
    "data.languages": [["en"], ["en", "de"], ["de"]],
    "batch.one_dataset": [False, True],
}
STRATEGY = """
[[zip]]
name = "strategy"
[zip.values.mono]
"batch.mono_share" = 1.0
[zip.values.mixed]
"batch.mono_share" = 0.5
"batch.mix" = "blocks"
"""


def load(folder: Path, *top: str, **parts: Any) -> Study:
    return Study.load(write_study(folder, *top, **parts))


def refused(folder: Path, *top: str, **parts: Any) -> str:
    with pytest.raises(ConfigError) as error:
        load(folder, *top, **parts)
    assert str(error.value).endswith((".", "?")), error.value
    return str(error.value)


@given(
    axes=st.dictionaries(st.sampled_from(sorted(VALUES)), st.integers(1, 4), min_size=1, max_size=3),
    seeds=st.lists(st.integers(0, 5), min_size=1, max_size=3, unique=True),
    out=st.data(),
)
def test_a_grid_is_the_product_of_its_lists_without_excluded_runs(
    axes: dict[str, int], seeds: list[int], out: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    lists = {key: VALUES[key][:count] for key, count in axes.items()}
    key = out.draw(st.sampled_from(sorted(lists)))
    value, seed = out.draw(st.sampled_from(lists[key])), out.draw(st.sampled_from(seeds))
    text = "[grid]\n" + "\n".join(f'"{name}" = {toml(values)}' for name, values in lists.items())
    text += f'\n[[exclude]]\n"{key}" = [{toml(value)}]\nseed = {seed}\n'
    expected = [
        (dict(zip(lists, chosen, strict=True)), one)
        for *chosen, one in itertools.product(*lists.values(), seeds)
        if not (dict(zip(lists, chosen, strict=True))[key] == value and one == seed)
    ]
    folder = tmp_path_factory.mktemp("grid")
    if not expected:
        assert "leave no run" in refused(folder, axes=text, seeds=seeds)
        return
    study = load(folder, axes=text, seeds=seeds)
    assert len({run.name for run in study.runs}) == len(study.runs) == len(expected)
    for run, (values, one) in zip(study.runs, expected, strict=True):
        assert run.seed == run.config.seed == one
        assert run.folder == Path(run.config.run.folder) == study.folder / run.name
        found = {name: getattr(getattr(run.config, name.split(".")[0]), name.split(".")[1]) for name in values}
        assert found == {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()} == run.values
    assert sum(len(runs) for runs in study.points()) == len(study.runs)
    assert all(len({str(run.values) for run in runs}) == 1 for runs in study.points())


def toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def test_a_zipped_axis_sets_its_keys_together_and_gives_runs_its_names(tmp_path: Path) -> None:
    study = load(tmp_path, axes=STRATEGY, seeds=[3, 4])
    assert [run.name for run in study.runs] == [
        "strategy=mono-seed=3",
        "strategy=mono-seed=4",
        "strategy=mixed-seed=3",
        "strategy=mixed-seed=4",
    ]
    assert [(run.config.batch.mono_share, run.config.batch.mix) for run in study.runs[::2]] == [
        (1.0, "step"),
        (0.5, "blocks"),
    ]
    assert study.axes == {
        "strategy": {"mono": {"batch.mono_share": 1.0}, "mixed": {"batch.mono_share": 0.5, "batch.mix": "blocks"}}
    }
    assert (study.x, study.lines) == ("strategy", "")


def test_only_keeps_runs_that_match_one_of_its_conditions(tmp_path: Path) -> None:
    kept = '[[only]]\nstrategy = "mono"\n[[only]]\nstrategy = "mixed"\nseed = [2]\n'
    study = load(tmp_path, axes=STRATEGY + kept, seeds=[1, 2])
    assert [(run.values["strategy"], run.seed) for run in study.runs] == [("mono", 1), ("mono", 2), ("mixed", 2)]


@pytest.mark.parametrize(("rule", "power"), [("none", 0.0), ("sqrt", 0.5), ("linear", 1.0)])
def test_the_learning_rate_scales_with_the_batch_by_the_rule(rule: str, power: float, tmp_path: Path) -> None:
    axes = '[grid]\n"batch.size" = [8, 16, 128]\n'
    study = load(tmp_path, f'lr_rule = "{rule}"', "lr_reference_batch = 32", 'equal = "steps"', axes=axes)
    for run in study.runs:
        assert math.isclose(run.config.optimizer.lr, 1e-3 * (run.config.batch.size / 32) ** power, rel_tol=1e-5)
        assert run.config.steps == 3


def test_equal_pairs_gives_every_run_the_same_pairs_and_share_of_warm_up(tmp_path: Path) -> None:
    axes = '[grid]\n"batch.size" = [8, 16, 128]\n'
    top = ('lr_rule = "none"', 'equal = "pairs"', "pairs_seen = 1280", "warmup_share = 0.1")
    study = load(tmp_path, *top, axes=axes)
    assert [run.config.steps for run in study.runs] == [160, 80, 10]
    assert {run.config.steps * run.config.batch.size for run in study.runs} == {1280}
    assert [run.config.optimizer.warmup_steps for run in study.runs] == [16, 8, 1]
    uneven = refused(tmp_path, *top[:2], "pairs_seen = 1000", axes=axes)
    assert "pairs_seen = 1,000 is not a whole number of batches of 16; the nearest number that is: 992" in uneven


def test_a_study_that_varies_the_batch_must_choose_the_rules_that_follow_from_it(tmp_path: Path) -> None:
    axes = '[grid]\n"batch.size" = [8, 16]\n'
    assert "batch.size varies, so lr_rule must be chosen" in refused(tmp_path, 'equal = "steps"', axes=axes)
    assert "batch.size varies, so equal must be chosen" in refused(tmp_path, 'lr_rule = "none"', axes=axes)
    assert "needs lr_reference_batch" in refused(tmp_path, 'lr_rule = "sqrt"')
    assert "belong together" in refused(tmp_path, 'equal = "pairs"')
    pairs = ('lr_rule = "none"', 'equal = "pairs"', "pairs_seen = 1280")
    assert "[set] has steps, which follows from pairs_seen" in refused(
        tmp_path, *pairs, axes=f"[set]\nsteps = 9\n{axes}"
    )
    warm = axes + '"optimizer.warmup_steps" = [1, 2]\n'
    message = refused(tmp_path, 'lr_rule = "none"', 'equal = "steps"', "warmup_share = 0.1", axes=warm)
    assert "[grid] has optimizer.warmup_steps, which follows from warmup_share" in message


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ("", "nothing varies. Add [grid] or [[zip]]"),
        ('[grid]\n"batch.sise" = [1, 2]', "batch.sise, which a study cannot set. Did you mean batch.size"),
        ("[grid]\nseed = [1, 2]", "The study sets it itself"),
        ('[grid]\n"loss.margin" = 0.1', "expected a list of values. Write a single one into [set]"),
        ('[grid]\n"loss.margin" = [0.1, 0.1]', "has a value twice"),
        ('[grid]\n"loss.margin" = [0.1, "x"]', "loss.margin = 'x'"),
        ('[set]\n"loss.margin" = 0.1\n[grid]\n"loss.margin" = [0.1, 0.2]', "loss.margin is set in [set] and in [grid]"),
        (STRATEGY.replace("strategy", "a b"), "[[zip]] 1: name = 'a b'"),
        (STRATEGY + STRATEGY, "batch.mono_share is set in [[zip]] strategy and in [[zip]] strategy"),
        (STRATEGY + "[[exclude]]\nstrategie = 'mono'", "strategie, which is not an axis. Give one of strategy, seed"),
        (STRATEGY + "[[exclude]]\nstrategy = 'meno'", "strategy = 'meno' is not one of its values: mono, mixed"),
        (STRATEGY + "[[only]]\nseed = 9", "seed = 9 is not one of its values: 1"),
        ('[grid]\n"loss.chunk_tokens" = [64, 128]', "are the same run. Remove a value that changes nothing"),
    ],
)
def test_a_contradictory_study_is_refused(axes: str, expected: str, tmp_path: Path) -> None:
    assert expected in refused(tmp_path, axes=axes)


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (" ", "measure is missing. Add it: measure: [[measure]]: what is evaluated after each run"),
        ('[[measure]]\ntask = "xquad-r"', "[[measure]] 1: columns is missing"),
        (MEASURE.format(task="x") * 2, "two [[measure]] have the name 'sentences'"),
        (MEASURE.format(task="x").replace('name = "sentences"', 'primary = "mAP"'), "primary = 'mAP' is not a column"),
        (MEASURE.format(task="x").replace("name", "nome"), "[[measure]] 1: unknown key nome. Did you mean name?"),
    ],
)
def test_a_wrong_measure_is_refused(measure: str, expected: str, tmp_path: Path) -> None:
    assert expected in refused(tmp_path, measure=measure)


def test_unknown_axes_cannot_be_plotted(tmp_path: Path) -> None:
    assert "x = 'alpha' is not an axis. Give one of batch.mono_share" in refused(tmp_path, 'x = "alpha"')


def test_a_missing_file_or_base_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml does not exist"):
        Study.load(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match=r"contains no study\.toml"):
        Study.load(tmp_path)
    path = write_study(tmp_path)
    (tmp_path / "base.toml").unlink()
    with pytest.raises(ConfigError, match=r"base\.toml does not exist"):
        Study.load(path)


def test_the_folder_of_a_study_is_the_same_study(tmp_path: Path) -> None:
    study = load(tmp_path, axes=STRATEGY, seeds=[1, 2])
    write_copies(study)
    again = Study.load(study.folder)
    assert again.runs == study.runs
    (tmp_path / "base.toml").unlink()
    assert Study.load(study.folder).runs == study.runs


def test_a_run_with_an_unchanged_config_keeps_its_folder_when_an_axis_is_added(tmp_path: Path) -> None:
    before = load(tmp_path).runs
    for run in before:
        run.folder.mkdir(parents=True)
        (run.folder / "config.toml").write_text(run.config.to_toml(), encoding="utf-8")
    axes = '[grid]\n"batch.mono_share" = [0.0, 1.0]\n"loss.temperature" = [0.05, 0.02]\n'
    after = load(tmp_path, axes=axes)
    assert [run.folder for run in after.runs if run.config.loss.temperature == 0.05] == [run.folder for run in before]
    for run in after.runs:
        assert Path(run.config.run.folder) == run.folder
        if run.config.loss.temperature == 0.02:
            assert run.folder == after.folder / run.name


def test_each_untuned_model_has_one_baseline_whatever_else_varies(tmp_path: Path) -> None:
    assert [one.folder for one in load(tmp_path, seeds=[1, 2]).baselines] == [tmp_path / "study" / "baseline"]
    study = load(tmp_path, axes='[grid]\n"model.pooling" = ["mean", "cls"]\n"model.dropout" = [0.1, 0.2]\n')
    assert [(one.name, one.model.pooling) for one in study.baselines] == [
        ("baseline-model.pooling=mean", "mean"),
        ("baseline-model.pooling=cls", "cls"),
    ]


def test_the_config_in_a_run_folder_is_enough_to_repeat_the_run(tmp_path: Path) -> None:
    write_base(tmp_path)
    for run in load(tmp_path, axes=STRATEGY).runs:
        (tmp_path / "config.toml").write_text(run.config.to_toml(), encoding="utf-8")
        assert Config.load(tmp_path / "config.toml") == run.config
        assert not difference(Config.load(tmp_path / "config.toml"), run.config)


def test_a_measure_finds_its_numbers_and_the_direction_in_which_they_improve() -> None:
    columns = {"mAP": "monolingual.map", "distance": "bias.rank_distance", "share": "bias.same_language_share@10"}
    measure = Measure(task="xquad-r:paragraph", columns=columns | {"none": "cross_lingual.map", "text": "task"})
    scores = {"task": "x", "monolingual": {"map": 0.5}, "cross_lingual": None, "bias": {"rank_distance": 12}}
    assert [measure.number(scores, column) for column in measure.columns] == [0.5, 12.0, None, None, None]
    assert [measure.direction(column) for column in columns] == [1, -1, 0]
    assert (measure.name, measure.primary) == ("xquad-r-paragraph", "mAP")
