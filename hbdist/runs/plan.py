"""Plan of a run: its arithmetic, computed, checked and printed before anything is loaded."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, StrictUndefined, Template

from hbdist.config.config import Config
from hbdist.config.criterion import Criterion
from hbdist.data.batching.held_out import HeldOutSet, load_held_out
from hbdist.data.batching.mixture import Mixture
from hbdist.data.batching.schedule import Schedule
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError
from hbdist.evaluation.scores import describe_cut
from hbdist.models.parameter_count import count_parameters
from hbdist.utils.json_toml import read_text

TEMPLATE = Path(__file__).parent / "templates" / "plan.txt"


@dataclass(frozen=True)
class Plan:
    """Arithmetic of a run: pairs, languages, epochs, communication."""

    config: Config
    mixture: Mixture
    ranks: int
    data_pairs: int
    """Pairs in the groups of the mixture."""
    data_groups: int
    fingerprint: str
    zero: Zero | None = None
    """Settings of DeepSpeed; None without it."""
    parameters: int | None = None
    """Number of the model's parameters; None if its files are not on this machine."""
    held_out: tuple[HeldOutSet, ...] = ()
    """Held-out sets of the validation."""

    @classmethod
    def of(cls, config: Config, manifest: Manifest, *, ranks: int = 1, zero: Zero | None = None) -> "Plan":
        """Make the plan of this config on these shards with this many ranks.

        Raises:
            ConfigError: the batch is impossible, or has fewer pairs than there are ranks, in training or in validation; or
                the number that selects the best step is never measured.
            DataError: held-out shards cannot be read.
        """
        Criterion.of(config)
        if ranks > config.batch.size:
            raise ConfigError(
                f"batch.size = {config.batch.size} is less than the {ranks} ranks: some would have no pair."
                f" Set batch.size to {ranks} or more, or use fewer ranks."
            )
        mixture = Schedule.of(config, manifest).mixture
        held_out = tuple(load_held_out(config, ranks=ranks))
        pools = [pool for kind in mixture.kinds for pool in kind.pools]
        pairs, groups = sum(pool.size for pool in pools), sum(len(pool.groups) for pool in pools)
        parameters = count_parameters(config.model.name)
        return cls(config, mixture, ranks, pairs, groups, manifest.fingerprint, zero, parameters, held_out)

    @property
    def total_pairs(self) -> int:
        """Number of pairs in the whole run."""
        return self.config.steps * self.config.batch.size

    @property
    def most_chunks(self) -> int:
        """Number of forward passes per step on one rank, if all texts have the greatest length."""
        config, pairs = self.config, -(-self.config.batch.size // self.ranks)
        documents = pairs * (1 + config.loss.hard_negatives)
        texts = ((pairs, config.model.max_query_tokens), (documents, config.model.max_document_tokens))
        return sum(-(-count // max(1, config.loss.chunk_tokens // longest)) for count, longest in texts)

    @property
    def other_candidates(self) -> int:
        """Greatest number of documents that a query is scored against besides its own."""
        batch = self.config.batch
        in_block = max(kind.part if kind.block == 1 else kind.block for kind in self.mixture.kinds)
        return (in_block if batch.own_block_only else batch.size) * (1 + self.config.loss.hard_negatives) - 1

    def text(self) -> str:
        """Return the plan as a few lines of text. Gradients, whose bytes it states, are in float32."""
        config, evaluation = self.config, self.config.evaluation
        used = {code for kind in self.mixture.kinds for pool in kind.pools for code in pool.pair.split("-")}
        cut = {"languages": evaluation.languages, "questions": evaluation.questions}
        text = _template().render(
            plan=self,
            config=config,
            criterion=Criterion.of(config),
            absent=[code for code in config.data.languages if code not in used],
            cut=describe_cut({key: value for key, value in cut.items() if value}),
        )
        return f"{text}\n"


@cache
def _template() -> Template:
    templates = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    templates.filters["as"] = format
    return templates.from_string(read_text(TEMPLATE))
