"""The trainer of sentence-transformers on the schedule's batches. Needs the `datasets` package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_each_rank_of_a_foreign_trainer_gets_its_part_of_every_batch(
    tiny_model: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    pytest.importorskip("datasets")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = Path(__file__).parents[2] / "support" / "foreign_trainer.py"
    subprocess.run([*launch, str(script), str(tiny_shards), str(tiny_model), str(tmp_path)], check=True, timeout=200)
    for rank in range(2):
        seen = json.loads((tmp_path / f"{rank}.json").read_text())
        assert len(seen["trained"]) == 4
        assert seen["trained"] == seen["planned"]
