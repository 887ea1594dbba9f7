"""Common mistakes in the input: each gives its own message and exit status 2, without a traceback."""

import json
import shutil
from pathlib import Path

import pytest
from launching import outcome, train
from whole_runs import main_here

from hbdist.data.shards.manifest import Manifest


@pytest.fixture
def base(tiny_model: Path, tiny_shards: Path, tmp_path: Path) -> list[str]:
    sources = [f"model.name={tiny_model}", f"data.shards={tiny_shards}", "data.languages=[]", "data.datasets=[]"]
    return ["launch/train/demo.toml", *sources, "batch.size=16", "steps=2", f"run.folder={tmp_path / 'run'}"]


@pytest.mark.parametrize(
    ("overrides", "sentences"),
    [
        (["batch.sise=8"], ["unknown key batch.sise", "Did you mean batch.size?"]),
        (["batch.mix=blocks", "batch.mono_share=0.3"], ["4.8 pairs", "4/16 = 0.25 or 5/16 = 0.3125"]),
        (["batch.cross_block=5"], ["batch.cross_block = 5 does not divide the 16 pairs", "4 and 8"]),
        (["data.languages=['en','xx']"], ["'xx'", "They have: de, en, th"]),
        (["batch.size=4000"], ["have fewer", 'batch.small_pool="repeat"', "batch.mono_block="]),
        (["data.shards=nowhere"], ["nowhere", "does not exist", "hbdist build"]),
        (["model.name=shards"], ["model.name = 'shards' cannot be loaded", "config.json"]),
        (["model.name=./no/such/model"], ["model.name = './no/such/model' cannot be loaded"]),
        (["engine.precision=fp16"], ["engine.precision", "bf16"]),
    ],
)
def test_a_mistake_gives_its_message_and_status_2(base: list[str], overrides: list[str], sentences: list[str]) -> None:
    done = main_here(*base, *overrides)
    assert done.returncode == 2, done.stderr
    for sentence in sentences:
        assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("hbdist: ") == 1


def test_the_command_line_gives_the_same_message_and_status(base: list[str]) -> None:
    done = train(1, *base, "data.shards=nowhere")
    assert done.returncode == 2, done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("hbdist: ") == 1


def test_a_folder_of_another_run_is_refused_and_unchanged(base: list[str], tmp_path: Path) -> None:
    assert main_here(*base).returncode == 0
    before = outcome(tmp_path / "run")
    done = main_here(*base, "loss.temperature=0.5")
    assert done.returncode == 2
    assert "holds another run: loss.temperature = 0.01 there, 0.5 here" in done.stderr
    assert outcome(tmp_path / "run") == before
    assert main_here(*base, "loss.chunk_tokens=99").returncode == 0, "some settings may change on resume"


def copy_of(shards: Path, folder: Path) -> Path:
    shutil.copytree(shards, folder / "shards")
    return folder / "shards"


def test_a_truncated_shard_is_named(base: list[str], tiny_shards: Path, tmp_path: Path) -> None:
    shards = copy_of(tiny_shards, tmp_path)
    for shard in shards.rglob("*.tar"):
        with shard.open("r+b") as file:
            file.truncate(700)
    done = main_here(*base, f"data.shards={shards}")
    assert done.returncode == 2, done.stderr
    assert ".tar" in done.stderr
    assert "hbdist check" in done.stderr
    assert outcome(tmp_path / "run")["state"] == "invalid"


def test_a_missing_shard_is_named(base: list[str], tiny_shards: Path, tmp_path: Path) -> None:
    shards = copy_of(tiny_shards, tmp_path)
    for shard in shards.rglob("*.tar"):
        shard.unlink()
    done = main_here(*base, f"data.shards={shards}")
    assert done.returncode == 2, done.stderr
    assert ".tar" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_shard_is_also_named_on_two_processes(base: list[str], tiny_shards: Path, tmp_path: Path) -> None:
    shards = copy_of(tiny_shards, tmp_path)
    for shard in shards.rglob("*.tar"):
        shard.unlink()
    done = train(2, *base, f"data.shards={shards}")
    assert done.returncode != 0  # launchers turn every status into 1; outcome.json has the real one
    assert "hbdist" in done.stderr
    assert ".tar" in done.stderr
    assert outcome(tmp_path / "run") == {"state": "invalid", "code": 2} | {
        "message": outcome(tmp_path / "run")["message"]
    }


def test_a_manifest_that_does_not_match_is_refused(base: list[str], tiny_shards: Path, tmp_path: Path) -> None:
    shards = copy_of(tiny_shards, tmp_path)
    manifest = json.loads((shards / "manifest.json").read_text())
    manifest["groups"][0]["shards"]["rows"][0] += 1
    (shards / "manifest.json").write_text(json.dumps(manifest))
    done = main_here(*base, f"data.shards={shards}")
    assert done.returncode == 2, done.stderr
    assert "manifest.json" in done.stderr


def test_data_other_than_the_checkpoints_are_refused(base: list[str], tiny_shards: Path, tmp_path: Path) -> None:
    assert main_here(*base).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    shards = copy_of(tiny_shards, tmp_path)
    old = Manifest.load(shards)
    Manifest(shards, old.groups[1:], old.dropped, old.licences, old.inputs).save(shards)
    done = main_here(*base, f"data.shards={shards}")
    assert done.returncode == 2, done.stderr
    assert "fingerprint" in done.stderr
    assert f"{old.groups[0].name} is gone" in done.stderr
    after = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
    assert after == before, "a refused run leaves the folder unchanged"
