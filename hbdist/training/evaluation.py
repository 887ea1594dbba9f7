"""Evaluation of the model in training, on all ranks that train it: the scores that `hbdist evaluate` would give its export.

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
from torch import nn

from hbdist.config.config import Config
from hbdist.config.criterion import Criterion
from hbdist.config.sections import EvaluationSection
from hbdist.distributed.engine import Engine
from hbdist.distributed.process_group import ProcessGroup
from hbdist.errors import ConfigError, HbdistError
from hbdist.evaluation.evaluate import evaluate
from hbdist.evaluation.metrics.summary import language_numbers, relevant_languages
from hbdist.evaluation.output import write_scores
from hbdist.evaluation.scores import SETTINGS
from hbdist.evaluation.tasks.registry import load_task
from hbdist.evaluation.tasks.task import NO_CANDIDATE, RetrievalTask
from hbdist.models.backbone import position_limit
from hbdist.models.encoder import MOST_TOKENS, Encoder, encoding_chunk_tokens
from hbdist.models.tokenizer import TextKind, Tokenize, make_chunks, pad

BIAS = ("rank_distance", "same_language_share@10")
"""What a line of evaluation.jsonl has of the bias measures."""


class Evaluations:
    """The tasks of a run, on every rank. Without `evaluation.every` there are none.

    Raises:
        ConfigError: a task, a cut, a language or the score that decides is not known.
        DataError: the files of a task are missing or damaged.
    """

    def __init__(self, config: Config, encoder: Encoder, engine: Engine) -> None:
        self.config, self.encoder, self.engine = config, encoder, engine
        self.criterion = Criterion.of(config)
        self.tasks = load_tasks(config.evaluation) if config.evaluation.every else {}
        for task in self.tasks.values():
            encoder.tokenize.check(task.languages)
        self.ranks = ProcessGroup.of_training() if self.tasks else ProcessGroup()
        if self.criterion and self.criterion.task:
            there = score_names(self.tasks[self.criterion.task])
            if self.criterion.metric not in there:
                raise ConfigError(
                    f"evaluation.metric = {self.config.evaluation.metric!r}: {self.criterion.task}, as it is cut here, has no"
                    f" {self.criterion.metric}. It has {', '.join(there)}."
                )

    def __call__(self, name: str, model: nn.Module, step: int) -> dict[str, Any]:
        """A line of evaluation.jsonl: the main scores on a task after update `step`. All of them are in
        evaluation/step-STEP/TASK/scores.json of the run's folder. A collective.

        Args:
            name: of the task.
            model: as the engine prepared it. It is in training again afterwards.

        Raises:
            FloatingPointError: a vector is not finite.
        """
        started, task, folder = perf_counter(), self.tasks[name], Path(self.config.run.folder)
        encoder = InTraining(model, self.encoder, self.engine)
        model.eval()
        try:
            found = evaluate(encoder, task, model=f"{folder} after step {step}", ranks=self.ranks)
        finally:
            model.train()
        chosen_on = self.criterion.task if self.criterion else ""
        scores = found.scores | {"chosen_on": chosen_on or None}
        if self.ranks.is_main:
            out = folder / "evaluation" / f"step-{step:06d}" / folder_name(task)
            write_scores(out, replace(found, scores=scores), task)
        return {
            "step": step,
            "task": name,
            "task_fingerprint": task.fingerprint,
            **{setting: scores[setting] for setting in SETTINGS},
            "bias": scores["bias"] and {key: scores["bias"][key] for key in BIAS if key in scores["bias"]},
            "truncated": int(self.ranks.all_reduce_sum(np.array([encoder.cut]))[0]),
            "seconds": perf_counter() - started,
        }

    def know(self, line: Mapping[str, Any]) -> bool:
        """Whether a line of evaluation.jsonl is of one of these tasks, cut as it is now."""
        task = self.tasks.get(line["task"])
        return task is not None and task.fingerprint == line["task_fingerprint"]


class InTraining:
    """The model in training as an encoder of texts, as `Encoder.encode` is one of a model that is loaded for use.

    Each rank encodes texts of its own, and all call `encode` equally often. Where they meet in every forward pass, a rank
    with fewer of them makes up the number with idle ones.
    """

    def __init__(self, model: nn.Module, encoder: Encoder, engine: Engine) -> None:
        self.model, self.engine, self.dimensions = model, engine, encoder.dimensions
        # As `hbdist evaluate` cuts texts, which may be longer than those of the training.
        most = min(MOST_TOKENS, position_limit(encoder.backbone) or MOST_TOKENS)
        longest = {"max_query_tokens": most, "max_document_tokens": most}
        self.tokenize = Tokenize(encoder.tokenize.tokenizer, encoder.settings.model_copy(update=longest))
        self.cut = 0
        """Texts of this rank that were cut, until now."""

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        kind: TextKind,
        *,
        languages: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Unit vectors of texts in the order given: float32 [N, D]. A collective.

        Raises:
            FloatingPointError: a vector of any rank is not finite.
        """
        ids, cut = self.tokenize(texts, kind, languages)
        self.cut += cut
        chunks = make_chunks(ids, encoding_chunk_tokens(self.engine.device))
        idle = self.engine.all_reduce_max(len(chunks)) - len(chunks) if self.engine.lockstep else 0
        vector_ND = np.empty((len(texts), self.dimensions), dtype=np.float32)
        done = 0
        for chunk in chunks:
            vector_ND[chunk] = self._forward([ids[place] for place in chunk])
            done += len(chunk)
            if progress:
                progress(done, len(texts))
        for _ in range(idle):
            self._forward([[self.tokenize.pad_token_id]])
        if self.engine.any_rank(not np.isfinite(vector_ND).all()):
            raise FloatingPointError(
                "the model gives vectors that are not finite. A lower optimizer.lr, more optimizer.warmup_steps or a higher"
                " loss.temperature usually helps."
            )
        return vector_ND

    def _forward(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        input_ids_BL, attention_mask_BL = pad(ids, self.tokenize.pad_token_id)
        device = self.engine.device
        vector_BD = self.model(input_ids_BL.to(device), attention_mask_BL.to(device))[0]
        return np.asarray(vector_BD.float().cpu().numpy())


def load_tasks(settings: EvaluationSection) -> dict[str, RetrievalTask]:
    """The tasks by the names that the config gives them, cut as it says.

    Raises:
        ConfigError: a name or a cut is not known, or names and folders do not go together.
        DataError: a folder does not hold its task.
    """
    names, folders = settings.tasks, settings.data or ("",) * len(settings.tasks)
    if len(folders) != len(names):
        raise ConfigError(
            f"evaluation.data has {len(folders)} folders and evaluation.tasks {len(names)} tasks: {', '.join(names)}. Give"
            ' one a task, "" where it need not be said, or none at all.'
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
    """The scores of a task by which a model can be chosen, as "multilingual.map"."""
    there_QR = task.relevant != NO_CANDIDATE
    own_QR = relevant_languages(task) == language_numbers(task.query_slices)[:, None]
    has = {
        "monolingual": (there_QR & own_QR).any(),
        "cross_lingual": (there_QR & ~own_QR).any(),
        "multilingual": True,
    }
    names = [f"{setting}.{metric}" for setting in task.settings if has[setting] for metric in task.metrics]
    pooled = "multilingual" in task.settings and len(task.languages) > 1
    return names + ["bias.rank_distance"] * bool(pooled and (there_QR.sum(axis=1) > 1).any())


def folder_name(task: RetrievalTask) -> str:
    """The folder of a task's scores: its name, without what a path cannot hold."""
    return re.sub(r"[^\w.+-]", "-", task.name)


def in_words(line: Mapping[str, Any]) -> str:
    """A line of evaluation.jsonl for people: its first metric in each setting."""
    scored = {setting: line[setting] for setting in SETTINGS if line[setting]}
    metric = next(iter(next(iter(scored.values()))))
    parts = ", ".join(f"{setting.replace('_', '-')} {values[metric]:.4f}" for setting, values in scored.items())
    cut = f"; {line['truncated']:,} texts were cut" if line["truncated"] else ""
    return f"evaluation after step {line['step']}: {line['task']} {metric}: {parts} ({line['seconds']:.0f} s{cut})"


def tracked(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line for trackers, as "evaluation/xquad-r/multilingual.map"."""
    return {
        f"evaluation/{line['task']}/{section}.{name}": value
        for section in (*SETTINGS, "bias")
        for name, value in (line[section] or {}).items()
    }
