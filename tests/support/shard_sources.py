"""Small source files and recipes like those of users."""

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Rows = Iterable[Mapping[str, Any]]


def write_jsonl(path: Path, rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def row(number: int, language: str, **more: Any) -> dict[str, Any]:
    return {"id": f"i{number}", "query": f"q{number} {language} ü", "document": f"d{number} {language} 語", **more}


def parallel(folder: Path, rows: Mapping[str, Rows], **keys: Any) -> Path:
    """Write the recipe, with these keys, of one parallel dataset `p`, and its rows by language."""
    files = [write_jsonl(folder / f"{language}.jsonl.gz", its_rows) for language, its_rows in rows.items()]
    head = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    lines = [f'files.{file.name.split(".")[0]} = "{file.name}"' for file in files]
    recipe = folder / "recipe.toml"
    recipe.write_text(
        head + '[[dataset]]\nname = "p"\nreader = "jsonl"\nparallel = true\n' + "\n".join(lines), encoding="utf-8"
    )
    return recipe
