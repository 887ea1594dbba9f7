"""Secrets in addresses: not in messages and files, and no hindrance to a resume."""

from pathlib import Path
from typing import Any

import pytest

from hbdist.config.config import Config, refuse_another_run, refuse_secrets
from hbdist.data.shards.remote import locate
from hbdist.errors import ConfigError, DataError, ResumeError, without_secrets


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:hunter2@host/x fails", "https://***@host/x fails"),
        ("data.shards=s3://key:se@cret@bucket/x", "data.shards=s3://***@bucket/x"),
        ("'https://token@host'", "'https://***@host'"),
        ("https://host/a?X-Amz-Signature=abc&b=1 fails", "https://host/a?*** fails"),
        ("https://host/a?b=1&sig=abc", "https://host/a?***"),
        ("https://host/a?page=2", "https://host/a?page=2"),
        ("mail me@host, see https://host/@me", "mail me@host, see https://host/@me"),
    ],
)
def test_what_is_hidden(text: str, expected: str) -> None:
    assert without_secrets(text) == expected
    assert str(DataError(text)) == expected


def config(folder: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {
        "steps": 9,
        "run": {"folder": str(folder)},
        "data": {"shards": "https://me:hunter2@host/shards"},
        "model": {"name": "-"},
        "batch": {"size": 8},
        "validation": {"shards": ["https://me:hunter2@host/held-out"]},
    }
    return Config.check(values | changes, source="test")


def test_a_stored_config_has_no_secrets_and_is_that_of_the_same_run(tmp_path: Path) -> None:
    text = config(tmp_path).to_toml()
    assert "hunter2" not in text
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    assert refuse_another_run(config(tmp_path)) == 9
    other = {"shards": ["https://me:hunter2@host/other"]}
    with pytest.raises(ResumeError, match="another run") as error:
        refuse_another_run(config(tmp_path, validation=other))
    assert "hunter2" not in str(error.value)


def test_an_address_that_has_lost_its_secret_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Give the whole address again"):
        locate("https://***@host/shards")


def test_a_job_with_a_secret_in_its_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.shards = https://\*\*\*@host/shards: the user or password"):
        refuse_secrets(config(tmp_path))


@pytest.mark.parametrize(("schedule", "extends"), [("constant", True), ("linear", False), ("cosine", False)])
def test_more_steps_are_the_same_run_if_the_learning_rate_does_not_depend_on_them(
    schedule: str, extends: bool, tmp_path: Path
) -> None:
    optimizer = {"schedule": schedule}
    (tmp_path / "config.toml").write_text(config(tmp_path, optimizer=optimizer).to_toml(), encoding="utf-8")
    if extends:
        assert refuse_another_run(config(tmp_path, optimizer=optimizer, steps=18)) == 9
    else:
        with pytest.raises(ResumeError, match=r"model\.name=.*/model run\.folder=…"):
            refuse_another_run(config(tmp_path, optimizer=optimizer, steps=18))
    with pytest.raises(ResumeError, match="another run"):
        refuse_another_run(config(tmp_path, optimizer=optimizer, steps=3))
