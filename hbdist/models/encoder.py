"""The encoder that turns texts into unit vectors: prefix, tokens, Hugging Face model, pooling, dense layers, L2 norm.

B texts of one forward pass · L tokens, padded · D dimensions · N texts in total
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError
from hbdist.models.backbone import load_backbone, read_position_limit
from hbdist.models.dense import Head
from hbdist.models.pretrained import SavedSettings
from hbdist.models.quantized import unpack
from hbdist.models.tokenizer import TextKind, Tokenize, make_chunks, pad

Pooling = Literal["mean", "cls"]
MOST_TOKENS = 512
"""Number of tokens that a text may have outside training, unless the model has fewer positions."""


class Encoder(nn.Module):
    """Text encoder: token ids → L2-normalised embeddings.

    The settings that its embeddings depend on (pooling, prefixes) go with it, from the config to the exported model and back.
    """

    def __init__(self, backbone: Any, tokenize: Tokenize, head: Head | None = None) -> None:
        super().__init__()
        self.backbone: Any = backbone  # a module whose attributes differ by model family
        self.head = Head() if head is None else head
        self.tokenize = tokenize
        self.cut: Counter[TextKind] = Counter()
        """Number of texts that `encode` has truncated so far, by kind."""

    @property
    def settings(self) -> ModelSection:
        """The `[model]` section of the config."""
        return self.tokenize.settings

    @classmethod
    def load(cls, settings: ModelSection) -> "Encoder":
        """Load the encoder `settings.name` in float32; 4-bit weights are first unpacked into a cache.

        Raises:
            ConfigError: a setting does not fit the model, or the model has a module that is not supported.
            DataError: the model does not exist, or its files are damaged.
        """
        source = str(unpack(Path(settings.name)) if Path(settings.name).is_dir() else settings.name)
        backbone, tokenizer = load_backbone(settings, source)
        encoder = cls(backbone, Tokenize(tokenizer, settings), Head.load(source, int(backbone.config.hidden_size)))
        encoder._check_settings(SavedSettings.read(source))
        return encoder

    def _check_settings(self, saved: SavedSettings) -> None:
        settings = self.settings
        if self.tokenize.language_tokens is None and settings.language_token != "keep":
            raise ConfigError(
                f"model.language_token = {settings.language_token!r}, but {settings.name} has no language tokens. Remove"
                " the key: it is for M2M100 and NLLB."
            )
        if settings.language_token == "fixed":
            self.tokenize.check([settings.fixed_language])
        if self.head.layers and saved.pooling not in (None, settings.pooling):
            raise ConfigError(
                f"model.pooling = {settings.pooling!r}, but the dense layer of {settings.name} was trained with another"
                f" pooling. Set model.pooling = {saved.pooling!r}."
            )

    @classmethod
    def load_for_use(cls, settings: ModelSection) -> "Encoder":
        """Load the encoder in evaluation mode, on the GPU if there is one.

        Raises:
            ConfigError, DataError: as `load`.
        """
        return cls.load(settings).to("cuda" if torch.cuda.is_available() else "cpu").eval()

    @property
    def dimensions(self) -> int:
        """Number of dimensions of an embedding, D."""
        layers = self.head.layers
        return layers[-1].linear.out_features if layers else int(self.backbone.config.hidden_size)

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """Return the unit vectors of tokenized texts: [B, D]."""
        hidden_BLD = self.backbone(input_ids=input_ids_BL, attention_mask=attention_mask_BL).last_hidden_state
        return normalize(self.head(pool(hidden_BLD, attention_mask_BL, self.settings.pooling)), dim=-1)

    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        kind: TextKind,
        *,
        languages: Sequence[str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Return the unit vectors of texts, in their order: float32 [N, D]. For use outside training.

        Args:
            languages: one per text; only M2M100 and NLLB need them.
            progress: called with (texts done, N) after every forward pass.

        Raises:
            ConfigError: the model does not support one of the languages, or needs languages and none are given.
        """
        ids, cut = self.tokenize(texts, kind, languages)
        self.cut[kind] += cut
        was_training, device, pad_id = self.training, next(self.parameters()).device, self.tokenize.pad_token_id
        self.eval()
        embedding_ND = encode_ids(self, ids, pad_id, dimensions=self.dimensions, device=device, progress=progress)
        self.train(was_training)
        return embedding_ND


def encode_ids(
    forward: Callable[[Tensor, Tensor], Tensor],
    ids: Sequence[Sequence[int]],
    pad_token_id: int,
    *,
    dimensions: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return the vectors of tokenized texts in the order given, encoded in chunks of similar length: float32 [N, D].

    `forward` returns vectors [B, D], given token ids and attention mask; `progress` is called as by `Encoder.encode`.
    """
    embedding_ND = np.empty((len(ids), dimensions), dtype=np.float32)
    done = 0
    for chunk in make_chunks(ids, encoding_chunk_tokens(device)):
        input_ids_BL, attention_mask_BL = pad([ids[index] for index in chunk], pad_token_id)
        embedding_ND[chunk] = forward(input_ids_BL.to(device), attention_mask_BL.to(device)).float().cpu().numpy()
        done += len(chunk)
        if progress:
            progress(done, len(ids))
    return embedding_ND


def encoding_chunk_tokens(device: torch.device) -> int:
    """Return the tokens per forward pass of `encode`: few on a CPU, so that a layer's output stays near its caches."""
    return 1024 if device.type == "cpu" else 16_384


def pool(hidden_BLD: Tensor, attention_mask_BL: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector per text, [B, D]: the mean over its tokens, or the first token's vector."""
    if pooling == "cls":
        return hidden_BLD[:, 0]
    weights_BL1 = attention_mask_BL.unsqueeze(-1).to(hidden_BLD.dtype)
    return (hidden_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1)


def settings_of(name: str, **overrides: Any) -> ModelSection:
    """Return the settings to use a model with: `overrides` first, then the model's saved settings, then the defaults.

    Raises:
        ConfigError: a setting has a value that is not supported, or the model has a module that is not.
    """
    most = min(MOST_TOKENS, read_position_limit(name) or MOST_TOKENS)
    values: dict[str, Any] = {"max_query_tokens": most, "max_document_tokens": most}
    for source in (vars(SavedSettings.read(name)), overrides):
        values |= {key: value for key, value in source.items() if value is not None}
    for key in ("pooling", "language_token"):
        choices = get_args(ModelSection.model_fields[key].annotation)
        if key in values and values[key] not in choices:
            raise ConfigError(
                f"{name}: {key} = {values[key]!r} is not supported. Expected one of {', '.join(choices)}."
            )
    return ModelSection(name=name, **values)
