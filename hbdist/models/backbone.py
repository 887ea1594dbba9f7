"""The Hugging Face model inside an encoder: loaded whole, cut to what encodes texts, and refused where that cannot work."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.models.m2m_100.modeling_m2m_100 import M2M100Encoder

from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError, DataError, HbdistError
from hbdist.models.pretrained import quiet

DROPOUT_KEYS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob"),
    *("dropout", "attention_dropout", "activation_dropout"),
    *("embedding_dropout", "mlp_dropout"),
)
"""What model families call their dropouts, in their configs."""
UNUSED = ("pooler.", "decoder.")
"""Parts that no text vector needs."""


def load_backbone(settings: ModelSection, source: str) -> tuple[Any, Any]:
    """The encoder, in float32, and its tokenizer. Of M2M100 and NLLB the encoder alone, without the decoder.

    Args:
        source: where the files of `settings.name` are.

    Raises:
        ConfigError: a setting does not fit the model.
        DataError: there is no such model, or its files are damaged.
    """
    with quiet():
        try:
            config = AutoConfig.from_pretrained(source)
            cut_before = "M2M100Encoder" in (config.architectures or ())
            if config.is_encoder_decoder and config.model_type != "m2m_100":
                raise ConfigError(
                    f"model.name = {settings.name!r} is a {config.model_type} model, an encoder and a decoder. Of those only"
                    " M2M100 and NLLB are known here: use one of them, or a model that is an encoder."
                )
            _set_dropout(config, settings.dropout)
            tokenizer = AutoTokenizer.from_pretrained(source)
            backbone, loading = (M2M100Encoder if cut_before else AutoModel).from_pretrained(
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
            exported = Path(settings.name) / "model"
            instead = (
                f"It is the folder of a run, whose model is {exported}."
                if (exported / "config.json").is_file()
                else "Give the name of a model on the Hugging Face hub, or the path of a folder that holds config.json,"
                " weights and a tokenizer."
            )
            raise DataError(f"model.name = {settings.name!r} cannot be loaded: {first} {instead}") from None
    unfit = {*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])}
    missing = sorted(key for key in unfit if not key.startswith(UNUSED))
    if missing:
        raise DataError(
            f"model.name = {settings.name!r} lacks {len(missing)} weights of its own architecture (or their shapes"
            f" differ), among them {missing[0]}: they would be random. Use a complete model."
        )
    if tokenizer.pad_token_id is None:
        raise DataError(
            f"model.name = {settings.name!r} has a tokenizer without a padding token. Use an encoder model."
        )
    if config.is_encoder_decoder and not cut_before:
        backbone = backbone.get_encoder()
    # An unused pooler has no gradient, which DDP and ZeRO take for an error.
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    _refuse_too_long(settings, position_limit(backbone))
    return backbone, tokenizer


def position_limit(backbone: nn.Module) -> int | None:
    """The most tokens of a text; None where positions are computed and not looked up, as in M2M100."""
    limits = [
        module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
        for name, module in backbone.named_modules()
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
    ]
    return min(limits, default=None)


def known_position_limit(source: str) -> int | None:
    """The same by a model's config, without its weights; None also where there is no such config."""
    try:
        with quiet(), torch.device("meta"):
            return position_limit(AutoModel.from_config(AutoConfig.from_pretrained(source)))
    except (OSError, ValueError):
        return None  # whoever loads the model will say what is wrong with it


def _refuse_too_long(settings: ModelSection, limit: int | None) -> None:
    for key in ("max_query_tokens", "max_document_tokens"):
        if limit is not None and getattr(settings, key) > limit:
            raise ConfigError(
                f"model.{key} = {getattr(settings, key)}, and {settings.name} has positions for {limit} tokens. Set"
                f" model.{key} to {limit} or less."
            )


def _set_dropout(config: Any, dropout: float | None) -> None:
    if getattr(config, "encoder_layerdrop", 0):
        # A layer that is left out has no gradient, which DDP and ZeRO take for an error.
        config.encoder_layerdrop = 0.0
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
