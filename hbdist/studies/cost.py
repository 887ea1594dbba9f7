"""What a study would take on so many GPUs: a model, from formulas and stated assumptions. Nothing is loaded or measured.

W GPUs · P pairs of one GPU · Ψ parameters
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hbdist.config.config import Config
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError
from hbdist.launch.resources import Resources
from hbdist.memory.arithmetic import bytes_of_parameters, gradient_traffic, loss_traffic, score_bytes, vector_bytes
from hbdist.models.parameter_count import count_parameters
from hbdist.studies.schema import Assumptions
from hbdist.studies.study import StudyRun, StudySpec

GPUS_PER_NODE = 8
"""Where the study's [resources] do not say it."""
TITLES = (
    *("GPUs", "nodes", "pairs/GPU", "GB/GPU", "loss GB/step", "gradient GB/step"),
    *("s/step", "hours a run", "GPU-hours"),
)


@dataclass(frozen=True)
class Cost:
    """One run on W GPUs. Bytes are of one GPU."""

    config: Config
    gpus: int
    parameters: int | None
    """Ψ; None where it is not known."""
    dimensions: int | None
    assumed: Assumptions
    zero: Zero | None = None

    @classmethod
    def of(cls, config: Config, gpus: int, assumed: Assumptions) -> "Cost":
        """Of this config, its model's sizes from its files or from what is assumed.

        Raises:
            ConfigError: the DeepSpeed file is wrong.
        """
        name, zero = config.model.name, Zero.load(config.engine.deepspeed) if config.engine.deepspeed else None
        parameters = _parameters(name) or assumed.parameters.get(name)
        return cls(config, gpus, parameters, _dimensions(name) or assumed.dimensions.get(name), assumed, zero)

    @property
    def pairs_a_gpu(self) -> int:
        """P, of the GPU that has the most."""
        return -(-self.config.batch.size // self.gpus)

    @property
    def tokens_a_pair(self) -> float:
        model = self.config.model
        most = model.max_query_tokens + model.max_document_tokens * (1 + self.config.loss.hard_negatives)
        return self.assumed.tokens_per_pair or most

    @property
    def tokens_a_gpu(self) -> float:
        """Of a step."""
        return self.pairs_a_gpu * self.tokens_a_pair

    @property
    def chunks(self) -> int:
        """Pieces that a step is encoded in: queries and documents are cut apart, so one more than all tokens would fill."""
        return 1 + math.ceil(self.tokens_a_gpu / self.config.loss.chunk_tokens)

    @property
    def two_passes(self) -> bool:
        """With the gradient cache; "auto" is taken to need it where there are more tokens than in two chunks."""
        asked = self.config.loss.gradient_cache
        return asked == "always" or (asked == "auto" and self.tokens_a_gpu > 2 * self.config.loss.chunk_tokens)

    @property
    def loss_bytes(self) -> int | None:
        """Received for the loss in a step."""
        if self.dimensions is None:
            return None
        return loss_traffic(
            self.pairs_a_gpu,
            self.config.batch.size,
            self.dimensions,
            ranks=self.gpus,
            hard_negatives=self.config.loss.hard_negatives,
            vector_bytes=2 if self.config.engine.precision == "bf16" else 4,
            symmetric=self.config.loss.symmetric,
        )

    @property
    def gradient_bytes(self) -> float | None:
        """Received for gradients and parameters in a step."""
        if self.parameters is None:
            return None
        stage = self.zero.stage if self.zero else 0
        return gradient_traffic(
            self.parameters, ranks=self.gpus, stage=stage, chunks=self.chunks, two_passes=self.two_passes
        )

    @property
    def wire_bytes(self) -> float | None:
        """Received in a step."""
        if self.loss_bytes is None or self.gradient_bytes is None:
            return None
        return self.loss_bytes + self.gradient_bytes

    @property
    def memory(self) -> dict[str, float] | None:
        """Bytes by what they are for, as `hbdist plan --fit` counts them; without libraries and what backward takes beside."""
        if self.parameters is None or self.dimensions is None:
            return None
        with_negatives = 1 + self.config.loss.hard_negatives
        texts, documents = self.pairs_a_gpu * (1 + with_negatives), self.config.batch.size * with_negatives
        kept = min(self.config.loss.chunk_tokens, self.tokens_a_gpu) if self.two_passes else self.tokens_a_gpu
        return {
            **bytes_of_parameters(self.parameters, ranks=self.gpus, zero=self.zero),
            "activations": kept * (self.assumed.activation_bytes or 0),
            "vectors and their gradients": vector_bytes(texts, documents, self.dimensions, ranks=self.gpus),
            "scores of the loss": score_bytes(self.pairs_a_gpu, documents),
        }

    @property
    def step_seconds(self) -> float | None:
        """Computing, then receiving, with nothing done at the same time."""
        if self.assumed.tokens_per_second is None:
            return None
        rate, received = self.assumed.gigabytes_per_second, self.wire_bytes
        if rate and received is None:
            return None
        moving = received / (rate * 1e9) if rate and received else 0.0
        return self.tokens_a_gpu / self.assumed.tokens_per_second + moving

    @property
    def gpu_hours(self) -> float | None:
        """Of the whole run."""
        seconds = self.step_seconds
        return None if seconds is None else seconds * self.config.steps * self.gpus / 3600


def plan_text(study: StudySpec, gpus: Sequence[int] = (), tokens_per_second: float | None = None) -> str:
    """The plan of a study for people: its runs, and what each kind of them takes on each number of GPUs.

    Args:
        gpus: instead of those that the study's [plan] names.
        tokens_per_second: of one GPU, instead of what [plan] assumes.

    Raises:
        ConfigError: a number of GPUs is below 1, or [resources] or a DeepSpeed file is wrong.
    """
    assumed = study.file.plan
    if tokens_per_second:
        assumed = assumed.model_copy(update={"tokens_per_second": tokens_per_second})
    counts = tuple(gpus) or assumed.gpus
    if min(counts, default=0) < 1:
        raise ConfigError(
            f"{len(counts)} numbers of GPUs: {', '.join(map(str, counts)) or 'none'}. A run needs at least one: give"
            " --gpus 8,64,512, or gpus = [8, 64, 512] in [plan]."
        )
    per_node = _gpus_per_node(study)
    kinds = _kinds(study.runs)
    costs = {kind: [Cost.of(runs[0].config, number, assumed) for number in counts] for kind, runs in kinds.items()}
    lines = [*_opening(study, assumed, per_node), ""]
    for kind, runs in kinds.items():
        lines += [_heading(runs), _line(TITLES), *(_row(cost, per_node, len(runs)) for cost in costs[kind]), ""]
    lines += _totals(counts, list(kinds.values()), list(costs.values()))
    return "\n".join(lines) + "\n"


def _kinds(runs: Sequence[StudyRun]) -> dict[str, list[StudyRun]]:
    """Runs that cost the same, together."""
    together: dict[str, list[StudyRun]] = {}
    for run in runs:
        config, model = run.config, run.config.model
        decides = (config.batch.size, config.steps, model.name, model.max_query_tokens, model.max_document_tokens)
        key = str((*decides, config.loss, config.engine))
        together.setdefault(key, []).append(run)
    return together


def _gpus_per_node(study: StudySpec) -> int:
    asked = {key: value for key, value in study.file.resources.items() if key != "at_once"}
    return Resources.read(asked, source=f"{study.path}, [resources]").gpus_per_node or GPUS_PER_NODE


@cache
def _parameters(name: str) -> int | None:
    return count_parameters(name)


@cache
def _dimensions(name: str) -> int | None:
    path = Path(name, "config.json")
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return values.get("hidden_size") or values.get("d_model")


def _opening(study: StudySpec, assumed: Assumptions, per_node: int) -> list[str]:
    points = len(study.points())
    measured = ", ".join(measure.name for measure in study.measures)
    rate = f"{assumed.tokens_per_second:,.0f} tokens/s a GPU" if assumed.tokens_per_second else "no speed, so no times"
    wire = (
        f"{assumed.gigabytes_per_second:g} GB/s into a GPU"
        if assumed.gigabytes_per_second
        else "data that move in no time"
    )
    length = f"{assumed.tokens_per_pair:g} tokens a pair" if assumed.tokens_per_pair else "texts as long as they may be"
    kept = (
        f"{assumed.activation_bytes / 1e6:g} MB of activations a token"
        if assumed.activation_bytes
        else "no activations"
    )
    return [
        f"{study.name}: {study.question}",
        f"{len(study.runs):,} runs: {points} points × seeds {', '.join(map(str, study.seeds))}; then evaluated on {measured}",
        "A model, not a measurement: formulas (docs/studies.md says what they were held against), and assumed are",
        f"  {rate}; {wire}; {per_node} GPUs a node; {length}; {kept} in memory.",
        "  Nothing overlaps; evaluation is not counted.",
        *_unused(study, assumed),
    ]


def _unused(study: StudySpec, assumed: Assumptions) -> list[str]:
    """What [plan] says of models that no run has: a misspelt name would go unnoticed."""
    models = {run.config.model.name for run in study.runs}
    strange = sorted({*assumed.parameters, *assumed.dimensions} - models)
    if not strange:
        return []
    return [f"  [plan] has {', '.join(strange)}, which no run trains; there is {', '.join(sorted(models))}."]


def _heading(runs: Sequence[StudyRun]) -> str:
    config = runs[0].config
    engine = f", {config.engine.deepspeed}" if config.engine.deepspeed else ""
    return (
        f"{len(runs)} run{'s' * (len(runs) > 1)} of {config.steps:,} steps × {config.batch.size:,} pairs ="
        f" {config.steps * config.batch.size:,} pairs; {config.model.name}, {config.engine.precision}{engine}"
    )


def _line(cells: Sequence[str]) -> str:
    return "  ".join(f"{cell:>{max(8, len(title))}}" for cell, title in zip(cells, TITLES, strict=False))


def _row(cost: Cost, per_node: int, runs: int) -> str:
    cells = [f"{cost.gpus:,}", f"{-(-cost.gpus // per_node):,}"]
    if cost.gpus > cost.config.batch.size:
        return _line(cells) + "  fewer pairs than GPUs"
    memory, seconds, hours = cost.memory, cost.step_seconds, cost.gpu_hours
    cells += [
        f"{cost.pairs_a_gpu:,}",
        _number(None if memory is None else sum(memory.values()) / 1e9),
        _number(None if cost.loss_bytes is None else cost.loss_bytes / 1e9),
        _number(None if cost.gradient_bytes is None else cost.gradient_bytes / 1e9),
        _number(seconds),
        _number(None if hours is None else hours / cost.gpus),
        _number(None if hours is None else hours * runs),
    ]
    return _line(cells)


def _number(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _totals(counts: Sequence[int], kinds: Sequence[Sequence[StudyRun]], costs: Sequence[Sequence[Cost]]) -> list[str]:
    lines = []
    for place, number in enumerate(counts):
        hours = [
            (cost[place].gpu_hours, len(runs))
            for runs, cost in zip(kinds, costs, strict=True)
            if number <= cost[place].config.batch.size
        ]
        left_out = sum(len(runs) for runs in kinds) - sum(count for _, count in hours)
        known = [each * count for each, count in hours if each is not None]
        if known and len(known) == len(hours):
            without = f" without {left_out} runs of fewer pairs than GPUs" if left_out else ""
            lines.append(f"all runs on {number:,} GPUs each: {_number(sum(known))} GPU-hours{without}")
    unknown = sorted({cost.config.model.name for row in costs for cost in row if cost.memory is None})
    if unknown:
        lines.append(
            f"? not known: parameters or dimensions of {', '.join(unknown)}. Write them into [plan] of the study."
        )
    return lines
