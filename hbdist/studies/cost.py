"""Cost of a study on any number of GPUs: a model of formulas and stated assumptions, which loads and measures nothing.

W GPUs · P pairs per GPU · Ψ parameters
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import assert_never

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from hbdist.config.config import Config
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError
from hbdist.launch.resources import Resources
from hbdist.loss.shapes import score_bytes, vector_bytes
from hbdist.memory.arithmetic import bytes_of_parameters, gradient_traffic, loss_traffic
from hbdist.models.parameter_count import count_parameters
from hbdist.studies.schema import Assumptions
from hbdist.studies.study import StudyRun, StudySpec
from hbdist.utils.json_toml import read_json_object

GPUS_PER_NODE = 8
"""GPUs per node if the study's [resources] do not give the number."""
TITLES = (
    *("GPUs", "nodes", "pairs/GPU", "GB/GPU", "loss GB/step", "gradient GB/step"),
    *("s/step", "hours/run", "GPU-hours"),
)


@dataclass(frozen=True)
class Cost:
    """Cost of one run on W GPUs. Bytes are those of one GPU."""

    config: Config
    gpus: int
    parameters: int | None
    """Number of parameters Ψ; None if it is not known."""
    dimensions: int | None
    assumed: Assumptions
    zero: Zero | None = None

    @classmethod
    def of(cls, config: Config, gpus: int, assumed: Assumptions) -> "Cost":
        """Return the cost of a config, with its model's sizes from its files or else from the assumptions.

        Raises:
            ConfigError: the DeepSpeed file is wrong.
        """
        name, zero = config.model.name, Zero.load(config.engine.deepspeed) if config.engine.deepspeed else None
        parameters = _parameters(name) or assumed.parameters.get(name)
        return cls(config, gpus, parameters, _dimensions(name) or assumed.dimensions.get(name), assumed, zero)

    @property
    def pairs_per_gpu(self) -> int:
        """Number of pairs P of the GPU that has the most."""
        return -(-self.config.batch.size // self.gpus)

    @property
    def tokens_per_pair(self) -> float:
        """Tokens of query and documents: assumed, or the most that the config allows."""
        model = self.config.model
        most = model.max_query_tokens + model.max_document_tokens * (1 + self.config.loss.hard_negatives)
        return self.assumed.tokens_per_pair or most

    @property
    def tokens_per_gpu(self) -> float:
        """Tokens per GPU and step."""
        return self.pairs_per_gpu * self.tokens_per_pair

    @property
    def chunks(self) -> int:
        """Number of chunks per step. Queries and documents are cut separately: one more than all tokens together fill."""
        return 1 + math.ceil(self.tokens_per_gpu / self.config.loss.chunk_tokens)

    @property
    def two_passes(self) -> bool:
        """True with the gradient cache, which "auto" is assumed to use if the tokens fill more than two chunks."""
        match self.config.loss.gradient_cache:
            case "always":
                return True
            case "never":
                return False
            case "auto":
                return self.tokens_per_gpu > 2 * self.config.loss.chunk_tokens
            case _:
                assert_never(self.config.loss.gradient_cache)

    @property
    def loss_bytes(self) -> int | None:
        """Bytes received for the loss per step."""
        if self.dimensions is None:
            return None
        return loss_traffic(
            self.pairs_per_gpu,
            self.config.batch.size,
            self.dimensions,
            ranks=self.gpus,
            hard_negatives=self.config.loss.hard_negatives,
            vector_bytes=2 if self.config.engine.bf16 else 4,
            symmetric=self.config.loss.symmetric,
        )

    @property
    def gradient_bytes(self) -> float | None:
        """Bytes received for gradients and parameters per step."""
        if self.parameters is None:
            return None
        stage = self.zero.stage if self.zero else 0
        return gradient_traffic(
            self.parameters, ranks=self.gpus, stage=stage, chunks=self.chunks, two_passes=self.two_passes
        )

    @property
    def wire_bytes(self) -> float | None:
        """Bytes received per step."""
        if self.loss_bytes is None or self.gradient_bytes is None:
            return None
        return self.loss_bytes + self.gradient_bytes

    @property
    def memory(self) -> dict[str, float] | None:
        """Bytes by purpose, as in `hbdist plan --fit`, without libraries and what the backward pass takes in addition."""
        if self.parameters is None or self.dimensions is None:
            return None
        with_negatives = 1 + self.config.loss.hard_negatives
        texts, documents = self.pairs_per_gpu * (1 + with_negatives), self.config.batch.size * with_negatives
        tokens = min(self.config.loss.chunk_tokens, self.tokens_per_gpu) if self.two_passes else self.tokens_per_gpu
        return {
            **bytes_of_parameters(self.parameters, ranks=self.gpus, zero=self.zero),
            "activations": tokens * (self.assumed.activation_bytes or 0),
            "vectors and their gradients": vector_bytes(texts, documents, self.dimensions, ranks=self.gpus),
            "scores of the loss": score_bytes(
                self.pairs_per_gpu,
                documents,
                margin=self.config.loss.margin is not None,
                on_cpu=False,
            ),
        }

    @property
    def step_seconds(self) -> float | None:
        """Seconds per step: computing, then receiving, without overlap."""
        if self.assumed.tokens_per_second is None:
            return None
        rate, received = self.assumed.gigabytes_per_second, self.wire_bytes
        if rate and received is None:
            return None
        transfer = received / (rate * 1e9) if rate and received else 0.0
        return self.tokens_per_gpu / self.assumed.tokens_per_second + transfer

    @property
    def gpu_hours(self) -> float | None:
        """GPU-hours of the whole run."""
        seconds = self.step_seconds
        return None if seconds is None else seconds * self.config.steps * self.gpus / 3600


@dataclass(frozen=True)
class Kind:
    """Runs of a study that cost the same, with their cost on each number of GPUs."""

    runs: list[StudyRun]
    costs: list[Cost]


def plan_text(study: StudySpec, gpus: Sequence[int] = (), tokens_per_second: float | None = None) -> str:
    """Return the plan of a study as text: its runs, and what each kind of them costs on each number of GPUs.

    Args:
        gpus: numbers of GPUs that replace those in [plan].
        tokens_per_second: speed of one GPU that replaces the one in [plan].

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
    resources = {key: value for key, value in study.file.resources.items() if key != "at_once"}
    per_node = Resources.read(resources, source=f"{study.path}, [resources]").gpus_per_node or GPUS_PER_NODE
    kinds = [Kind(runs, [Cost.of(runs[0].config, number, assumed) for number in counts]) for runs in _alike(study.runs)]
    models = {run.config.model.name for run in study.runs}
    return _template().render(
        study=study,
        assumed=assumed,
        per_node=per_node,
        models=models,
        # A misspelt name would go unnoticed.
        unused=sorted({*assumed.parameters, *assumed.dimensions} - models),
        kinds=kinds,
        titles=TITLES,
        line=_line,
        row=_row,
        totals=list(_totals(counts, kinds)),
        unknown=sorted({cost.config.model.name for kind in kinds for cost in kind.costs if cost.memory is None}),
    )


def _template() -> Template:
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["commas"] = "{:,}".format
    return environment.get_template("plan.txt")


def _alike(runs: Sequence[StudyRun]) -> list[list[StudyRun]]:
    """Return the runs grouped by cost."""
    groups: dict[str, list[StudyRun]] = {}
    for run in runs:
        config, model = run.config, run.config.model
        sizes = (config.batch.size, config.steps, model.name, model.max_query_tokens, model.max_document_tokens)
        groups.setdefault(str((*sizes, config.loss, config.engine)), []).append(run)
    return list(groups.values())


_parameters = cache(count_parameters)


@cache
def _dimensions(name: str) -> int | None:
    path = Path(name, "config.json")
    values = read_json_object(path, default={})
    return values.get("hidden_size") or values.get("d_model")


def _line(cells: Sequence[str]) -> str:
    return "  ".join(f"{cell:>{max(8, len(title))}}" for cell, title in zip(cells, TITLES, strict=False))


def _row(cost: Cost, per_node: int, runs: int) -> str:
    cells = [f"{cost.gpus:,}", f"{-(-cost.gpus // per_node):,}"]
    if cost.gpus > cost.config.batch.size:
        return _line(cells) + "  fewer pairs than GPUs"
    memory, hours = cost.memory, cost.gpu_hours
    gigabytes = (None if memory is None else sum(memory.values()), cost.loss_bytes, cost.gradient_bytes)
    cells += [f"{cost.pairs_per_gpu:,}", *(_number(size, unit=1e9) for size in gigabytes)]
    all_hours = None if hours is None else hours * runs
    return _line([*cells, _number(cost.step_seconds), _number(hours, unit=cost.gpus), _number(all_hours)])


def _number(value: float | None, unit: float = 1) -> str:
    if value is None:
        return "?"
    value /= unit
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _totals(counts: Sequence[int], kinds: Sequence[Kind]) -> Iterator[str]:
    for index, number in enumerate(counts):
        fitting = [kind for kind in kinds if number <= kind.costs[index].config.batch.size]
        hours = [(kind.costs[index].gpu_hours, len(kind.runs)) for kind in fitting]
        known = [each * runs for each, runs in hours if each is not None]
        if known and len(known) == len(hours):
            left_out = sum(len(kind.runs) for kind in kinds if kind not in fitting)
            without = f" without {left_out} runs of fewer pairs than GPUs" if left_out else ""
            yield f"all runs on {number:,} GPUs each: {_number(sum(known))} GPU-hours{without}"
