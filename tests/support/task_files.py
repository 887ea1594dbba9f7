"""Small files of evaluation tasks, as they are published."""

import gzip
import json
from pathlib import Path


def write_text(path: Path, text: str) -> Path:
    """Write a file, gzipped if its name ends in .gz, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), 1) if path.suffix == ".gz" else text.encode())
    return path


def json_lines(*rows: object) -> str:
    """Return the rows as JSON, one per line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
