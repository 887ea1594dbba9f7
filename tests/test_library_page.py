"""The examples of docs/library.md run as they stand there, on small shards and a small model."""

import re
from pathlib import Path
from typing import Any

import pytest
from launching import ROOT


def test_every_example_runs(tiny_model: Path, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/library.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 4
    small = f'"data.shards={tiny_shards}", "model.name={tiny_model}", "data.languages=[]", "data.datasets=[]"'
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace('"steps=3"', f'"steps=3", {small}'), namespace)
    assert namespace["batch"].step == 2
    assert namespace["model"].weight.grad.norm() > 0
