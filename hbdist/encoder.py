"""A Hugging Face encoder that turns texts into unit vectors: prefix, tokens, pooling, L2 norm.

B texts of one forward pass · L tokens, padded · D dimensions · N texts in all
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import cached_file
from transformers.utils import logging as hf_logging

from hbdist.errors import ConfigError, DataError, HbdistError
from hbdist.packed import unpack
from hbdist.sections import ModelSection

TextKind = Literal["query", "document"]
Pooling = Literal["mean", "cls"]


@dataclass(frozen=True)
class Tokenize:
    """Texts → token ids, as this model wants them. Holds no weights, so that data workers can have a copy."""

    tokenizer: Any
    settings: ModelSection

    def __call__(self, texts: Sequence[str], kind: TextKind) -> tuple[list[list[int]], int]:
        """Token ids of each text, prefix and special tokens included, and how many texts were cut to fit."""
        if not texts:
            return [], 0
        settings = self.settings
        prefix = settings.query_prefix if kind == "query" else settings.document_prefix
        limit = settings.max_query_tokens if kind == "query" else settings.max_document_tokens
        prefixed = [prefix + text for text in texts]
        # Cutting by the tokenizer keeps the special token at the end; one token more tells what was cut.
        ids = self.tokenizer(prefixed, truncation=True, max_length=limit + 1, return_attention_mask=False)["input_ids"]
        too_long = [place for place, one in enumerate(ids) if len(one) > limit]
        if too_long:
            shorter = self.tokenizer([prefixed[place] for place in too_long], truncation=True, max_length=limit)
            for place, one in zip(too_long, shorter["input_ids"], strict=True):
                ids[place] = one
        return ids, len(too_long)

    @property
    def pad_token_id(self) -> int:
        assert self.tokenizer.pad_token_id is not None, "a model without a padding token"
        return int(self.tokenizer.pad_token_id)


class Encoder(nn.Module):
    """Token ids → L2-normalised text vectors.

    The settings that make it what it is (pooling, prefixes) travel with it, from the config to the exported model and back.
    """

    def __init__(self, backbone: Any, tokenize: Tokenize) -> None:
        super().__init__()
        self.backbone: Any = backbone  # a module whose attributes differ by family
        self.tokenize = tokenize

    @property
    def settings(self) -> ModelSection:
        return self.tokenize.settings

    @classmethod
    def load(cls, settings: ModelSection) -> "Encoder":
        """The encoder of this name or folder, in float32; 4-bit weights are unpacked into a cache first.

        Raises:
            DataError: there is no such model, or its files are damaged.
        """
        source = str(unpack(Path(settings.name)) if Path(settings.name).is_dir() else settings.name)
        with _quiet():
            try:
                config = AutoConfig.from_pretrained(source)
                _set_dropout(config, settings.dropout)
                tokenizer = AutoTokenizer.from_pretrained(source)
                backbone, loading = AutoModel.from_pretrained(
                    source,
                    config=config,
                    dtype=torch.float32,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # they are refused below, by name
                )
            except HbdistError:
                raise
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                first = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise DataError(
                    f"model.name = {settings.name!r} cannot be loaded: {first} Give the name of a model on the Hugging"
                    " Face hub, or the path of a folder that holds config.json, weights and a tokenizer."
                ) from None
        _without_pooler(backbone)
        unfit = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
        missing = sorted(key for key in unfit if not key.startswith("pooler."))
        if missing:
            raise DataError(
                f"model.name = {settings.name!r} lacks {len(missing)} weights of its own architecture (or their shapes"
                f" differ), among them {missing[0]}: they would be random. Use a complete model."
            )
        if tokenizer.pad_token_id is None:
            raise DataError(
                f"model.name = {settings.name!r} has a tokenizer without a padding token. Use an encoder model."
            )
        return cls(backbone, Tokenize(tokenizer, settings))

    @classmethod
    def load_for_use(cls, settings: ModelSection) -> "Encoder":
        """As `load`, on the GPU where there is one, and not for training.

        Raises:
            DataError: there is no such model, or its files are damaged.
        """
        return cls.load(settings).to("cuda" if torch.cuda.is_available() else "cpu").eval()

    @property
    def dimensions(self) -> int:
        """D."""
        return int(self.backbone.config.hidden_size)

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """Unit vectors, [B, D]."""
        hidden_BLD = self.backbone(input_ids=input_ids_BL, attention_mask=attention_mask_BL).last_hidden_state
        return normalize(pool(hidden_BLD, attention_mask_BL, self.settings.pooling), dim=-1)

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], kind: TextKind, *, progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Unit vectors of texts in the order given: float32 [N, D]. For use outside training.

        Args:
            progress: called with (texts done, N) after every forward pass.
        """
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        ids, _ = self.tokenize(texts, kind)
        vectors_ND = np.empty((len(texts), self.dimensions), dtype=np.float32)
        done = 0
        for chunk in make_chunks(ids, ENCODE_TOKENS):
            input_ids_BL, attention_mask_BL = pad([ids[i] for i in chunk], self.tokenize.pad_token_id)
            vectors_ND[chunk] = self(input_ids_BL.to(device), attention_mask_BL.to(device)).float().cpu().numpy()
            done += len(chunk)
            if progress:
                progress(done, len(texts))
        self.train(was_training)
        return vectors_ND


