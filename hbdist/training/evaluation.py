"""Evaluation of the model in training, on all ranks that train it, with the scores `hbdist evaluate` gives its export.

B texts of one forward pass · D dimensions · N texts in all · Q queries · R relevant candidates of a query, padded
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hbdist.config.config import Config
from hbdist.config.criterion import Criterion
from hbdist.config.sections import EvaluationSection
from hbdist.distributed.engine import Engine
from hbdist.distributed.process_group import ProcessGroup
from hbdist.errors import ConfigError, HbdistError, NotFiniteError
from hbdist.evaluation.evaluate import evaluate
from hbdist.evaluation.metrics.summary import language_numbers, relevant_languages
from hbdist.evaluation.output import write_scores
from hbdist.evaluation.scores import SETTINGS
from hbdist.evaluation.tasks.registry import load_task
from hbdist.evaluation.tasks.task import NO_CANDIDATE, RetrievalTask
from hbdist.models.encoder import Encoder, encode_ids, encoding_chunk_tokens, exported_length
from hbdist.models.tokenizer import TextKind, Tokenize, make_chunks, pad

BIAS = ("rank_distance", "same_language_share@10")
"""Bias measures in a line of evaluation.jsonl."""


class TrainingEvaluation:
    """Evaluation tasks of a run, on every rank; none unless `evaluation.every` is set.

    Raises:
        ConfigError: a task, a cut, a language or the deciding score is not known.
        DataError: a task's files are missing or damaged.
    """

    def __init__(self, config: Config, encoder: Encoder, engine: Engine) -> None:
        self.config, self.encoder, self.engine = config, encoder, engine
        self.criterion = Criterion.of(config)
        self.tasks = load_tasks(config.evaluation) if config.evaluation.every else {}
        for task in self.tasks.values():
            encoder.tokenize.check(task.languages)
        self.ranks = ProcessGroup.of_training(on_cpu=engine.device.type == "cpu") if self.tasks else ProcessGroup()
        if self.criterion and self.criterion.task:
            names = score_names(self.tasks[self.criterion.task])
            if self.criterion.metric not in names:
                raise ConfigError(
                    f"evaluation.metric = {self.config.evaluation.metric!r}: {self.criterion.task}, as cut here, has no"
                    f" {self.criterion.metric}. It has {', '.join(names)}."
                )

    def measure(self, name: str, model: nn.Module, step: int) -> dict[str, Any]:
        """Return a line of evaluation.jsonl: the main scores on a task after update `step`. A collective.

        All scores are written to evaluation/step-STEP/TASK/scores.json in the run's folder. The model is the one returned by
        `Engine.prepare`, and is in training mode again afterwards.

        Raises:
            NotFiniteError: a vector is not finite.
        """
        started, task, folder = perf_counter(), self.tasks[name], Path(self.config.run.folder)
        encoder = TrainingEncoder(model, self.encoder, self.engine)
        model.eval()
        try:
            result = evaluate(
                encoder,
                task,
                model=f"{folder} after step {step}",
                max_tokens=dict.fromkeys(("query", "document"), encoder.max_tokens),
                ranks=self.ranks,
            )
        finally:
            model.train()
        scores = result.scores | {"chosen_on": (self.criterion.task or None) if self.criterion else None}
        if self.ranks.is_main:
            out = folder / "evaluation" / f"step-{step:06d}" / folder_name(task)
            write_scores(out, replace(result, scores=scores), task)
        return {
            "step": step,
            "task": name,
            "task_fingerprint": task.fingerprint,
            **{setting: scores[setting] for setting in SETTINGS},
            "bias": scores["bias"] and {key: scores["bias"][key] for key in BIAS if key in scores["bias"]},
            "truncated": int(self.ranks.all_reduce_sum(np.array([encoder.cut]))[0]),
            "seconds": perf_counter() - started,
        }

    def covers(self, line: Mapping[str, Any]) -> bool:
        """Return True if a line of evaluation.jsonl is about one of these tasks, with the same cuts as now."""
        task = self.tasks.get(line["task"])
        return task is not None and task.fingerprint == line["task_fingerprint"]


class TrainingEncoder:
    """Text encoder that uses the model in training, with the interface of `Encoder.encode`.

    Each rank encodes texts of its own, and all call `encode` equally often. If ranks run in lockstep, a rank with fewer
    forward passes makes up the number with filler passes.
    """

    def __init__(self, model: nn.Module, encoder: Encoder, engine: Engine) -> None:
        self.model, self.engine, self.dimensions = model, engine, encoder.dimensions
        # Texts are cut as in the exported model, where a query may be as long as a document.
        self.max_tokens = exported_length(encoder.settings)
        limits = {"max_query_tokens": self.max_tokens, "max_document_tokens": self.max_tokens}
        self.tokenize = Tokenize(encoder.tokenize.tokenizer, encoder.settings.model_copy(update=limits))
        self.cut = 0
        """Number of this rank's texts that have been cut so far."""

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        kind: TextKind,
        *,
        languages: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Return the unit vectors of texts, in their order: float32 [N, D]. A collective.

        Raises:
            NotFiniteError: a vector of any rank is not finite.
        """
        ids, cut = self.tokenize(texts, kind, languages)
        self.cut += cut
        pad_id, device = self.tokenize.pad_token_id, self.engine.device
        passes = len(make_chunks(ids, encoding_chunk_tokens(device)))
        fillers = self.engine.all_reduce_max(passes) - passes if self.engine.lockstep else 0
        embedding_ND = encode_ids(
            self._forward, ids, pad_id, dimensions=self.dimensions, device=device, progress=progress
        )
        for _ in range(fillers):
            self._forward(*(tensor.to(device) for tensor in pad([[pad_id]], pad_id)))
        if self.engine.any_rank(not np.isfinite(embedding_ND).all()):
            raise NotFiniteError(
                "the model gives vectors that are not finite. A lower optimizer.lr, more optimizer.warmup_steps or a higher"
                " loss.temperature usually helps."
            )
        return embedding_ND

    def _forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        embedding_BD: Tensor = self.model(input_ids_BL, attention_mask_BL)[0]
        return embedding_BD


def load_tasks(settings: EvaluationSection) -> dict[str, RetrievalTask]:
    """Return the tasks by the names in the config, with the config's cuts.

    Raises:
        ConfigError: a name or a cut is not known, or names and folders do not match.
        DataError: a folder does not contain its task.
    """
    names, folders = settings.tasks, settings.data or ("",) * len(settings.tasks)
    if len(folders) != len(names):
        raise ConfigError(
            f"evaluation.data has {len(folders)} folders and evaluation.tasks {len(names)} tasks: {', '.join(names)}. Give"
            ' one folder per task, "" for a task that needs none, or no folders at all.'
        )
    tasks: dict[str, RetrievalTask] = {}
    for name, folder in zip(names, folders, strict=True):
        try:
            task = load_task(name, Path(folder) if folder else None, languages=settings.languages)
            task = task.cut(languages=settings.languages, questions=settings.questions)
        except HbdistError as error:
            raise type(error)(f"evaluation.tasks names {name}. {error}") from None
        if any(folder_name(task) == folder_name(other) for other in tasks.values()):
            raise ConfigError(
                f"evaluation.tasks names two tasks whose scores would go to one folder, {folder_name(task)}. Name each once,"
                " or rename the folder of one."
            )
        tasks[name] = task
    return tasks


def score_names(task: RetrievalTask) -> list[str]:
    """Return the scores of a task by which a model can be selected, as "multilingual.map"."""
    is_relevant_QR = task.relevant != NO_CANDIDATE
    same_language_QR = relevant_languages(task) == language_numbers(task.query_slices)[:, None]
    has = {
        "monolingual": (is_relevant_QR & same_language_QR).any(),
        "cross_lingual": (is_relevant_QR & ~same_language_QR).any(),
        "multilingual": True,
    }
    names = [f"{setting}.{metric}" for setting in task.settings if has[setting] for metric in task.metrics]
    pooled = "multilingual" in task.settings and len(task.languages) > 1
    return names + ["bias.rank_distance"] * bool(pooled and (is_relevant_QR.sum(axis=1) > 1).any())


def folder_name(task: RetrievalTask) -> str:
    """Return the folder of a task's scores: its name, without characters that a path cannot contain."""
    return re.sub(r"[^\w.+-]", "-", task.name)


def describe_evaluation(line: Mapping[str, Any]) -> str:
    """Return a line of evaluation.jsonl in words: its first metric in each setting."""
    scored = {setting: line[setting] for setting in SETTINGS if line[setting]}
    metric = next(iter(next(iter(scored.values()))))
    parts = ", ".join(f"{setting.replace('_', '-')} {values[metric]:.4f}" for setting, values in scored.items())
    cut = f"; {line['truncated']:,} texts were cut" if line["truncated"] else ""
    return f"evaluation after step {line['step']}: {line['task']} {metric}: {parts} ({line['seconds']:.0f} s{cut})"


def tracker_values(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line for trackers, named as "evaluation/xquad-r/multilingual.map"."""
    return {
        f"evaluation/{line['task']}/{section}.{name}": value
        for section in (*SETTINGS, "bias")
        for name, value in (line[section] or {}).items()
    }
