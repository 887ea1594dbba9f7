"""Study as its file states it: its runs and their folders, and what is measured of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hbdist.config.config import Config, plain, read_toml
from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError
from hbdist.studies.grid import expand, identity
from hbdist.studies.schema import Measure, StudyFile

STUDY, BASE = "study.toml", "base.toml"
"""Copies of a study's file and of its base config, in its folder: alone enough to go on with it."""


@dataclass(frozen=True)
class Measured:
    """A model of the study: a run's, or an untuned one."""

    name: str
    folder: Path

    def evaluation(self, measure: Measure) -> Path:
        """Folder of the scores.json of this measure."""
        return self.folder / "evaluation" / measure.name


@dataclass(frozen=True)
class Baseline(Measured):
    """A model as it is before training."""

    model: ModelSection


@dataclass(frozen=True)
class StudyRun(Measured):
    """One training; its name is its delta."""

    values: dict[str, Any]
    """Axis → value, without the seed; runs with equal values differ in the seed alone."""
    seed: int
    config: Config
    baseline: Baseline
    """The model that it begins with."""


@dataclass(frozen=True)
class StudySpec:
    """Study as its file states it: the grid of runs, their folders, what is measured of them."""

    path: Path
    """The file it was read from."""
    base: Path
    """The config that its runs begin with."""
    folder: Path
    file: StudyFile
    runs: tuple[StudyRun, ...]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a study's file, or the folder of a study that was submitted, and expand it. Starts nothing, writes nothing.

        A run whose config is that of a folder with another name (since an axis was added, say) lives in that folder.

        Raises:
            ConfigError: the file, its base or a run's config is wrong.
        """
        given = Path(path)
        path = given / STUDY if given.is_dir() else given
        if given.is_dir() and not path.is_file():
            raise ConfigError(
                f"{given} holds no {STUDY}, which the folder of a study has. Give a study's file or folder."
            )
        file = StudyFile.load(path)
        base = given / BASE if given.is_dir() else path.parent / file.base
        folder = given if given.is_dir() else Path(file.folder or Path("runs", "studies", file.name))
        return cls(path, base, folder, file, _runs(file, base, path, folder))

    @property
    def argument(self) -> Path:
        """What `hbdist study` takes for it: its file, or its folder where it was read from there, as its base was."""
        return self.folder if self.path == self.folder / STUDY else self.path

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def title(self) -> str:
        return self.file.title or self.file.name

    @property
    def question(self) -> str:
        return self.file.question

    @property
    def note(self) -> str:
        return self.file.note

    @property
    def measures(self) -> tuple[Measure, ...]:
        return self.file.measure

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.file.seeds

    @property
    def axes(self) -> dict[str, dict[Any, dict[str, Any]]]:
        """Axis → its values in order, each with the keys of the config that it sets."""
        return self.file.axes

    @property
    def x(self) -> str:
        """The axis along which plots run."""
        return self.file.x or next((axis for axis in self.axes if axis != self.file.lines), self.file.lines)

    @property
    def lines(self) -> str:
        """The axis that makes lines in plots; empty where there is one axis only."""
        return self.file.lines or next((axis for axis in self.axes if axis != self.x), "")

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """The untuned models, each once."""
        return tuple({run.baseline.name: run.baseline for run in self.runs}.values())

    def points(self) -> list[tuple[StudyRun, ...]]:
        """Runs that differ in the seed alone, together."""
        together: dict[str, list[StudyRun]] = {}
        for run in self.runs:
            together.setdefault(str(run.values), []).append(run)
        return [tuple(runs) for runs in together.values()]


def _runs(file: StudyFile, base: Path, source: Path, folder: Path) -> tuple[StudyRun, ...]:
    points = expand(file, base, source=source)
    names = {point.name for point in points}
    elsewhere = {
        identity(Config.check(read_toml(config), source=str(config))): config.parent
        for config in sorted(folder.glob("*/config.toml"))
        if config.parent.name not in names
    }
    # An axis that sets nothing of the model, or only what training alone uses, needs no baseline for each of its values.
    of_model = [
        axis
        for axis, values in file.axes.items()
        if any(key.startswith("model.") and key != "model.dropout" for keys in values.values() for key in keys)
    ]
    runs = []
    for point in points:
        place = folder / point.name
        if not place.is_dir():
            place = elsewhere.get(identity(point.config), place)
        untuned = "-".join(["baseline", *(f"{axis}={plain(point.values[axis])}" for axis in of_model)])
        run = point.config.run.model_copy(update={"folder": str(place)})
        config = point.config.model_copy(update={"run": run})
        baseline = Baseline(untuned, folder / untuned, config.model)
        runs.append(StudyRun(point.name, place, point.values, point.seed, config, baseline))
    return tuple(runs)
