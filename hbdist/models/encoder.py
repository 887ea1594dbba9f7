"""The encoder that turns texts into unit vectors: prefix, tokens, Hugging Face model, pooling, dense layers, L2 norm.

B texts of one forward pass · L tokens, padded · D dimensions · N texts in total
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, assert_never, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError
from hbdist.models.backbone import load_backbone, read_position_limit
from hbdist.models.check import check_files, check_similarity, check_use
from hbdist.models.dense import Head
from hbdist.models.pretrained import SavedSettings, VectorSettings
from hbdist.models.quantized import unpack
from hbdist.models.tokenizer import TextKind, Tokenize, lower_case, make_chunks, pad

Pooling = Literal["mean", "cls"]
DEFAULT_TOKENS = 512
"""Number of tokens after which a text is cut outside training, if neither the model's files nor its positions say less."""


class Encoder(nn.Module):
    """Text encoder: token ids → L2-normalised embeddings.

    The settings that its embeddings depend on (pooling, prefixes) go with it, from the config to the exported model and back.
    """

    def __init__(
        self, backbone: Any, tokenize: Tokenize, head: Head | None = None, truncate_dim: int | None = None
    ) -> None:
        super().__init__()
        self.backbone: Any = backbone  # a module whose attributes differ by model family
        self.head = Head() if head is None else head
        self.tokenize = tokenize
        self.truncate_dim = truncate_dim
        """Number of dimensions that a vector keeps, the first ones; None: all."""
        self.notes: list[str] = []
        """Facts about the loaded model that a user should know, a sentence each."""
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
            ConfigError: a setting does not fit the model, or the model has something that is not supported.
            DataError: the model does not exist, or its files are missing, damaged or contradict one another.
        """
        check_files(settings.name, trust_remote_code=settings.trust_remote_code)
        vectors = VectorSettings.read(settings.name)
        check_use(settings, vectors)
        source = str(unpack(Path(settings.name)) if Path(settings.name).is_dir() else settings.name)
        backbone, tokenizer = load_backbone(settings, source)
        if vectors.lower_case:
            lower_case(tokenizer, settings.name)
        head = Head.load(source, int(backbone.config.hidden_size))
        encoder = cls(backbone, Tokenize(tokenizer, settings), head, vectors.truncate_dim)
        encoder._check_settings(SavedSettings.read(source))
        encoder._freeze_unused()
        if vectors.similarity != "cosine":
            encoder.notes.append(
                f"{settings.name} was made for {vectors.similarity}; here its vectors are compared by cosine"
            )
        return encoder

    def _freeze_unused(self) -> None:
        """Exclude the parameters that a text's vector does not depend on from training, and note them.

        They get no gradient, which DDP and ZeRO treat as an error, and have no moments to save.
        """
        unused = unused_parameters(self)
        for _, parameter in unused:
            parameter.requires_grad = False
        if unused:
            count = sum(parameter.numel() for _, parameter in unused)
            some = ", ".join(name.removeprefix("backbone.") for name, _ in unused[:3])
            self.notes.append(
                f"{self.settings.name} has {len(unused)} tensors ({count:,} parameters) that a text's vector does not depend"
                f" on: they are kept as they are ({some}{' …' if len(unused) > 3 else ''})"
            )

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
    def load_for_use(cls, settings: ModelSection, device: str = "") -> "Encoder":
        """Load the encoder in evaluation mode, by default on the GPU if there is one.

        Raises:
            ConfigError, DataError: as `load`; a model whose own similarity function ranks otherwise is refused as well.
        """
        check_similarity(settings.name, VectorSettings.read(settings.name))
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls.load(settings).to(device).eval()

    @property
    def dimensions(self) -> int:
        """Number of dimensions of an embedding, D."""
        layers = self.head.layers
        made = layers[-1].linear.out_features if layers else int(self.backbone.config.hidden_size)
        return min(made, self.truncate_dim or made)

    def forward(self, input_ids_BL: Tensor, attention_mask_BL: Tensor) -> Tensor:
        """Return the unit vectors of tokenized texts: [B, D]."""
        hidden_BLD = self.backbone(input_ids=input_ids_BL, attention_mask=attention_mask_BL).last_hidden_state
        vector_BD = self.head(pool(hidden_BLD, attention_mask_BL, self.settings.pooling))
        return normalize(vector_BD[:, : self.truncate_dim], dim=-1)

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
    match pooling:
        case "cls":
            return hidden_BLD[:, 0]
        case "mean":
            weights_BL1 = attention_mask_BL.unsqueeze(-1).to(hidden_BLD.dtype)
            return (hidden_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1)
        case _:
            assert_never(pooling)


def unused_parameters(encoder: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the trainable parameters, by name, that the vectors of two short texts do not depend on."""
    device = next(encoder.parameters()).device
    input_ids_BL = torch.zeros((2, 8), dtype=torch.int64, device=device)
    attention_mask_BL = torch.ones_like(input_ids_BL)
    attention_mask_BL[1, 4:] = 0
    with torch.enable_grad(), torch.random.fork_rng():
        vector_BD = encoder(input_ids_BL, attention_mask_BL)
    nodes, seen, reached = [vector_BD.grad_fn], set(), set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            reached.add(id(getattr(node, "variable", None)))  # of a parameter's own node
            nodes += [following for following, _ in node.next_functions]
    return [(name, one) for name, one in encoder.named_parameters() if one.requires_grad and id(one) not in reached]


def exported_length(settings: ModelSection) -> int:
    """Return the tokens after which a trained model cuts any text once it is exported: sentence-transformers has one limit."""
    return max(settings.max_query_tokens, settings.max_document_tokens)


def settings_of(name: str, *, max_tokens: int | None = None, **overrides: Any) -> ModelSection:
    """Return the settings to use a model with: `overrides` first, then the model's saved settings, then the defaults.

    A text is cut where the model's own files say, as sentence-transformers does: at the training's length for a model that
    hbdist has exported, else at `max_seq_length`, else at DEFAULT_TOKENS; never beyond the model's positions.

    Args:
        max_tokens: number of tokens after which queries and documents are cut, instead of the model's own.

    Raises:
        ConfigError: a setting has a value that is not supported, or the model has a module that is not.
        DataError: the model does not exist, or the files with its settings are damaged.
    """
    positions = read_position_limit(name, trust_remote_code=bool(overrides.get("trust_remote_code")))
    if max_tokens is not None and positions is not None and max_tokens > positions:
        raise ConfigError(
            f"--max-tokens {max_tokens}, but {name} has positions for {positions} tokens. Give {positions} or less."
        )
    saved = {key: value for key, value in vars(SavedSettings.read(name)).items() if value is not None}
    values = saved | {key: value for key, value in overrides.items() if value is not None}
    for key in ("max_query_tokens", "max_document_tokens"):
        wanted = max_tokens or values.get(key, DEFAULT_TOKENS)
        values[key] = min(wanted, positions or wanted)
    for key in ("pooling", "language_token"):
        choices = get_args(ModelSection.model_fields[key].annotation)
        if key in values and values[key] not in choices:
            raise ConfigError(
                f"{name}: {key} = {values[key]!r} is not supported. Expected one of {', '.join(choices)}."
            )
    return ModelSection(name=name, **values)
