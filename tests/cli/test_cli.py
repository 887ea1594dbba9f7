"""Command line: help, exit statuses, and likely mistakes, each of which is answered by one sentence and exit status 2."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import hbdist
from hbdist.cli import main
from hbdist.config.config import FIELDS, Config
from hbdist.errors import ConfigError
from hbdist.runs.outcome import Outcome

COMMANDS = ("train", "plan", "build", "check", "translate", "evaluate", "compare", "report", "doctor", "data", "study")


@pytest.fixture
def toml(tiny_shards: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(
        f'steps = 3\n[data]\nshards = "{tiny_shards.as_posix()}"\n[model]\nname = "m"\n[batch]\nsize = 8\n',
        encoding="utf-8",
    )
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must be refused, and return its message: one line on stderr, nothing on stdout."""
    assert main([str(argument) for argument in arguments]) == 2
    written = capsys.readouterr()
    assert written.out == ""
    assert "Traceback" not in written.err
    assert written.err.startswith("hbdist: ")
    assert written.err.count("\n") == 1
    return written.err


@pytest.mark.parametrize("arguments", [["--help"], []], ids=["--help", "nothing"])
def test_help_lists_the_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) in (0, 2)
    shown = capsys.readouterr()
    assert all(f" {command} " in shown.out + shown.err for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "usage" in capsys.readouterr().out.lower()


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hbdist {hbdist.__version__}\n"


def test_help_of_train_lists_every_key_of_a_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {key} (" in shown for key in FIELDS)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.done("done"), 0),
        (Outcome.failed(RuntimeError("lost")), 1),
        (Outcome.invalid(ConfigError("wrong")), 2),
        (Outcome.interrupted("stopped"), 75),
        (RuntimeError("lost"), 1),
        (ConfigError("wrong"), 2),
    ],
)
def test_the_exit_status_of_train_is_that_of_its_outcome(
    outcome: Outcome | Exception,
    status: int,
    toml: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def train(config: Config, *_: object) -> Outcome:
        assert config.steps == 7
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(import_module("hbdist.train"), "train", train)
    assert main(["train", str(toml), "steps=7"]) == status
    written = capsys.readouterr().err
    assert ("hbdist: wrong" in written) is isinstance(outcome, ConfigError)
    assert ("Traceback" in written) is (type(outcome) is RuntimeError)


def test_mistakes_in_the_arguments_of_train_are_explained(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "gone.toml does not exist. Give the path" in refused(capsys, "train", "gone.toml")
    assert "unknown key batch.sise. Did you mean batch.size?" in refused(capsys, "train", toml, "batch.sise=8")
    assert "'--steps' is not an override. Write key=value" in refused(capsys, "train", toml, "--steps", "8")


def test_a_missing_config_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "gone.toml does not exist. Give the path" in refused(capsys, "plan", tmp_path / "gone.toml")


def test_an_unknown_key_is_refused_with_the_nearest_one(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown key batch.sise. Did you mean batch.size?" in refused(capsys, "plan", toml, "batch.sise=8")


def test_a_value_of_the_wrong_type_is_refused(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "batch.size = 'many'" in refused(capsys, "plan", toml, "batch.size=many")


def test_a_word_that_is_not_an_override_is_refused(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'fast' is not an override. Write key=value" in refused(capsys, "plan", toml, "fast")


def test_missing_shards_are_refused(toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "plan", toml, f"data.shards={tmp_path / 'none'}")
    assert "does not exist; expected a folder of built shards. Build it with" in message
    assert "manifest.json does not exist" in refused(capsys, "check", tmp_path)


def test_a_language_or_dataset_that_the_shards_lack_is_refused(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "data.languages names 'fr'" in refused(capsys, "plan", toml, 'data.languages=["en", "fr"]')
    assert "Did you mean ntrex?" in refused(capsys, "plan", toml, 'data.datasets=["ntrx"]')


def test_more_ranks_than_pairs_are_refused(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "less than the 9 ranks" in refused(capsys, "plan", toml, "--ranks", "9")


def test_an_impossible_batch_is_refused(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Nearest that do: 2 and 4" in refused(capsys, "plan", toml, "batch.cross_block=3")
    assert "these have fewer" in refused(capsys, "plan", toml, "batch.size=4096")


def test_a_missing_or_wrong_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist. Give the path of a recipe" in refused(capsys, "build", tmp_path / "gone.toml")
    (tmp_path / "wrong.toml").write_text('[[dataset]]\nname = "a"\nreadr = "jsonl"\nfiles = {en = "x"}\n')
    assert "unknown key readr. Did you mean reader?" in refused(capsys, "build", tmp_path / "wrong.toml")


def test_an_unknown_task_is_refused(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "evaluate", tiny_model, "--out", tmp_path / "out", "--task", "xquad")
    assert "--task xquad is not known. Give one of xquad-r" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("languages", ["en,xx", "xx", "en,"])
def test_an_unknown_language_is_refused(
    languages: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "evaluate", tiny_model, "--out", tmp_path / "out", "--languages", languages)
    assert "xquad-r has no language" in message
    assert "ar, de" in message


def test_more_questions_than_there_are_are_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "evaluate", tiny_model, "--out", tmp_path / "out", "--questions", "100000")
    assert "questions = 100000 cannot be kept" in message


def test_a_task_folder_without_its_files_is_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "evaluate", tiny_model, "--out", tmp_path / "out", "--data", tmp_path)
    assert "has no ar.json, plain or gzipped" in message


def test_a_missing_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # An existing folder without a model: a name that is not a folder would be looked up on the hub.
    arguments = ("evaluate", tmp_path, "--out", tmp_path / "out", "--languages", "en,de", "--questions", "1")
    assert main([str(argument) for argument in arguments]) == 2
    written = capsys.readouterr().err
    assert f"model.name = {str(tmp_path)!r} cannot be loaded" in written
    assert "Traceback" not in written


def test_an_unknown_pooling_is_refused(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(
        capsys, "evaluate", tiny_model, "--out", tmp_path / "out", "--pooling", "max", "--languages", "en"
    )
    assert "max" in message


def test_a_fixed_language_without_its_setting_is_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("evaluate", tiny_model, "--out", tmp_path / "out", "--languages", "en", "--fixed-language", "en")
    assert "--fixed-language en needs --language-token fixed" in refused(capsys, *arguments)


def test_a_comparison_does_not_overwrite_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "compare", tmp_path, "--with", tmp_path, "--out", tmp_path)
    assert f"--out {tmp_path} is a folder. Name the JSON file" in message


def test_a_report_of_an_unknown_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "contains neither config.toml nor study.toml nor scores.json" in refused(capsys, "report", tmp_path)
    assert "Give the folder of a run" in refused(capsys, "report", tmp_path / "gone")


@pytest.mark.parametrize(
    "arguments", [["plam"], ["plan", "--rank", "2"], ["plan", "--ranks", "0"], ["evaluate"], ["build"], ["check"]]
)
def test_a_wrong_command_line_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    written = capsys.readouterr()
    assert "Usage" in written.err
    assert "Traceback" not in written.err


def test_the_installed_command_has_the_same_exit_status(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hbdist", "plan", str(tmp_path / "gone.toml")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("hbdist: ")


def test_plan_check_and_build_of_good_input_succeed(
    toml: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(toml), "--ranks", "2", "--step", "0"]) == 0
    assert "4 per rank" in capsys.readouterr().out
    assert main(["check", str(tiny_shards)]) == 0
    (tmp_path / "en.jsonl").write_text('{"query": "q", "document": "d"}\n', encoding="utf-8")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[dataset]]\nname = "one"\nreader = "jsonl"\nfiles = {en = "en.jsonl"}\n', encoding="utf-8")
    assert main(["build", str(recipe), "--out", str(tmp_path / "built"), "--workers", "1"]) == 0
    assert "1 pairs in 1 groups" in capsys.readouterr().out


def test_bytes_that_are_not_utf8_on_the_command_line_are_refused(tmp_path: Path) -> None:
    for words in (["report", b"\xff"], ["plan", b"launch/train/demo.toml", b"model.name=\xc9"]):
        command = [sys.executable, "-m", "hbdist", *words]
        done = subprocess.run(command, capture_output=True, timeout=60, check=False)
        assert done.returncode == 2, done.stderr
        assert b"on the command line is not UTF-8" in done.stderr
        assert b"Traceback" not in done.stderr
