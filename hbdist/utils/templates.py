"""Text templates (jinja2), kept in files beside the code that fills them in."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def environment(folder: Path, **options: Any) -> Environment:
    """Return a folder's templates: a missing value is an error, and a line with nothing but a block leaves no line."""
    return Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
