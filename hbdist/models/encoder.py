"""An encoder that turns texts into unit vectors: prefix, tokens, a Hugging Face model, pooling, dense layers, L2 norm.

B texts of one forward pass · L tokens, padded · D dimensions · N texts in all
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
from hbdist.models.backbone import known_position_limit, load_backbone
from hbdist.models.dense import Head
from hbdist.models.pretrained import SavedSettings
from hbdist.models.quantized import unpack
from hbdist.models.tokenizer import TextKind, Tokenize, make_chunks, pad

Pooling = Literal["mean", "cls"]
MOST_TOKENS = 512
"""Of a text outside training, where the model has positions for as many."""


class Encoder(nn.Module):
    """Token ids → L2-normalised text vectors.

    The settings that make it what it is (pooling, prefixes) travel with it, from the config to the exported model and back.
    """

    def __init__(self, backbone: Any, tokenize: Tokenize, head: Head | None = None) -> None:
        super().__init__()
        self.backbone: Any = backbone  # a module whose attributes differ by family
        self.head = Head() if head is None else head
        self.tokenize = tokenize
        self.cut: Counter[TextKind] = Counter()
        """Texts that `encode` had to cut, until now."""

    @property
    def settings(self) -> ModelSection:
        return self.tokenize.settings

    @classmethod
    def load(cls, settings: ModelSection) -> "Encoder":
        """The encoder of this name or folder, in float32; 4-bit weights are unpacked into a cache first.

        Raises:
            ConfigError: a setting does not fit the model, or the model has a part that is not known here.
            DataError: there is no such model, or its files are damaged.
        """
        source = str(unpack(Path(settings.name)) if Path(settings.name).is_dir() else settings.name)
        backbone, tokenizer = load_backbone(settings, source)
        encoder = cls(backbone, Tokenize(tokenizer, settings), Head.load(source, int(backbone.config.hidden_size)))
        encoder._refuse_other_use(SavedSettings.of(source))
        return encoder

    def _refuse_other_use(self, saved: SavedSettings) -> None:
        settings, languages = self.settings, self.tokenize.language_tokens
        if languages is None and settings.language_token != "keep":
            raise ConfigError(
                f"model.language_token = {settings.language_token!r}, and {settings.name} has no language tokens. Leave"
                " it out: it is for M2M100 and NLLB."
            )
        if settings.language_token == "fixed":
            self.tokenize.check([settings.fixed_language])
        if self.head.layers and saved.pooling not in (None, settings.pooling):
            raise ConfigError(
                f"model.pooling = {settings.pooling!r}, and {settings.name} has a dense layer that was trained on vectors"
                f" pooled in another way. Set model.pooling = {saved.pooling!r}."
            )

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
        layers = self.head.layers
        return layers[-1].linear.out_features if layers else int(self.backbone.config.hidden_size)

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """Unit vectors, [B, D]."""
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
        """Unit vectors of texts in the order given: float32 [N, D]. For use outside training.

        Args:
            languages: of the texts; needed by M2M100 and NLLB alone.
            progress: called with (texts done, N) after every forward pass.

        Raises:
            ConfigError: the model does not know one of the languages, or needs them.
        """
        ids, cut = self.tokenize(texts, kind, languages)
        self.cut[kind] += cut
        was_training = self.training
        self.eval()
        device = next(self.parameters()).device
        vectors_ND = np.empty((len(texts), self.dimensions), dtype=np.float32)
        done = 0
        for chunk in make_chunks(ids, encode_tokens(device)):
            input_ids_BL, attention_mask_BL = pad([ids[i] for i in chunk], self.tokenize.pad_token_id)
            vectors_ND[chunk] = self(input_ids_BL.to(device), attention_mask_BL.to(device)).float().cpu().numpy()
            done += len(chunk)
            if progress:
                progress(done, len(texts))
        self.train(was_training)
        return vectors_ND


def encode_tokens(device: torch.device) -> int:
    """Tokens of one forward pass in `encode`: on a CPU few, so that what a layer makes stays near its caches."""
    return 1024 if device.type == "cpu" else 16_384


def pool(hidden_BLD: Tensor, attention_mask_BL: Tensor, pooling: Pooling) -> Tensor:
    """One vector a text, [B, D]: the mean of its tokens' vectors, or the first token's."""
    if pooling == "cls":
        return hidden_BLD[:, 0]
    weights_BL1 = attention_mask_BL.unsqueeze(-1).to(hidden_BLD.dtype)
    return (hidden_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1)


def settings_of(name: str, **given: Any) -> ModelSection:
    """How to use the model of this name: what is given, else what its folder says of itself, else the defaults.

    Raises:
        ConfigError: it is to be used in a way that is not known here, or has a part that is not.
    """
    most = min(MOST_TOKENS, known_position_limit(name) or MOST_TOKENS)
    known: dict[str, Any] = {"max_query_tokens": most, "max_document_tokens": most}
    for source in (vars(SavedSettings.of(name)), given):
        known |= {key: value for key, value in source.items() if value is not None}
    for key, said in (("pooling", "is to be pooled by"), ("language_token", "is to be used with language_token =")):
        choices = get_args(ModelSection.model_fields[key].annotation)
        if key in known and known[key] not in choices:
            raise ConfigError(f"{name} {said} {known[key]!r}. Expected one of {', '.join(choices)}.")
    return ModelSection(name=name, **known)
