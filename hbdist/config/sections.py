"""Sections of a config: every key with its type, bounds and default, and a docstring that is its line in `--help`."""

from typing import Annotated, Literal, assert_never

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from hbdist.utils.paths import check_path

Location = Annotated[str, AfterValidator(check_path)]
"""Path, address, or name that may be a path."""
MOST = 2**31 - 1
"""Largest number of things that are in memory at once: pairs, tokens, processes."""
LAST_STEP = 999_999_999
"""Largest number of steps: checkpoints are named by nine digits, and sorted by name."""


class Section(BaseModel):
    """Base of all sections: frozen, without unknown keys, infinities and NaNs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class RunSection(Section):
    """`[run]`: the folder and its logs."""

    folder: Location = ""
    """Folder of the run; empty: runs/NAME, followed by what differs from the config file."""
    log_batches: bool = False
    """Also write batches.jsonl: the ids of every global batch."""
    trackers: tuple[str, ...] = ()
    """Trackers to log to as well, by their names in accelerate: tensorboard, wandb, trackio …"""


class DataSection(Section):
    """`[data]`: the shards to train on."""

    shards: Location
    """Folder of built shards (the one with manifest.json), or its address: s3://, gs:// or https://."""
    languages: tuple[str, ...] = ()
    """Languages of the mixture; empty: all in the manifest."""
    datasets: tuple[str, ...] = ()
    """Datasets of the mixture; empty: all in the manifest."""
    on_error: Literal["stop", "skip"] = "stop"
    """A pair that cannot be read stops the run, or is left out of its batch and counted ("skipped" in the log)."""
    cache_gb: float = Field(50.0, gt=0)
    """Gigabytes of remote shards (s3://, gs://, https://) kept in $HBDIST_CACHE/shards (~/.cache/hbdist/shards)."""
    workers: int = Field(0, ge=0, le=1024)
    """Processes per rank that read and tokenise ahead; 0: the training process does it itself."""
    timeout_s: float = Field(600.0, gt=0)
    """Seconds without a batch from the workers after which the run ends and says what they do."""

    @property
    def skips_errors(self) -> bool:
        """True if a pair that cannot be read is left out of its batch."""
        match self.on_error:
            case "stop":
                return False
            case "skip":
                return True
            case _:
                assert_never(self.on_error)


class ModelSection(Section):
    """`[model]`: the encoder."""

    name: Location
    """Model name on Hugging Face, or folder of a model (also with 4-bit weights, such as models/me5-small-demo)."""
    pooling: Literal["mean", "cls"] = "mean"
    """Pooling of token vectors into one: their mean over the attention mask, or the first token's vector."""
    query_prefix: str = "query: "
    """Text put before every query."""
    document_prefix: str = "passage: "
    """Text put before every document."""
    max_query_tokens: int = Field(64, ge=4, le=MOST)
    """Tokens after which a query is cut; the log counts the cut ones."""
    max_document_tokens: int = Field(256, ge=4, le=MOST)
    """Tokens after which a document is cut; the log counts the cut ones."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout during training; unset: as in the model's own config."""
    language_token: Literal["keep", "fixed", "drop"] = "keep"
    """M2M100 and NLLB: the token of each text's own language, the token of fixed_language for all, or none."""
    fixed_language: str = "en"
    """Language of all language tokens with language_token = "fixed"."""
    trust_remote_code: bool = False
    """Run code that comes with the model (auto_map in its config.json). It can do anything that you can: read it first."""


class BatchSection(Section):
    """`[batch]`: the composition of global batches."""

    size: int = Field(ge=1, le=MOST)
    """Pairs in the global batch: those of one optimizer step on all ranks together."""
    mono_share: float = Field(0.5, ge=0, le=1)
    """α: share of monolingual batches (mix = "step") or of monolingual pairs in each batch ("blocks")."""
    mix: Literal["step", "blocks"] = "step"
    """"step": a global batch is entirely mono- or cross-lingual; "blocks": each contains both."""
    mono_block: Literal["batch"] | int = "batch"
    """Number of monolingual pairs that share one language, or "batch": all of the step's."""
    cross_block: Literal["batch"] | int = 1
    """Number of cross-lingual pairs that share one language pair (1: each draws its own), or "batch"."""
    negatives: Literal["global", "block"] = "global"
    """Documents that a query is scored against: those of the whole global batch, or of its own block."""
    language_exponent: float = Field(0.0, ge=0, le=10)
    """Exponent x of the weight of a language (pair), ∝ pairs^x: 0 uniform, 1 by size."""
    dataset_exponent: float = Field(1.0, ge=0, le=10)
    """Exponent x of the weight of a dataset within its language (pair), ∝ pairs^x."""
    dataset_sizes: tuple[Annotated[str, Field(pattern=r"^[^=]+=[0-9]+(\.[0-9]+)?(e[0-9]{1,2})?$")], ...] = ()
    """Numbers that stand for the pairs of datasets in their weights, such as published ones: "mmarco=39780811"."""
    one_dataset: bool = False
    """Draw the dataset once per block instead of once per pair."""
    small_pool: Literal["refuse", "repeat"] = "refuse"
    """A language (pair) with fewer pairs than its block: refuse it, or repeat pairs (masked and counted)."""

    @property
    def own_block_only(self) -> bool:
        """True if a query is scored against the documents of its own block alone."""
        match self.negatives:
            case "block":
                return True
            case "global":
                return False
            case _:
                assert_never(self.negatives)

    @property
    def may_repeat(self) -> bool:
        """True if a pool smaller than its block repeats pairs, instead of being refused."""
        match self.small_pool:
            case "repeat":
                return True
            case "refuse":
                return False
            case _:
                assert_never(self.small_pool)


