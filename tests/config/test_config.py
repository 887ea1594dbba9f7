"""Configs: refusals and their messages, and TOML that reads back as the same config."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hbdist.config import config as config_module
from hbdist.config.config import FIELDS, Config, describe, difference, parse_override, read_config, split_arguments
from hbdist.errors import ConfigError

ROOT = Path(__file__).parents[2]
SMALLEST: dict[str, Any] = {"steps": 4, "data": {"shards": "s"}, "model": {"name": "m"}, "batch": {"size": 8}}


def make(**sections: Any) -> Config:
    return Config.check({**SMALLEST, **sections}, source="test")


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.check(values, source="some.toml")
    return str(caught.value)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "base.toml"
    path.write_text(make().to_toml().replace('folder = ""\n', ""), encoding="utf-8")
    return path


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    assert refused({**SMALLEST, "optimizer": {"learning_rat": 1}}).startswith("some.toml: unknown key optimizer.lea")
    assert "Did you mean batch.mono_share?" in refused({**SMALLEST, "batch": {"size": 8, "mono_shar": 0.5}})
    assert "Did you mean seed?" in refused({**SMALLEST, "sede": 1})
    assert "unknown key nothing.like_it" in refused({**SMALLEST, "nothing": {"like_it": 1}})


def test_a_known_key_in_the_wrong_section_is_refused_with_its_own_section() -> None:
    assert "Did you mean loss.temperature?" in refused({**SMALLEST, "temperature": 1})


def test_an_empty_unknown_section_is_refused() -> None:
    assert "nothing" in refused({**SMALLEST, "nothing": {}})


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("batch", "size", "many"),
        ("batch", "size", 0),
        ("batch", "size", 2.5),
        ("batch", "mono_share", 1.5),
        ("batch", "mono_share", "half"),
        ("batch", "mono_block", "some"),
        ("batch", "mix", "blends"),
        ("model", "name", 12),
        ("model", "dropout", 1.0),
        ("data", "languages", "en"),
        ("run", "log_batches", "perhaps"),
        ("loss", "temperature", 0),
        ("optimizer", "lr", float("nan")),
        ("checkpoint", "keep", 0),
        ("engine", "precision", "fp8"),
    ],
)
def test_a_wrong_value_is_refused_with_what_the_key_is_for(section: str, key: str, value: Any) -> None:
    message = refused({**SMALLEST, section: {**SMALLEST.get(section, {}), key: value}})
    assert message.startswith(f"some.toml: {section}.{key} = {value!r}")
    assert message.endswith(config_module.describe_field(f"{section}.{key}"))


def test_a_wrong_item_is_refused_with_its_list() -> None:
    assert refused({**SMALLEST, "data": {"shards": "s", "languages": ["en", 7]}}).startswith(
        "some.toml: data.languages = 7: input should be a valid string"
    )


def test_a_value_instead_of_a_section_is_refused_with_the_keys_of_the_section() -> None:
    message = refused({**SMALLEST, "batch": 8})
    assert message.startswith("some.toml: batch = 8")
    assert "batch.size" in message


@pytest.mark.parametrize("key", [key for key, field in FIELDS.items() if field.is_required()])
def test_a_missing_key_is_named(key: str) -> None:
    section, _, name = key.rpartition(".")
    values = {one: dict(value) if isinstance(value, dict) else value for one, value in SMALLEST.items()}
    del (values[section] if section else values)[name]
    assert f"{key} is missing. Add it: {key} (" in refused(values)


def test_an_override_is_toml_or_else_text() -> None:
    expected = {
        "batch.size=256": ("batch.size", 256),
        "loss.symmetric=true": ("loss.symmetric", True),
        'data.languages=["en", "de"]': ("data.languages", ["en", "de"]),
        "optimizer.lr=2e-5": ("optimizer.lr", 2e-5),
        "model.name=models/me5-small-demo": ("model.name", "models/me5-small-demo"),
        'model.query_prefix="query: "': ("model.query_prefix", "query: "),
        "model.query_prefix=": ("model.query_prefix", ""),
        "model.query_prefix=a=b": ("model.query_prefix", "a=b"),
    }
    assert {text: parse_override(text) for text in expected} == expected


@pytest.mark.parametrize("text", ["batch.size", "=8", ""])
def test_an_override_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="Write key=value"):
        parse_override(text)


def test_overrides_win_over_the_file_and_are_named_in_errors(toml: Path) -> None:
    assert Config.load(toml, ["batch.size=16", "seed=3"]).batch.size == 16
    with pytest.raises(ConfigError, match=r"base\.toml and the command line: unknown key batch\.siz\. Did you mean"):
        Config.load(toml, ["batch.siz=16"])
    with pytest.raises(ConfigError, match="steps is not a section"):
        Config.load(toml, ["steps.size=16"])


@pytest.mark.parametrize("content", ["steps = ", "steps = 1\nsteps = 2", "name = yes"])
def test_a_file_that_is_not_toml_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        Config.load(tmp_path / "broken.toml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml does not exist\. Give the path of a config"):
        Config.load(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        Config.load(tmp_path)


def test_a_config_is_frozen() -> None:
    config = make()
    with pytest.raises(ValidationError, match="frozen"):
        config.steps = 5  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.batch.size = 5  # type: ignore[misc]


positive = st.floats(0, exclude_min=True, allow_infinity=False)
counts = st.integers(1, 10**9 - 1)
paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)
names = st.lists(st.text(), max_size=3)
configs = st.fixed_dictionaries(
    {
        "steps": counts,
        "data": st.fixed_dictionaries({"shards": paths}, optional={"languages": names, "datasets": names}),
        "model": st.fixed_dictionaries(
            {"name": paths},
            optional={
                "pooling": st.sampled_from(["mean", "cls"]),
                "query_prefix": st.text(),
                "document_prefix": st.text(),
                "max_query_tokens": st.integers(4, 10**6),
                "dropout": st.floats(0, 1, exclude_max=True) | st.none(),
            },
        ),
        "batch": st.fixed_dictionaries(
            {"size": counts},
            optional={
                "mono_share": st.floats(0, 1),
                "mix": st.sampled_from(["step", "blocks"]),
                "mono_block": counts | st.just("batch"),
                "cross_block": counts | st.just("batch"),
                "language_exponent": st.floats(0, 9),
                "one_dataset": st.booleans(),
            },
        ),
    },
    optional={
        "seed": st.integers(0, 2**62),
        "run": st.fixed_dictionaries({}, optional={"folder": paths, "trackers": names}),
        "loss": st.fixed_dictionaries({}, optional={"temperature": positive, "symmetric": st.booleans()}),
        "optimizer": st.fixed_dictionaries({}, optional={"lr": positive, "weight_decay": st.floats(0, 1)}),
        "checkpoint": st.fixed_dictionaries({}, optional={"every": counts, "keep": counts}),
    },
)


@given(values=configs)
def test_a_config_written_as_toml_is_the_same_config(values: dict[str, Any]) -> None:
    config = Config.check(values, source="test")
    assert Config.check(tomllib.loads(config.to_toml()), source="its TOML") == config


def test_a_config_read_from_its_own_file_is_the_same_config(toml: Path, tmp_path: Path) -> None:
    config = Config.load(toml, ["batch.size=16", "model.dropout=0.2"])
    (tmp_path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
    assert Config.load(tmp_path / "config.toml") == config


def test_the_run_folder_is_named_by_what_the_overrides_change(toml: Path) -> None:
    def folder(*overrides: str) -> str:
        return Config.load(toml, overrides).run.folder

    assert folder() == "runs/base"
    assert folder("batch.size=16") == "runs/base-batch.size=16"
    assert folder("batch.size=8") == "runs/base"  # as in the file
    assert folder("optimizer.lr=1e-4", "seed=2") == folder("seed=2", "optimizer.lr=1e-4")
    assert folder("run.folder=elsewhere", "seed=2") == "elsewhere"
    assert Path(folder('data.languages=["en", "de"]', "model.name=a/b")).parent == Path("runs")


FREE = (
    "run.log_batches=true",
    "checkpoint.every=3",
    "checkpoint.keep=9",
    "engine.deepspeed=launch/deepspeed/zero2.json",
    "loss.chunk_tokens=99",
    "data.shards=moved",
    "data.workers=2",
    "data.on_error=skip",
    "validation.every=5",
    "evaluation.every=5",
    "evaluation.metric=multilingual.map",
)


@pytest.mark.parametrize("override", FREE)
def test_keys_that_are_free_on_resume_make_no_other_run(override: str, toml: Path) -> None:
    free = Config.load(toml, [override])
    assert free.run.folder == "runs/base"
    assert difference(Config.load(toml), free) == {}


@pytest.mark.parametrize(
    "override",
    [
        *("seed=2", "steps=5", "loss.temperature=0.1", "batch.size=9", "model.dropout=0.0"),
        *("engine.precision=bf16", "validation.batch_size=8"),
    ],
)
def test_every_other_key_makes_another_run(override: str, toml: Path) -> None:
    key, value = parse_override(override)
    assert difference(Config.load(toml), Config.load(toml, [override])) == {key: value}


def test_every_key_has_a_description() -> None:
    assert {key for key, field in FIELDS.items() if not field.description} == set()


def test_help_describes_every_key() -> None:
    lines = describe().splitlines()
    for key, field in FIELDS.items():
        line = next(line for line in lines if line.startswith(f"  {key} ("))
        assert line.endswith(str(field.description))
        assert "required" in line if field.is_required() else "default" in line


@pytest.mark.parametrize("path", sorted((ROOT / "launch" / "train").glob("*.toml")), ids=lambda path: path.stem)
def test_configs_that_ship_load(path: Path) -> None:
    config = Config.load(path)
    assert config.run.folder == f"runs/{path.stem}"
    assert read_config(path)["steps"] == config.steps


def test_the_path_of_a_config_may_contain_an_equals_sign(tmp_path: Path) -> None:
    path = tmp_path / "demo-steps=2" / "config.toml"
    path.parent.mkdir()
    path.write_text("")
    assert split_arguments([str(path), "steps=3"]) == (str(path), ["steps=3"])
    assert split_arguments(["steps=3"]) == (None, ["steps=3"])
    assert split_arguments(["absent.toml"]) == ("absent.toml", [])
    assert split_arguments([]) == (None, [])
