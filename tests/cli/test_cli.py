"""The command: what it says of likely mistakes, and that it says it in a sentence with exit status 2."""

import subprocess
import sys
from pathlib import Path

import pytest

from hbdist.cli import main

COMMANDS = ("plan", "build", "check", "translate", "evaluate", "report", "doctor", "data")


@pytest.fixture
def toml(tiny_shards: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(
        f'steps = 3\n[data]\nshards = "{tiny_shards.as_posix()}"\n[model]\nname = "m"\n[batch]\nsize = 8\n',
        encoding="utf-8",
    )
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command that must be refused writes to stderr; nothing is written to stdout."""
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
    assert "Usage" in capsys.readouterr().out


def test_a_config_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "gone.toml does not exist. Give the path" in refused(capsys, "plan", tmp_path / "gone.toml")


def test_an_unknown_key(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "unknown key batch.sise. Did you mean batch.size?" in refused(capsys, "plan", toml, "batch.sise=8")


def test_a_value_that_does_not_fit(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "batch.size = 'many'" in refused(capsys, "plan", toml, "batch.size=many")


def test_an_override_that_is_none(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "'fast' is not an override. Write key=value" in refused(capsys, "plan", toml, "fast")


def test_shards_that_are_not_there(toml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "plan", toml, f"data.shards={tmp_path / 'none'}")
    assert "does not exist; expected a folder of built shards. Build it with" in message
    assert "manifest.json does not exist" in refused(capsys, "check", tmp_path)


def test_a_language_or_data_set_that_the_shards_do_not_have(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "data.languages names 'fr'" in refused(capsys, "plan", toml, 'data.languages=["en", "fr"]')
    assert "Did you mean ntrex?" in refused(capsys, "plan", toml, 'data.datasets=["ntrx"]')


def test_more_ranks_than_pairs(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "less than the 9 ranks" in refused(capsys, "plan", toml, "--ranks", "9")


def test_a_batch_that_cannot_be_made(toml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Nearest that do: 2 and 4" in refused(capsys, "plan", toml, "batch.cross_block=3")
    assert "these have fewer" in refused(capsys, "plan", toml, "batch.size=4096")


def test_a_recipe_that_is_not_there_or_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is not a file; expected a recipe" in refused(capsys, "build", tmp_path / "gone.toml")
    (tmp_path / "wrong.toml").write_text('[[dataset]]\nname = "a"\nreadr = "jsonl"\nfiles = {en = "x"}\n')
    assert "unknown key readr. Did you mean reader?" in refused(capsys, "build", tmp_path / "wrong.toml")


def test_an_unknown_task(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "evaluate", tiny_model, "--out", tmp_path / "out", "--task", "xquad")
    assert "--task xquad is not known. Give one of xquad-r" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("languages", ["en,xx", "xx", "en ,de", "en,"])
def test_an_unknown_language(
    languages: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "evaluate", tiny_model, "--out", tmp_path / "out", "--languages", languages)
    assert "xquad-r has no language" in message
    assert "ar, de" in message


def test_more_questions_than_there_are(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "evaluate", tiny_model, "--out", tmp_path / "out", "--questions", "100000")
    assert "questions = 100000 cannot be kept" in message


def test_a_task_folder_without_the_files(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "evaluate", tiny_model, "--out", tmp_path / "out", "--data", tmp_path)
    assert "holds neither" in message


def test_a_model_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # An existing folder without a model: a name that is no folder would be looked up on the hub.
    arguments = ("evaluate", tmp_path, "--out", tmp_path / "out", "--languages", "en,de", "--questions", "1")
    assert main([str(argument) for argument in arguments]) == 2
    written = capsys.readouterr().err
    assert f"model.name = {str(tmp_path)!r} cannot be loaded" in written
    assert "Traceback" not in written


def test_a_pooling_that_is_none(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(
        capsys, "evaluate", tiny_model, "--out", tmp_path / "out", "--pooling", "max", "--languages", "en"
    )
    assert "max" in message


def test_a_fixed_language_without_its_setting(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("evaluate", tiny_model, "--out", tmp_path / "out", "--languages", "en", "--fixed-language", "en")
    assert "--fixed-language en needs --language-token fixed" in refused(capsys, *arguments)


def test_a_comparison_written_over_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "compare", tmp_path, "--with", tmp_path, "--out", tmp_path)
    assert f"--out {tmp_path} is a folder. Name the JSON file" in message


def test_a_report_of_a_folder_that_is_neither_run_nor_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds neither config.toml nor study.toml nor scores.json" in refused(capsys, "report", tmp_path)
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
    assert "4 a rank" in capsys.readouterr().out
    assert main(["check", str(tiny_shards)]) == 0
    (tmp_path / "en.jsonl").write_text('{"query": "q", "document": "d"}\n', encoding="utf-8")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[dataset]]\nname = "one"\nreader = "jsonl"\nfiles = {en = "en.jsonl"}\n', encoding="utf-8")
    assert main(["build", str(recipe), "--out", str(tmp_path / "built"), "--workers", "1"]) == 0
    assert "1 pairs in 1 groups" in capsys.readouterr().out