ENCODE_TOKENS = 4096
"""Tokens of one forward pass in `encode`: large enough to keep cores busy, small enough for their caches."""


def pool(hidden_BLD: Tensor, attention_mask_BL: Tensor, pooling: Pooling) -> Tensor:
    """One vector a text, [B, D]: the mean of its tokens' vectors, or the first token's."""
    if pooling == "cls":
        return hidden_BLD[:, 0]
    weights_BL1 = attention_mask_BL.unsqueeze(-1).to(hidden_BLD.dtype)
    return (hidden_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1)


def pad(ids: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, and their attention mask: two int64 [B, L]."""
    longest = max(map(len, ids))
    input_ids_BL = torch.full((len(ids), longest), pad_token_id)
    attention_mask_BL = torch.zeros((len(ids), longest), dtype=torch.int64)
    for place, one in enumerate(ids):
        input_ids_BL[place, : len(one)] = torch.tensor(one)
        attention_mask_BL[place, : len(one)] = 1
    return input_ids_BL, attention_mask_BL


def make_chunks(ids: Sequence[Sequence[int]], chunk_tokens: int) -> list[list[int]]:
    """Places of the texts, sorted by length and cut so that a padded chunk has at most `chunk_tokens` tokens.

    A text longer than that is a chunk of its own. Texts of a chunk are about equally long, so padding is a few percent.
    """
    by_length = sorted(range(len(ids)), key=lambda place: (-len(ids[place]), place))
    chunks: list[list[int]] = []
    for place in by_length:
        if chunks and (len(chunks[-1]) + 1) * len(ids[chunks[-1][0]]) <= chunk_tokens:
            chunks[-1].append(place)
        else:
            chunks.append([place])
    return chunks


@dataclass(frozen=True)
class SavedSettings:
    """What a model folder says of its own use, in the files of sentence-transformers; None where it says nothing."""

    pooling: str | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None

    @classmethod
    def of(cls, name: str) -> "SavedSettings":
        """What the model of this name or folder says.

        Raises:
            ConfigError: it has a part that is not known here, such as a dense layer.
        """
        modules = [module["type"].split(".")[-1] for module in _saved_json(name, "modules.json") or []]
        unknown = sorted(set(modules) - {"Transformer", "Pooling", "Normalize"})
        if unknown:
            raise ConfigError(f"{name} has a {unknown[0]} module. Expected Transformer, Pooling and Normalize alone.")
        pooling = _saved_json(name, "1_Pooling/config.json") or {}
        modes = [  # older versions have a flag for each, as pooling_mode_cls_token or pooling_mode_mean_tokens
            key.removeprefix("pooling_mode_").removesuffix("s").removesuffix("_token")
            for key, on in pooling.items()
            if key.startswith("pooling_mode_") and on
        ]
        mode = pooling.get("pooling_mode") or "+".join(modes) or None
        use = _saved_json(name, "config_sentence_transformers.json")
        if use is None:
            return cls(mode)
        prompts = use.get("prompts", {})  # a model of sentence-transformers that names no prompts has none
        return cls(mode, prompts.get("query", ""), prompts.get("document", prompts.get("passage", "")))


def settings_of(name: str, **given: Any) -> ModelSection:
    """How to use the model of this name: what is given, else what its folder says of itself, else the defaults.

    Raises:
        ConfigError: it is to be pooled in a way that is not known here.
    """
    known: dict[str, Any] = {"max_query_tokens": 512, "max_document_tokens": 512}
    for source in (vars(SavedSettings.of(name)), given):
        known |= {key: value for key, value in source.items() if value is not None}
    if known.get("pooling", "mean") not in get_args(Pooling):
        raise ConfigError(
            f"{name} is to be pooled by {known['pooling']!r}. Expected one of {', '.join(get_args(Pooling))}."
        )
    return ModelSection(name=name, **known)


def _saved_json(name: str, file: str) -> Any:
    """A JSON file of a model's folder, or of the model of that name on the hub; None where there is none."""
    path = Path(name) / file
    if not Path(name).is_dir():
        with _quiet():
            found = cached_file(
                name,
                file,
                _raise_exceptions_for_gated_repo=False,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
        path = Path(found) if found else path
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


DROPOUT_KEYS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("dropout", "attention_dropout", "activation_dropout"),
    *("embedding_dropout", "mlp_dropout"),
)
"""What model families call their dropouts, in their configs."""


def _set_dropout(config: Any, dropout: float | None) -> None:
    if dropout is None:
        return
    known = [name for name in DROPOUT_KEYS if hasattr(config, name)]
    if not known:
        raise ConfigError(
            f"model.dropout = {dropout}: {config.model_type} models name their dropouts in a way that is not known here."
            " Leave model.dropout unset, or set them in the model's own config.json."
        )
    for name in known:
        setattr(config, name, dropout)


def _without_pooler(backbone: Any) -> None:
    # An unused pooler has no gradient, which DDP and ZeRO take for an error.
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports a missing pooler, which is not used here; what is missing otherwise is an error below."""
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
