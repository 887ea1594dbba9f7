"""SQuAD's JSON: articles of paragraphs, and the questions about each."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hbdist.data.formats.lines import REMEDY
from hbdist.errors import DataError
from hbdist.utils.json_toml import read_json


def read_paragraphs(path: Path, *, remedy: str = REMEDY) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all paragraphs of a file, plain or gzipped, each with its position "article.paragraph", from "0.0".

    To be used within `squad_errors`, which also covers what the caller takes out of a paragraph.

    Raises:
        DataError: the file cannot be read as JSON.
    """
    for a, article in enumerate(read_json(path, remedy=remedy, strict=False)["data"]):
        for p, paragraph in enumerate(article["paragraphs"]):
            yield f"{a}.{p}", paragraph


@contextmanager
def squad_errors(path: Path, needed: str, *, remedy: str = REMEDY) -> Iterator[None]:
    """Turn the errors of indexing into something that is not SQuAD's JSON into one for the user.

    Args:
        needed: the fields that the caller uses.

    Raises:
        DataError: a field is missing or of another type.
    """
    try:
        yield
    except DataError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(f"{path} is not SQuAD JSON with {needed}: {error!r}. {remedy}") from None
