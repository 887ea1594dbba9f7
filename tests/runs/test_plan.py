"""Plan of a run: its numbers, its refusals and warnings; made without torch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from launching import ROOT
from made_groups import MANIFEST

from hbdist.config.config import Config
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError
from hbdist.models.parameter_count import count_parameters
from hbdist.runs.plan import Plan


def plan(ranks: int = 1, *, steps: int = 40, loss: dict[str, Any] | None = None, **batch: Any) -> Plan:
    values = {
        "steps": steps,
        "data": {"shards": "nowhere"},
        "model": {"name": "none"},
        "batch": {"size": 16, **batch},
        "loss": loss or {},
    }
    return Plan.of(Config.check(values, source="test"), MANIFEST, ranks=ranks)


def test_the_plan_states_the_pairs_per_rank() -> None:
    assert "16 pairs per step on 1 rank: 16 per rank" in plan(1).text()
    assert "16 pairs per step on 4 ranks: 4 per rank" in plan(4).text()
    assert "16 pairs per step on 3 ranks: 5 or 6 per rank" in plan(3).text()


def test_the_plan_states_pairs_and_epochs() -> None:
    made = plan(steps=40)
    assert (made.data_pairs, made.data_groups, made.total_pairs) == (620, 5, 640)
    assert "40 steps = 640 pairs = 1.03 × the data" in made.text()
    assert plan(steps=40, mono_share=1).data_pairs == 500


def test_the_plan_names_the_manifest_by_its_fingerprint() -> None:
    assert plan().fingerprint == MANIFEST.fingerprint
    assert MANIFEST.fingerprint[:12] in plan().text()


@pytest.mark.parametrize(("hard", "others"), [(0, 15), (3, 63)])
def test_candidates_are_all_other_documents_and_hard_negatives(hard: int, others: int) -> None:
    assert f"up to {others} others of the global batch" in plan(loss={"hard_negatives": hard}).text()


def test_candidates_within_a_block_are_stated_as_such() -> None:
    assert "others of its own block" in plan(negatives="block").text()


def test_the_plan_states_kinds_and_their_languages() -> None:
    text = plan(mono_share=0.25).text()
    assert "mono   25.0% of the steps; 2 languages, one for the whole batch: de-de, en-en" in text
    assert "cross  75.0% of the steps; 2 language pairs, each pair draws its own: de-en, en-de" in text
    assert "cross" not in plan(mono_share=1).text()
    assert "of the pairs of each batch" in plan(mix="blocks").text()


@pytest.mark.parametrize("ranks", [17, 100])
def test_fewer_pairs_than_ranks_are_refused(ranks: int) -> None:
    with pytest.raises(ConfigError, match=rf"batch\.size = 16 is less than the {ranks} ranks.* to {ranks} or more"):
        plan(ranks)


def test_as_many_pairs_as_ranks_are_enough() -> None:
    assert "1 per rank" in plan(16).text()


def test_small_pools_that_are_repeated_are_named() -> None:
    text = plan(size=128, small_pool="repeat").text()
    assert "repeated in it: de-de (100 pairs)" in text
    assert "repeat" not in plan(size=16, small_pool="repeat").text()


def test_hbdist_plan_loads_no_torch(tiny_shards: Path, tmp_path: Path) -> None:
    config = tmp_path / "tiny.toml"
    config.write_text(
        f'steps = 3\n[data]\nshards = "{tiny_shards.as_posix()}"\n[model]\nname = "m"\n[batch]\nsize = 8\n',
        encoding="utf-8",
    )
    code = (
        "import sys; from hbdist.cli import main; status = main(sys.argv[1:]);"
        " print(status, sorted({'torch', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", str(config), "seed=2", "--ranks", "3", "--step", "1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "8 pairs per step on 3 ranks: 2 or 3 per rank" in done.stdout
    assert "step 1: " in done.stdout
    assert sum(int(line.split()[0]) for line in done.stdout.splitlines()[-20:-1] if "/" in line and line[0] == " ") >= 8


ZERO2 = Zero.load(ROOT / "launch/deepspeed/zero2.json")


def test_the_plan_states_the_bytes_of_gradient_reductions(monkeypatch: pytest.MonkeyPatch) -> None:
    config = plan(loss={"chunk_tokens": 512}).config
    monkeypatch.chdir(ROOT)
    config = config.model_copy(update={"model": config.model.model_copy(update={"name": "models/me5-small-demo"})})
    # 8 pairs per rank, at most 64 and 256 tokens: 1 chunk of queries and 4 of documents.
    text = Plan.of(config, MANIFEST, ranks=2, zero=ZERO2).text()
    once = 4 * (count_parameters("models/me5-small-demo") or 0) / 1e9
    assert f"fit ({once:.2f} GB), else in each of up to 5 backward passes ({5 * once:.2f} GB)" in text
    assert "zero1.yaml" in text, "a stage that reduces once is recommended"
    assert f"once per step, {once:.2f} GB" in Plan.of(config, MANIFEST, ranks=2).text()


def test_a_single_process_sends_no_gradients() -> None:
    assert "no gradients are sent" in plan(1).text()
    assert "zero1.yaml" not in Plan.of(plan().config, MANIFEST, ranks=1, zero=ZERO2).text()


def test_an_unknown_model_gets_bytes_per_parameter() -> None:
    assert "once per step, 4 bytes per parameter" in plan(2).text()
