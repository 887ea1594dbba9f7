"""Content of a model's JSON files, those of sentence-transformers and ours, checked when it is read.

Only the keys that change vectors are named. A file may have others, and a key may be null: both are as if it were absent.
"""

from collections.abc import Callable, Collection
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

TRANSFORMER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""Names that versions of sentence-transformers gave the settings of a Transformer module."""
FEWEST, LONGEST = 4, 1_000_000
"""Bounds of the number of tokens that a text may have; tokenizers without a limit say 10^30."""


class SavedFile(BaseModel):
    """Base of the files."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, content: Any) -> Any:
        return {key: one for key, one in content.items() if one is not None} if isinstance(content, dict) else content

    @classmethod
    def parse(cls, content: Any, refuse: Callable[[str], Exception]) -> Self:
        """Return the checked content; `refuse` makes the error from the first fault."""
        if not isinstance(content, dict):
            raise refuse(f"it contains a {type(content).__name__}, not an object")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            fault = error.errors()[0]
            key = ".".join(map(str, fault["loc"]))
            raise refuse(f"{key + ': ' if key else ''}{fault['msg']}, found {fault['input']!r:.60}") from None


class ModuleEntry(SavedFile):
    """Entry of modules.json."""

    type: str
    path: str = ""

    @property
    def kind(self) -> str:
        """The module's class."""
        return self.type.rpartition(".")[2]

    @property
    def label(self) -> str:
        """The module's class, with the package that it comes from if that is not sentence-transformers."""
        return self.kind if self.type.startswith("sentence_transformers.") else self.type

    def is_known(self, kinds: Collection[str]) -> bool:
        """Check that the module is one of sentence-transformers' own, of one of these kinds."""
        return self.label in kinds


class PoolingFile(SavedFile):
    """Settings of a Pooling module: 1_Pooling/config.json."""

    mode: str | None = None
    """Mode of pooling, or several joined by "+"; None if none is named."""
    include_prompt: bool = True

    @model_validator(mode="before")
    @classmethod
    def _read_mode(cls, content: Any) -> Any:
        """Read the mode as all versions write it: older ones have a flag per mode, such as pooling_mode_cls_token."""
        if not isinstance(content, dict):
            return content
        named = content.get("pooling_mode") or [
            key.removeprefix("pooling_mode_").removesuffix("s").removesuffix("_token")
            for key, on in content.items()
            if key.startswith("pooling_mode_") and on
        ]
        mode = "+".join(map(str, named)) if isinstance(named, list) else named
        return {key: one for key, one in content.items() if key != "mode"} | {"mode": mode or None}


class UsageFile(SavedFile):
    """Settings of the whole model: config_sentence_transformers.json."""

    prompts: dict[str, str] = {}
    similarity_fn_name: str | None = None
    truncate_dim: int | None = Field(None, ge=1)

    @field_validator("prompts", mode="before")
    @classmethod
    def _empty_nulls(cls, prompts: Any) -> Any:
        return (
            {key: "" if one is None else one for key, one in prompts.items()} if isinstance(prompts, dict) else prompts
        )

    @property
    def prefixes(self) -> tuple[str, str]:
        """Prefixes of queries and documents. A model without prompts was trained without prefixes."""
        document = (self.prompts[key] for key in ("document", "passage", "corpus") if key in self.prompts)
        return self.prompts.get("query", ""), next(document, "")


class TransformerFile(SavedFile):
    """Settings of a Transformer module: sentence_bert_config.json."""

    max_seq_length: int | None = Field(None, ge=FEWEST)
    query_length: int | None = Field(None, ge=FEWEST)
    document_length: int | None = Field(None, ge=FEWEST)
    do_lower_case: bool = False
    transformer_task: str = "feature-extraction"
    query_expansion: Any = None
    processing_kwargs: dict[str, Any] = {}


class TokenizerFile(SavedFile):
    """The part of tokenizer_config.json that decides how many tokens a text may have."""

    model_max_length: float | None = None

    @property
    def length(self) -> int | None:
        """Number of tokens, or None if there is no limit."""
        most = self.model_max_length
        return int(most) if most and FEWEST <= most <= LONGEST else None


class OwnFile(SavedFile):
    """Settings that the files of sentence-transformers cannot express: hbdist.json."""

    language_token: str | None = None
    fixed_language: str | None = None
