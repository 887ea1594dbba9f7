"""Plan of a run: its arithmetic, computed, checked and printed before anything is loaded."""

from dataclasses import dataclass

from hbdist.config.config import Config
from hbdist.config.criterion import Criterion
from hbdist.data.batching.mixture import Kind, Mixture, plan_mixture
from hbdist.data.shards.manifest import Manifest
from hbdist.distributed.zero import Zero
from hbdist.errors import ConfigError
from hbdist.evaluation.scores import describe_cut
from hbdist.models.parameter_count import count_parameters


@dataclass(frozen=True)
class Plan:
    """Arithmetic of a run: pairs, languages, epochs, communication."""

    config: Config
    mixture: Mixture
    ranks: int
    data_pairs: int
    """Pairs in the groups of the mixture."""
    data_groups: int
    """Number of groups in the mixture."""
    fingerprint: str
    """Fingerprint of the manifest."""
    zero: Zero | None = None
    """Settings of DeepSpeed; None without it."""
    parameters: int | None = None
    """Number of the model's parameters; None if its files are not on this machine."""

    @classmethod
    def of(cls, config: Config, manifest: Manifest, *, ranks: int = 1, zero: Zero | None = None) -> "Plan":
        """Make the plan of this config on these shards with this many ranks.

        Raises:
            ConfigError: the batch is impossible, or has fewer pairs than there are ranks; or the number that selects the best
                step is never measured.
        """
        Criterion.of(config)
        if ranks > config.batch.size:
            raise ConfigError(
                f"batch.size = {config.batch.size} is less than the {ranks} ranks: some would have no pair."
                f" Set batch.size to {ranks} or more, or use fewer ranks."
            )
        mixture = plan_mixture(manifest.groups, config.batch, config.data)
        pools = [pool for kind in mixture.kinds for pool in kind.pools]
        return cls(
            config,
            mixture,
            ranks,
            data_pairs=sum(pool.size for pool in pools),
            data_groups=sum(len(pool.groups) for pool in pools),
            fingerprint=manifest.fingerprint,
            zero=zero,
            parameters=count_parameters(config.model.name),
        )

    @property
    def total_pairs(self) -> int:
        """Number of pairs in the whole run."""
        return self.config.steps * self.config.batch.size

    def text(self) -> str:
        """Return the plan as a few lines of text."""
        return "\n".join([self._batch(), *map(self._kind, self.mixture.kinds), *self._warnings(), *self._rest()]) + "\n"

    def _batch(self) -> str:
        size, (least, rest) = self.config.batch.size, divmod(self.config.batch.size, self.ranks)
        share = f"{least}" if not rest else f"{least} or {least + 1}"
        return f"global batch   {size:,} pairs per step on {self.ranks} rank{'s' * (self.ranks > 1)}: {share} per rank"

    def _kind(self, kind: Kind) -> str:
        unit = "steps" if self.mixture.mix == "step" else "pairs of each batch"
        what = "languages" if kind.name == "mono" else "language pairs"
        if kind.block == 1:
            blocks = "each pair draws its own"
        elif kind.block == kind.part:
            blocks = "one for the whole batch"
        else:
            blocks = f"blocks of {kind.block} pairs share one"
        pools = ", ".join(pool.pair for pool in kind.pools[:9]) + (" …" if len(kind.pools) > 9 else "")
        return f"  {kind.name:<5} {kind.share:>6.1%} of the {unit}; {len(kind.pools)} {what}, {blocks}: {pools}"

    def _warnings(self) -> list[str]:
        used = {code for kind in self.mixture.kinds for pool in kind.pools for code in pool.pair.split("-")}
        absent = [code for code in self.config.data.languages if code not in used]
        lines = [f"  in no batch: {', '.join(absent)} (the mixture's datasets have no such pairs)"] if absent else []
        if self.mixture.small:
            lines.append(f"  repeats: fewer pairs than a block, so repeated in it: {', '.join(self.mixture.small)}")
        return lines

    @property
    def most_chunks(self) -> int:
        """Number of forward passes per step on one rank, if all texts have the greatest length."""
        config, pairs = self.config, -(-self.config.batch.size // self.ranks)
        texts = (
            (pairs, config.model.max_query_tokens),
            (pairs * (1 + config.loss.hard_negatives), config.model.max_document_tokens),
        )
        return sum(-(-count // max(1, config.loss.chunk_tokens // longest)) for count, longest in texts)

    def _engine(self) -> list[str]:
        who = f"{self.zero} ({self.zero.path})" if self.zero else "DDP" if self.ranks > 1 else "one process"
        lines = [f"engine         {who}, {self.config.engine.precision}; {self._reductions()}"]
        if self.zero and self.zero.every_backward_reduces and self.ranks > 1 and self.most_chunks > 2:
            instead = "A smaller" if self.zero.stage == 2 else "Where its parameters fit, a smaller"
            lines.append(
                f"               {instead} stage (launch/accelerate/zero1.yaml) sends gradients once per step;"
                " a larger loss.chunk_tokens makes fewer passes"
            )
        return lines

    def _reductions(self) -> str:
        """Return how often gradients are reduced in a step, and how many bytes that is (all are in float32)."""
        if self.ranks == 1:
            return "no gradients are sent"
        if not (self.zero and self.zero.every_backward_reduces):
            return f"gradients are reduced once per step, {self._bytes(1)}"
        also = "; parameters are gathered in each forward and backward pass" if self.zero.stage == 3 else ""
        return (
            f"gradients are reduced once per step if the activations fit ({self._bytes(1)}), else in each of up to"
            f" {self.most_chunks:,} backward passes ({self._bytes(self.most_chunks)}){also}"
        )

    def _bytes(self, times: int) -> str:
        size = 4 * times
        return f"{size * self.parameters / 1e9:,.2f} GB" if self.parameters else f"{size:,} bytes per parameter"

    def _rest(self) -> list[str]:
        config, optimizer = self.config, self.config.optimizer
        in_scope = max(kind.part if kind.block == 1 else kind.block for kind in self.mixture.kinds)
        in_scope = in_scope if config.batch.negatives == "block" else config.batch.size
        others = in_scope * (1 + config.loss.hard_negatives) - 1
        scope = "of its own block" if config.batch.negatives == "block" else "of the global batch"
        epochs = self.total_pairs / self.data_pairs
        after = {"constant": "constant", "linear": "then linearly to 0", "cosine": "then along a cosine to 0"}
        return [
            f"candidates     1 document of its own and up to {others:,} others {scope} for each query; the same item,"
            " passage or text is masked",
            f"loss           InfoNCE{', symmetric' * config.loss.symmetric}, temperature {config.loss.temperature:g};"
            f" forward passes of at most {config.loss.chunk_tokens:,} tokens",
            *self._engine(),
            f"data           {self.data_pairs:,} pairs in {self.data_groups} groups, manifest {self.fingerprint[:12]}",
            f"run            {config.steps:,} steps = {self.total_pairs:,} pairs = {epochs:.2f} × the data, seed {config.seed}",
            f"learning rate  {optimizer.lr:g}, {optimizer.warmup_steps} steps of warm-up, {after[optimizer.schedule]}"
            + " (never reached: the run is shorter)" * (optimizer.warmup_steps > config.steps),
            *self._measuring(),
            f"folder         {config.run.folder}",
        ]

    def _measuring(self) -> list[str]:
        """Return the lines on validation, evaluation and what they decide."""
        validation, evaluation, criterion = self.config.validation, self.config.evaluation, Criterion.of(self.config)
        lines = []
        if validation.every:
            lines.append(f"validation     every {validation.every:,} steps and at the end")
        if evaluation.every:
            cut = {"languages": evaluation.languages, "questions": evaluation.questions}
            what = f"{', '.join(evaluation.tasks)}; {describe_cut({key: value for key, value in cut.items() if value})}"
            lines.append(f"evaluation     every {evaluation.every:,} steps and at the end: {what}")
        if criterion and criterion.exported:
            lines.append(f"exported       the model {criterion.label}")
        if criterion and criterion.patience:
            lines.append(f"early stopping after {criterion.patience:,} measurements without a better one")
        return lines
