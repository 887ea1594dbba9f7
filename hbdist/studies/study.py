"""Study as its file states it: its runs and their folders, and what is measured of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from hbdist.config.config import Config, as_folder_name, read_config
from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError
from hbdist.studies.grid import expand, identity
from hbdist.studies.schema import Measure, StudyFile

STUDY, BASE = "study.toml", "base.toml"
"""Names of the copies of a study's file and of its base config in its folder, which is enough to continue the study."""


@dataclass(frozen=True)
class Measured:
    """A model of the study: that of a run, or an untuned one."""

    name: str
    folder: Path

    def evaluation(self, measure: Measure) -> Path:
        """Return the folder of the scores.json of this measure."""
        return self.folder / "evaluation" / measure.name

    @property
    def model_words(self) -> list[str]:
        """Words of `hbdist evaluate` that name the model."""
        return [str(self.folder / "model")]

    def evaluate_words(self, measure: Measure) -> tuple[str, ...]:
        """Return the words after `hbdist` of the command that evaluates this model on this measure."""
        words = ["evaluate", *self.model_words, "--task", measure.task, "--out", str(self.evaluation(measure))]
        words += ["--data", measure.data] if measure.data else []
        words += ["--languages", ",".join(measure.languages)] if measure.languages else []
        words += ["--questions", str(measure.questions)] if measure.questions else []
        return tuple(words)


@dataclass(frozen=True)
class Baseline(Measured):
    """A model as it is before training."""

    model: ModelSection

    @property
    def model_words(self) -> list[str]:
        """Words of `hbdist evaluate` that name the model and the settings that its runs use."""
        model = self.model
        words = [model.name, "--pooling", model.pooling]
        words += ["--query-prefix", model.query_prefix, "--document-prefix", model.document_prefix]
        words += ["--language-token", model.language_token] if model.language_token != "keep" else []
        return words + (["--fixed-language", model.fixed_language] if model.language_token == "fixed" else [])


@dataclass(frozen=True)
class StudyRun(Measured):
    """One training, named by the values in which it differs from the others."""

    values: dict[str, Any]
    """Axis → value, without the seed; runs with equal values differ only in the seed."""
    seed: int
    config: Config
    baseline: Baseline
    """Model that it begins with."""


@dataclass(frozen=True)
class StudySpec:
    """Study as its file states it: the grid of runs, their folders, what is measured of them."""

    path: Path
    """File that it was read from."""
    base: Path
    """Config that its runs begin with."""
    folder: Path
    file: StudyFile
    runs: tuple[StudyRun, ...]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and expand a study's file, or the folder of a submitted study. Starts nothing, writes nothing.

        If a run's config is that of a folder with another name (say, since an axis was added), the run keeps that folder.

        Raises:
            ConfigError: the file, its base or a run's config is wrong.
        """
        path = Path(path)
        source = path / STUDY if path.is_dir() else path
        if path.is_dir() and not source.is_file():
            advice = "Give a study's file or folder."
            raise ConfigError(f"{path} contains no {STUDY}, which the folder of a study has. {advice}")
        file = StudyFile.load(source)
        base, folder = path.parent / file.base, Path(file.folder or Path("runs", "studies", file.name))
        if path.is_dir():
            base, folder = path / BASE, path
        return cls(source, base, folder, file, _runs(file, base, source, folder))

    @property
    def argument(self) -> Path:
        """Argument of `hbdist study` for this study: its file, or its folder if it was read from there."""
        return self.folder if self.path == self.folder / STUDY else self.path

    @property
    def name(self) -> str:
        """Name of the study and, by default, of its folder."""
        return self.file.name

    @property
    def title(self) -> str:
        """Title of the report."""
        return self.file.title or self.file.name

    @property
    def question(self) -> str:
        """Question that the study is to answer."""
        return self.file.question

    @property
    def note(self) -> str:
        """Note to the reader of the report; may be empty."""
        return self.file.note

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Tasks that every run is evaluated on."""
        return self.file.measure

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that every point of the grid is trained with."""
        return self.file.seeds

    @property
    def axes(self) -> dict[str, dict[Any, dict[str, Any]]]:
        """Axis → its values in order, each with the keys of the config that it sets."""
        return self.file.axes

    @property
    def x(self) -> str:
        """Axis along which plots run."""
        return self.file.x or next((axis for axis in self.axes if axis != self.file.lines), self.file.lines)

    @property
    def lines(self) -> str:
        """Axis that makes lines in plots; empty if there is only one axis."""
        return self.file.lines or next((axis for axis in self.axes if axis != self.x), "")

    @property
    def baselines(self) -> tuple[Baseline, ...]:
        """Untuned models, each once."""
        return tuple({run.baseline.name: run.baseline for run in self.runs}.values())

    def points(self) -> list[tuple[StudyRun, ...]]:
        """Return the runs grouped by their values: those of a group differ only in the seed."""
        groups: dict[str, list[StudyRun]] = {}
        for run in self.runs:
            groups.setdefault(str(run.values), []).append(run)
        return [tuple(runs) for runs in groups.values()]


def _runs(file: StudyFile, base: Path, source: Path, folder: Path) -> tuple[StudyRun, ...]:
    points = expand(file, base, source=source)
    names = {point.name for point in points}
    renamed = {
        identity(Config.check(read_config(config), source=str(config))): config.parent
        for config in sorted(folder.glob("*/config.toml"))
        if config.parent.name not in names
    }
    # Only axes that change the untuned model need a baseline per value; dropout acts only in training.
    model_axes = [
        axis
        for axis, values in file.axes.items()
        if any(key.startswith("model.") and key != "model.dropout" for keys in values.values() for key in keys)
    ]
    runs = []
    for point in points:
        own = folder / point.name
        run_folder = own if own.is_dir() else renamed.get(identity(point.config), own)
        untuned = "-".join(["baseline", *(f"{axis}={as_folder_name(point.values[axis])}" for axis in model_axes)])
        section = point.config.run.model_copy(update={"folder": str(run_folder)})
        config = point.config.model_copy(update={"run": section})
        baseline = Baseline(untuned, folder / untuned, config.model)
        runs.append(StudyRun(point.name, run_folder, point.values, point.seed, config, baseline))
    return tuple(runs)
