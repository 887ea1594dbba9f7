"""Command lines by which a study trains and evaluates."""

from hbdist.studies.schema import Measure
from hbdist.studies.study import Baseline, Measured, StudyRun


def evaluate_words(model: Measured, measure: Measure) -> tuple[str, ...]:
    """Return the words after `hbdist` of the command that evaluates this model on this measure."""
    if isinstance(model, Baseline):
        settings = model.model
        words = ["evaluate", settings.name, "--pooling", settings.pooling]
        words += ["--query-prefix", settings.query_prefix, "--document-prefix", settings.document_prefix]
        if settings.language_token != "keep":
            words += ["--language-token", settings.language_token]
        if settings.language_token == "fixed":
            words += ["--fixed-language", settings.fixed_language]
    else:
        words = ["evaluate", str(model.folder / "model")]
    words += ["--task", measure.task, "--out", str(model.evaluation(measure))]
    words += ["--data", measure.data] if measure.data else []
    words += ["--languages", ",".join(measure.languages)] if measure.languages else []
    words += ["--questions", str(measure.questions)] if measure.questions else []
    return tuple(words)


def train_words(run: StudyRun) -> tuple[str, ...]:
    """Return the words after `hbdist` of the command that trains or resumes this run by the config in its folder."""
    return ("train", str(run.folder / "config.toml"))