class LossSection(Section):
    """`[loss]`: the contrastive loss."""

    temperature: float = Field(0.05, gt=0)
    """τ, by which cosines are divided."""
    learn_temperature: bool = False
    """Train τ as a parameter that starts at loss.temperature."""
    margin: float | None = Field(None, ge=0)
    """Mask documents that score higher than the query's own by more than this, as likely false negatives; unset: none."""
    symmetric: bool = False
    """Average the query → document loss with the document → query loss."""
    hard_negatives: int = Field(0, ge=0, le=MOST)
    """Hard negatives per pair, drawn from those in the data; positions left empty are masked."""
    chunk_tokens: int = Field(8192, ge=1, le=MOST)
    """Most tokens, including padding, in one forward pass; affects memory and speed, and which units dropout drops."""
    gradient_cache: Literal["auto", "always", "never"] = "auto"
    """Encode in two passes, with the memory of one chunk: only if one pass would not fit, always, or never."""


class OptimizerSection(Section):
    """`[optimizer]`: AdamW and its schedule."""

    lr: float = Field(2e-5, gt=0)
    """Highest learning rate of AdamW."""
    weight_decay: float = Field(0.01, ge=0)
    """Decay of weight matrices; biases and layer norms have none."""
    warmup_steps: int = Field(0, ge=0, le=LAST_STEP)
    """Steps over which the learning rate rises to lr."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Learning rate after the warm-up: constant, or falling to zero at the last step."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Norm to which longer gradients are scaled down; 0: never."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """A gradient with infinities or NaNs stops the run, or its update is left out (grad_norm is NaN in the log)."""


class PeriodicSection(Section):
    """Base of the sections of measurements that are repeated during training."""

    every: int = Field(0, ge=0)

    def due(self, step: int, *, last: int) -> bool:
        """Check that the measurement is made after update `step`, counted from 1, of a run of `last` updates."""
        return bool(self.every and step) and (step % self.every == 0 or step == last)


class ValidationSection(PeriodicSection):
    """`[validation]`: the loss on held-out pairs."""

    every: int = Field(0, ge=0)
    """Steps between validations, with one more at the end; 0: none."""
    shards: tuple[Location, ...] = ()
    """Folders of held-out shards, the deciding one first; empty: those held out by the recipe of data.shards."""
    batch_size: int = Field(256, ge=2, le=MOST)
    """Pairs per validation batch."""
    batches: int = Field(8, ge=1, le=MOST)
    """Batches per folder, the same ones every time."""
    patience: int = Field(0, ge=0)
    """Validations without a lower loss after which training stops; 0: never."""
    keep: Literal["last", "best"] = "last"
    """Model to export: the last step's, or the one with the lowest validation loss."""

    @property
    def keeps_best(self) -> bool:
        """True if the model with the lowest validation loss is exported, not the last one."""
        match self.keep:
            case "best":
                return True
            case "last":
                return False
            case _:
                assert_never(self.keep)


class EvaluationSection(PeriodicSection):
    """`[evaluation]`: retrieval tasks during training."""

    every: int = Field(0, ge=0)
    """Steps between evaluations on retrieval tasks during training, with one more at the end; 0: none."""
    tasks: tuple[Location, ...] = Field(("xquad-r",), min_length=1)
    """Tasks to evaluate on, as for `hbdist evaluate --task`."""
    data: tuple[Location, ...] = ()
    """Folders of the tasks' files, in the order of evaluation.tasks; "" or none: where `hbdist data fetch` puts them."""
    languages: tuple[str, ...] = ()
    """Languages to keep, in queries and candidates; empty: all."""
    questions: int | None = Field(None, ge=1)
    """Queries to keep per language, against all candidates; unset: all."""
    metric: str = ""
    """Score that selects the exported model: "multilingual.map" of the first task, or "mlqa-r:monolingual.map"."""
    patience: int = Field(0, ge=0)
    """Evaluations without a better evaluation.metric after which training stops; 0: never."""


class CheckpointSection(Section):
    """`[checkpoint]`: when to save, and how many to keep."""

    every: int = Field(500, ge=1)
    """Steps between checkpoints; one more is always written at the end and on interruption."""
    keep: int = Field(2, ge=1)
    """Number of newest checkpoints to keep."""

    def due(self, step: int) -> bool:
        """Check that a checkpoint is written after update `step`, counted from 1."""
        return step % self.every == 0


class EngineSection(Section):
    """`[engine]`: precision, DeepSpeed, device and the time-out of ranks."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of forward and backward passes; parameters, gradients and moments stay in fp32."""
    deepspeed: Location = ""
    """DeepSpeed's JSON, such as launch/deepspeed/zero2.json; empty: the one that the launcher names, or none."""
    device: Literal["auto", "cpu"] = "auto"
    """"auto": each rank computes on a GPU of its own, or all on CPUs where there is no GPU; "cpu": on CPUs in any case."""
    timeout_s: float = Field(60.0, ge=1)
    """Seconds after which a rank that does not come, does not connect or gives no sign of life ends the run."""

    @property
    def bf16(self) -> bool:
        """True if forward and backward passes are in bfloat16."""
        match self.precision:
            case "bf16":
                return True
            case "fp32":
                return False
            case _:
                assert_never(self.precision)
