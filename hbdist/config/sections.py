"""The sections of a config: every key, its type, its bounds, its default, and a docstring that is its line in `--help`."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class RunSection(Section):
    folder: str = ""
    """Where the run lives; empty: runs/NAME, followed by what differs from the config file."""
    log_batches: bool = False
    """Also write batches.jsonl: the ids of every global batch."""
    trackers: tuple[str, ...] = ()
    """Also log to these, as accelerate names them: tensorboard, wandb, trackio …"""


class DataSection(Section):
    shards: str
    """Folder of built shards (the one that holds manifest.json), or its address: s3://, gs:// or https://."""
    languages: tuple[str, ...] = ()
    """Languages of the mixture; empty: all that the manifest has."""
    datasets: tuple[str, ...] = ()
    """Datasets of the mixture; empty: all that the manifest has."""
    on_error: Literal["stop", "skip"] = "stop"
    """A pair that cannot be read stops the run, or is left out of its batch and counted ("skipped" in the log)."""
    cache_gb: float = Field(50.0, gt=0)
    """Gigabytes of remote shards (s3://, gs://, https://) kept in $HBDIST_CACHE/shards (~/.cache/hbdist/shards)."""
    workers: int = Field(0, ge=0)
    """Processes a rank that read and tokenise ahead; 0: in the training process itself."""


class ModelSection(Section):
    name: str
    """A Hugging Face name, or a folder of a model (also one with 4-bit weights, as models/me5-small-demo)."""
    pooling: Literal["mean", "cls"] = "mean"
    """How token vectors become one: their mean over the attention mask, or the first token's."""
    query_prefix: str = "query: "
    """Text put before every query."""
    document_prefix: str = "passage: "
    """Text put before every document."""
    max_query_tokens: int = Field(64, ge=4)
    """Longer queries are cut; how many were is in the log."""
    max_document_tokens: int = Field(256, ge=4)
    """Longer documents are cut; how many were is in the log."""
    dropout: float | None = Field(None, ge=0, lt=1)
    """Dropout while training; unset: as the model's own config has it."""
    language_token: Literal["keep", "fixed", "drop"] = "keep"
    """M2M100 and NLLB: the token of each text's own language, the token of fixed_language for all, or none."""
    fixed_language: str = "en"
    """The language of all tokens where language_token = "fixed"."""


class BatchSection(Section):
    size: int = Field(ge=1)
    """Pairs in the global batch: those of one optimizer step over all ranks."""
    mono_share: float = Field(0.5, ge=0, le=1)
    """α, the share of monolingual batches (mix = "step") or of monolingual pairs in each batch ("blocks")."""
    mix: Literal["step", "blocks"] = "step"
    """"step": a global batch is wholly mono- or cross-lingual; "blocks": each holds both."""
    mono_block: Literal["batch"] | int = "batch"
    """Monolingual pairs that share one language: "batch" (all of the step's), or a number."""
    cross_block: Literal["batch"] | int = 1
    """Cross-lingual pairs that share one language pair: 1 (each draws its own), "batch", or a number."""
    negatives: Literal["global", "block"] = "global"
    """The documents a query is scored against: the whole global batch's, or its own block's."""
    language_exponent: float = Field(0.0, ge=0)
    """Weight of a language (pair) ∝ pairs^x: 0 uniform, 1 by size."""
    dataset_exponent: float = Field(1.0, ge=0)
    """Weight of a dataset within its language (pair) ∝ pairs^x."""
    one_dataset: bool = False
    """Draw the dataset once a block instead of once a pair."""
    small_pool: Literal["refuse", "repeat"] = "refuse"
    """A language (pair) with fewer pairs than its block: refuse it, or repeat pairs (masked, counted)."""


class LossSection(Section):
    temperature: float = Field(0.05, gt=0)
    """τ: cosines are divided by it."""
    learn_temperature: bool = False
    """τ is a parameter that starts at loss.temperature."""
    margin: float | None = Field(None, ge=0)
    """Mask as likely false negatives what scores above a query's own document by more than this; unset: nothing."""
    symmetric: bool = False
    """Average the query → document loss with the document → query loss."""
    hard_negatives: int = Field(0, ge=0)
    """Hard negatives used per pair, drawn from those the data has; places left empty are masked."""
    chunk_tokens: int = Field(8192, ge=1)
    """Most tokens, padding included, of one forward pass; a matter of memory and speed only."""
    gradient_cache: Literal["auto", "always", "never"] = "auto"
    """Encode in two passes, with the memory of one chunk: when one pass would not fit, always, or never."""


class OptimizerSection(Section):
    lr: float = Field(2e-5, gt=0)
    """Highest learning rate of AdamW."""
    weight_decay: float = Field(0.01, ge=0)
    """Decay of weight matrices; biases and layer norms have none."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises to lr."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """How it goes on after that: stays, or falls to zero at the last step."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients longer than this are scaled down to it; 0: never."""


class ValidationSection(Section):
    every: int = Field(0, ge=0)
    """Steps between validations, and one at the end; 0: none."""
    shards: tuple[str, ...] = ()
    """Folders of held-out shards, the deciding one first; empty: what the recipe of data.shards held out."""
    batch_size: int = Field(256, ge=2)
    """Pairs of a validation batch."""
    batches: int = Field(8, ge=1)
    """Batches of each folder, the same ones every time."""
    patience: int = Field(0, ge=0)
    """Stop after so many validations without a lower loss; 0: never."""
    keep: Literal["last", "best"] = "last"
    """The model that is exported: the last step's, or that of the lowest validation loss."""

    def due(self, step: int, *, last: int) -> bool:
        """The model is validated after update `step`, counted from 1, of a run of `last`."""
        return _due(self.every, step, last)


class EvaluationSection(Section):
    every: int = Field(0, ge=0)
    """Steps between evaluations of the model in training on retrieval tasks, and one at the end; 0: none."""
    tasks: tuple[str, ...] = Field(("xquad-r",), min_length=1)
    """What it is evaluated on, as `hbdist evaluate --task` names it."""
    data: tuple[str, ...] = ()
    """Folders of the tasks' files, in the order of evaluation.tasks; "" or none: where `hbdist data fetch` puts them."""
    languages: tuple[str, ...] = ()
    """Keep only these, in queries and candidates; empty: all."""
    questions: int | None = Field(None, ge=1)
    """Keep this many a language, against all candidates; unset: all."""
    metric: str = ""
    """Score by which the exported model is chosen: "multilingual.map" of the first task, or "mlqa-r:monolingual.map"."""
    patience: int = Field(0, ge=0)
    """Stop after so many evaluations without a better evaluation.metric; 0: never."""

    def due(self, step: int, *, last: int) -> bool:
        """The model is evaluated after update `step`, counted from 1, of a run of `last`."""
        return _due(self.every, step, last)


class CheckpointSection(Section):
    every: int = Field(500, ge=1)
    """Steps between checkpoints; one is always written at the end and on interruption."""
    keep: int = Field(2, ge=1)
    """Newest checkpoints that are kept."""

    def due(self, step: int) -> bool:
        """A checkpoint is written after update `step`, counted from 1."""
        return step % self.every == 0


class EngineSection(Section):
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the forward and backward pass; parameters, their gradients and moments stay in fp32."""
    deepspeed: str = ""
    """DeepSpeed's JSON, such as launch/deepspeed/zero2.json; empty: the one that the launcher names, or none."""


def _due(every: int, step: int, last: int) -> bool:
    return bool(every and step) and (step % every == 0 or step == last)
