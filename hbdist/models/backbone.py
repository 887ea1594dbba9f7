"""The Hugging Face model inside an encoder: loading it without the parts that encoding texts does not need."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError, DataError, HbdistError
from hbdist.models.pretrained import first_line, incomplete, quiet

DROPOUT_KEYS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "activation_dropout"),
    *("embedding_dropout", "mlp_dropout"),
)
"""Names of dropout probabilities in the configs of the supported model families."""
UNUSED = ("pooler.", "decoder.")
"""Prefixes of weights that encoding a text does not use."""


def load_backbone(settings: ModelSection, source: str) -> tuple[Any, Any]:
    """Return a model in float32 and its tokenizer; of M2M100 and NLLB, the encoder without the decoder.

    `source` is the folder with the files of `settings.name`, or its name on the hub.

    Raises:
        ConfigError: a setting does not fit the model.
        DataError: the model does not exist, or its files are damaged.
    """
    with quiet():
        try:
            backbone, tokenizer, unusable = _read(settings, source)
        except HbdistError:
            raise
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            exported = Path(settings.name) / "model"
            remedy = (
                f"It is the folder of a run: use its model, {exported}."
                if (exported / "config.json").is_file()
                else "Give the name of a model on the Hugging Face hub, or the path of a folder that holds config.json,"
                " weights and a tokenizer."
            )
            raise DataError(f"model.name = {settings.name!r} cannot be loaded: {first_line(error)} {remedy}") from None
    if unusable:
        raise incomplete(f"model.name = {settings.name!r}", unusable)
    if tokenizer.pad_token_id is None:
        raise DataError(
            f"model.name = {settings.name!r} has a tokenizer without a padding token. Use an encoder model."
        )
    # An unused pooler gets no gradient, which DDP and ZeRO treat as an error.
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    limit = position_limit(backbone)
    for key in ("max_query_tokens", "max_document_tokens"):
        if limit is not None and getattr(settings, key) > limit:
            raise ConfigError(
                f"model.{key} = {getattr(settings, key)}, but {settings.name} has positions for {limit} tokens. Set"
                f" model.{key} to {limit} or less."
            )
    return backbone, tokenizer


def _read(settings: ModelSection, source: str) -> tuple[Any, Any, list[str]]:
    """Return the model, its tokenizer, and the needed weights that are missing or have another shape."""
    config = AutoConfig.from_pretrained(source)
    if config.is_encoder_decoder and config.model_type != "m2m_100":
        raise ConfigError(
            f"model.name = {settings.name!r} is a {config.model_type} model, which has an encoder and a decoder. The only"
            " supported ones are M2M100 and NLLB: use one of them, or a model that is only an encoder."
        )
    _set_dropout(config, settings.dropout)
    tokenizer = AutoTokenizer.from_pretrained(source)
    encoder_only = "M2M100Encoder" in (config.architectures or ())
    backbone, loading = (M2M100Encoder if encoder_only else AutoModel).from_pretrained(
        source,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the caller refuses them by name
    )
    unusable = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    if config.is_encoder_decoder and not encoder_only:
        backbone = backbone.get_encoder()
    return backbone, tokenizer, [key for key in unusable if not key.startswith(UNUSED)]


def position_limit(backbone: nn.Module) -> int | None:
    """Return the most tokens of a text, or None if the model computes its position embeddings, as M2M100 does."""
    limits = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in backbone.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    return min(limits, default=None)


def read_position_limit(source: str) -> int | None:
    """Return `position_limit` by a model's config alone; None also if there is no such config."""
    try:
        with quiet(), torch.device("meta"):
            return position_limit(AutoModel.from_config(AutoConfig.from_pretrained(source)))
    except (OSError, ValueError):
        return None  # loading the model reports the error


def _set_dropout(config: Any, dropout: float | None) -> None:
    if getattr(config, "encoder_layerdrop", 0):
        # A skipped layer gets no gradient, which DDP and ZeRO treat as an error.
        config.encoder_layerdrop = 0.0
    if dropout is None:
        return
    keys = [key for key in DROPOUT_KEYS if hasattr(config, key)]
    if not keys:
        raise ConfigError(
            f"model.dropout = {dropout}, but the config of {config.model_type} models has none of the supported dropout"
            f" keys ({', '.join(DROPOUT_KEYS)}). Leave model.dropout unset, or set dropout in the model's own config.json."
        )
    for key in keys:
        setattr(config, key, dropout)
