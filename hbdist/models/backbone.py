"""The Hugging Face model inside an encoder: loading it without the parts that encoding texts does not need."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError, DataError, HbdistError
from hbdist.models.hub import cannot_load
from hbdist.models.pretrained import find_file, first_line, incomplete, join, quiet, source_of

DROPOUT_KEYS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "activation_dropout"),
    *("embedding_dropout", "mlp_dropout"),
)
"""Names of dropout probabilities in the configs of the supported model families."""
UNUSED = ("pooler.", "decoder.")
"""Prefixes of weights that encoding a text does not use."""
VOCABULARIES = ("tokenizer.json",)
"""Files that hold the vocabulary of any tokenizer, besides those that its class names."""


def load_backbone(settings: ModelSection, name: str) -> tuple[Any, Any]:
    """Return a model in float32 and its tokenizer; of M2M100 and NLLB, the encoder without the decoder.

    `name` is the folder with the files of `settings.name`, or its name on the hub.

    Raises:
        ConfigError: a setting does not fit the model.
        DataError: the model does not exist, or its files are damaged.
    """
    source, arguments = source_of(name)
    arguments |= {"trust_remote_code": settings.trust_remote_code}
    with quiet(), _refusing(settings.name):
        config = AutoConfig.from_pretrained(source, **arguments)
        if config.is_encoder_decoder and config.model_type != "m2m_100":
            raise ConfigError(
                f"model.name = {settings.name!r} is a {config.model_type} model, which has an encoder and a decoder. The only"
                " supported ones are M2M100 and NLLB: use one of them, or a model that is only an encoder."
            )
        _set_dropout(config, settings.dropout)
        tokenizer = load_tokenizer(settings.name, source, arguments)
        check_vocabulary(settings.name, tokenizer, getattr(config, "vocab_size", None))
        backbone, unusable = _read_weights(config, source, arguments)
    if unusable:
        raise incomplete(f"model.name = {settings.name!r}", unusable)
    # The config of some models has no vocab_size, or another than that of the weights.
    check_vocabulary(settings.name, tokenizer, _embeddings(backbone))
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


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn any error of the libraries that read a model's files into one that names the model."""
    try:
        yield
    except (HbdistError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # tokenizers raises Exception itself, and pickles may raise anything
        fault = first_line(error)
        raise cannot_load(name, fault if fault.endswith((".", "!", "?")) else f"{fault}.") from None


def load_tokenizer(name: str, source: str, arguments: Mapping[str, Any]) -> Any:
    """Return the tokenizer of the model `name`, whose files are in `source`.

    Raises:
        DataError: it has none, or one without a padding token.
    """
    tokenizer = AutoTokenizer.from_pretrained(source, **arguments)
    # Without a vocabulary, transformers makes a tokenizer whose every piece is <unk>. One of bytes needs no vocabulary.
    files = {file for key, file in type(tokenizer).vocab_files_names.items() if "config" not in key}
    subfolder = arguments.get("subfolder", "")
    if files and not any(find_file(source, join(subfolder, file)) for file in {*files, *VOCABULARIES}):
        raise DataError(
            f"model.name = {name!r} has no tokenizer: found none of {', '.join(sorted({*files, *VOCABULARIES}))}. Copy the"
            " tokenizer's files of the model it was made from into the folder."
        )
    if tokenizer.pad_token_id is None:
        raise DataError(f"model.name = {name!r} has a tokenizer without a padding token. Use an encoder model.")
    return tokenizer


def check_vocabulary(name: str, tokenizer: Any, embeddings: int | None) -> None:
    """Check that every piece of the tokenizer has an embedding; `embeddings` is their number, or None if it is not known.

    Raises:
        DataError: some have none.
    """
    pieces = 1 + max(tokenizer.get_vocab().values(), default=0)
    if embeddings is not None and pieces > embeddings:
        raise DataError(
            f"model.name = {name!r} has a tokenizer with {pieces:,} pieces, but only {embeddings:,} embeddings: it is another"
            " model's tokenizer, or pieces were added to it alone. Use the tokenizer that belongs to the weights, or"
            " resize the embeddings (resize_token_embeddings of transformers) and save the model again."
        )


def _embeddings(backbone: Any) -> int | None:
    table = backbone.get_input_embeddings()
    return int(table.num_embeddings) if isinstance(table, nn.Embedding) else None


def _read_weights(config: Any, source: str, arguments: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Return the model, and the needed weights that are missing or have another shape."""
    encoder_only = "M2M100Encoder" in (config.architectures or ())
    backbone, loading = (M2M100Encoder if encoder_only else AutoModel).from_pretrained(
        source,
        **arguments,
        config=config,
        dtype=torch.float32,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # the caller refuses them by name
    )
    unusable = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    if config.is_encoder_decoder and not encoder_only:
        backbone = backbone.get_encoder()
    return backbone, [key for key in unusable if not key.startswith(UNUSED)]


def position_limit(backbone: nn.Module) -> int | None:
    """Return the most tokens of a text, or None if the model computes its position embeddings, as M2M100 does."""
    limits = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in backbone.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    return min(limits, default=None)


def read_position_limit(name: str, *, trust_remote_code: bool = False) -> int | None:
    """Return `position_limit` by a model's config alone; None also if there is no such config."""
    try:
        source, arguments = source_of(name)
        with quiet(), torch.device("meta"):
            config = AutoConfig.from_pretrained(source, **arguments, trust_remote_code=trust_remote_code)
            return position_limit(AutoModel.from_config(config, trust_remote_code=trust_remote_code))
    except HbdistError:
        raise
    except Exception:  # whatever it is: loading the model reports it
        return None


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
