"""SQuAD's JSON: paragraphs, plain or gzipped."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hbdist.errors import DataError


def paragraphs(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All paragraphs of all articles."""
    return (paragraph for article in document["data"] for paragraph in article["paragraphs"])


def read_json(path: Path, again: str) -> dict[str, Any]:
    """JSON, plain or gzipped.

    Raises:
        DataError: it is not.
    """
    try:
        data = path.read_bytes()
        return json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. {again}") from None


def plain_or_gzipped(*paths: Path) -> Path | None:
    """The first of these that is a file, itself or with .gz behind its name."""
    both = (one for path in paths for one in (path, path.with_name(path.name + ".gz")))
    return next((path for path in both if path.is_file()), None)
