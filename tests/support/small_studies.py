"""Files of small studies, as users would write them, for the smallest model and shards."""

from collections.abc import Sequence
from pathlib import Path

BASE = """
steps = {steps}
[data]
shards = "{shards}"
[model]
name = "{model}"
dropout = 0
max_query_tokens = 32
max_document_tokens = 48
[batch]
size = 8
[loss]
chunk_tokens = 512
[optimizer]
lr = 1e-3
"""
AXES = """
[grid]
"batch.mono_share" = [0.0, 1.0]
"""
MEASURE = """
[[measure]]
task = "parallel:{task}"
name = "sentences"
[measure.columns]
"recall@1" = "cross_lingual.recall@1"
"""


def write_base(folder: Path, *, steps: int = 3, shards: str | Path = "none", model: str | Path = "none") -> Path:
    """Write `folder`/base.toml, the config of a short run on these shards and this model, and return its path."""
    path = folder / "base.toml"
    path.write_text(BASE.format(steps=steps, shards=shards, model=model), encoding="utf-8")
    return path


def write_study(
    folder: Path,
    *top: str,
    axes: str = AXES,
    measure: str = "",
    seeds: Sequence[int] = (1,),
    task: str | Path = "none",
    out: str | Path = "",
) -> Path:
    """Write `folder`/study-file.toml with the base `folder`/base.toml, and return its path.

    Args:
        top: further lines before the tables.
        axes, measure: tables that replace AXES and MEASURE.
        task: folder of parallel sentences.
        out: the study's folder; by default `folder`/study.
    """
    path = folder / "study-file.toml"
    if not (folder / "base.toml").is_file():
        write_base(folder)
    head = ['name = "small"', 'question = "Does it work?"', 'base = "base.toml"', f"seeds = {list(seeds)}"]
    lines = [*head, f'folder = "{out or folder / "study"}"', *top, axes, measure or MEASURE.format(task=task)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_sentences(folder: Path, *, count: int = 6) -> Path:
    """Write a folder of parallel sentences in en and de, for the task parallel:FOLDER, and return it."""
    folder.mkdir()
    for language in ("en", "de"):
        lines = [f"sentence {number} of {count} in {language}" for number in range(count)]
        (folder / f"{language}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder
