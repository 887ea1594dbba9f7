"""Types of a run's logs and of its environment.json, as docs/contracts.md describes them. Other keys may be there as well."""

from pathlib import Path
from typing import Annotated, Any, NotRequired

from annotated_types import MinLen
from pydantic import ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveInt
from typing_extensions import TypedDict

from hbdist.errors import DataError
from hbdist.utils.json_toml import read_json_lines, shown
from hbdist.utils.stored import as_stored, read_stored_if_any

_OPEN = ConfigDict(extra="allow")
REMEDY = "Delete the file, or copy the run again."
LINE_REMEDY = "Delete the broken line, or copy the run again."


class StepLine(TypedDict):
    """Line of metrics.jsonl, with the keys that others need."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    step: PositiveInt
    loss: float
    loss_above_chance: float
    accuracy: float
    pairs: NonNegativeInt
    tokens: NonNegativeInt
    padding: float
    masked: float
    mono_share: float
    seconds: NonNegativeFloat
    data_seconds: NonNegativeFloat
    peak_bytes: NonNegativeInt


class ProgressLine(TypedDict):
    """Line of metrics.jsonl, with the keys that progress needs."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    step: PositiveInt
    loss: float
    seconds: NonNegativeFloat


class ValidationLine(TypedDict):
    """Line of validation.jsonl."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    step: NonNegativeInt
    loss: Annotated[dict[str, float], MinLen(1)]
    skipped: NotRequired[int]


class EvaluationLine(TypedDict):
    """Line of evaluation.jsonl."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    step: NonNegativeInt
    task: str
    task_fingerprint: str
    monolingual: NotRequired[dict[str, float] | None]
    cross_lingual: NotRequired[dict[str, float] | None]
    multilingual: NotRequired[dict[str, float] | None]
    bias: NotRequired[dict[str, float | None] | None]


class Environment(TypedDict, total=False):
    """Content of environment.json."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    command: str
    python: str
    platform: str
    packages: dict[str, str | None]
    cpus: int | None
    threads: int
    gpus: list[str]
    world: PositiveInt


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl; none if there is no such file.

    Raises:
        DataError: the file or a line is damaged.
    """
    return check_lines(StepLine, read_json_lines(path, remedy=LINE_REMEDY), where=shown(path))


def check_lines(kind: Any, lines: list[dict[str, Any]], *, where: str) -> list[dict[str, Any]]:
    """Return these lines of a log, all of which are of this kind.

    Raises:
        DataError: one is not; `where` names the log.
    """
    try:
        as_stored(list[kind], lines, where=where, remedy=LINE_REMEDY)
    except DataError:  # which line it is
        for number, line in enumerate(lines, 1):
            as_stored(kind, line, where=f"{where}, line {number},", remedy=LINE_REMEDY)
        raise
    return lines


def usable_lines(kind: Any, lines: list[dict[str, Any]], *, where: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the lines of a log that are of this kind, and a sentence for each that is not."""
    usable, sentences = [], []
    for line in lines:
        try:
            as_stored(kind, line, where=f"{where}, step {line['step']},", remedy="It is left out and measured again.")
            usable.append(line)
        except DataError as error:
            sentences.append(str(error))
    return usable, sentences


def read_environment(path: Path) -> dict[str, Any]:
    """Return the content of environment.json; empty if there is no such file.

    Raises:
        DataError: the file is damaged.
    """
    return dict(read_stored_if_any(Environment, path, remedy=REMEDY) or {})
