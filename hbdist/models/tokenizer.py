"""Tokenization: texts → token ids, padded and grouped into chunks of similar lengths.

B texts of one forward pass · L tokens, padded
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal, assert_never

import numpy as np
import torch
from tokenizers import normalizers
from torch import Tensor

from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError
from hbdist.models.language_tokens import LanguageTokens

TextKind = Literal["query", "document"]

PROBE = 64
"""Number of different words with which it is found out how a tokenizer truncates."""


@dataclass(frozen=True)
class Tokenize:
    """Tokenization of texts as a model expects it. Contains no weights, so that data workers can have a copy."""

    tokenizer: Any
    settings: ModelSection

    def __call__(
        self, texts: Sequence[str], kind: TextKind, languages: Sequence[str] | None = None
    ) -> tuple[list[list[int]], int]:
        """Return the token ids of each text, prefix and special tokens included, and the number of truncated texts.

        `languages`, one per text, are ignored by models without language tokens.

        Raises:
            ConfigError: the model needs a token for each text's language, and does not have one, or no languages are given.
        """
        if not texts:
            return [], 0
        if self.language_tokens is None:
            return self._tokenize(texts, kind)
        assert languages is None or len(languages) == len(texts), f"{len(languages)} languages of {len(texts)} texts"
        language_of: Sequence[str | None] = languages or [None] * len(texts)
        around = {language: self.language_tokens.around(self._token(language)) for language in set(language_of)}
        return self._tokenize(texts, kind, [around[language] for language in language_of])

    def count(self, texts: Sequence[str]) -> int:
        """Return the number of tokens of documents. Their languages do not matter: each has one token."""
        if not texts or self.language_tokens is None or self.settings.language_token != "keep":
            return sum(map(len, self(texts, "document")[0]))
        around = self.language_tokens.around(next(iter(self.language_tokens.ids.values())))
        return sum(map(len, self._tokenize(texts, "document", [around] * len(texts))[0]))

    def check(self, languages: Iterable[str]) -> None:
        """Check that texts of these languages can be tokenized.

        Raises:
            ConfigError: the model needs a token for each text's language, and does not have one.
        """
        for language in sorted(set(languages)) if self.language_tokens else ():
            self._token(language)

    @cached_property
    def language_tokens(self) -> LanguageTokens | None:
        """Language tokens of M2M100 and NLLB; None for other models."""
        return LanguageTokens.from_tokenizer(self.tokenizer)

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token."""
        assert self.tokenizer.pad_token_id is not None, "a model without a padding token"
        return int(self.tokenizer.pad_token_id)

    def _token(self, language: str | None) -> int | None:
        """Return the language token that `model.language_token` gives a text in this language; None for "drop"."""
        tokens, name = self.language_tokens, self.settings.name
        assert tokens is not None
        match self.settings.language_token:
            case "drop":
                return None
            case "fixed":
                wanted: str | None = self.settings.fixed_language
                remedy = f"model.fixed_language = {wanted!r} must be one of the supported languages."
            case "keep":
                wanted = language
                remedy = (
                    "Leave the language out (data.languages, --languages), or use the model without a token per language:"
                    ' model.language_token = "fixed" or "drop".'
                )
            case _:
                assert_never(self.settings.language_token)
        if wanted is None:
            raise ConfigError(
                f'{name} needs the language of each text (model.language_token = "keep"), but no languages are given for'
                ' these texts. Give them, or set model.language_token to "fixed" or "drop".'
            )
        code = tokens.code(wanted)
        if code is None:
            raise ConfigError(
                f"{name} has no token for the language {wanted}; it supports {len(tokens.ids)} languages, the closest"
                f" by name {', '.join(tokens.nearest(wanted))}. {remedy}"
            )
        return tokens.ids[code]

    def _tokenize(
        self, texts: Sequence[str], kind: TextKind, around: Sequence[tuple[list[int], list[int]]] | None = None
    ) -> tuple[list[list[int]], int]:
        """Return what a call returns, given the ids around each text if the model has language tokens."""
        settings = self.settings
        match kind:
            case "query":
                limit, prefix = settings.max_query_tokens, settings.query_prefix
            case "document":
                limit, prefix = settings.max_document_tokens, settings.document_prefix
            case _:
                assert_never(kind)
        prefixed = [prefix + text for text in texts]
        if around is not None:  # the tokenizer could add the tokens of only one language at a time
            room = limit - sum(map(len, around[0]))
            pieces = self._truncate(prefixed, room + 1, add_special_tokens=False)
            ids = [[*before, *one[:room], *after] for one, (before, after) in zip(pieces, around, strict=True)]
            return ids, sum(len(one) > room for one in pieces)
        # Truncating in the tokenizer keeps the special token at the end; one extra token shows which texts are too long.
        ids = self._truncate(prefixed, limit + 1)
        too_long = [index for index, one in enumerate(ids) if len(one) > limit]
        if self._tokens_after is not None:
            for index in too_long:
                del ids[index][limit - self._tokens_after]
        elif too_long:
            shorter = self._truncate([prefixed[index] for index in too_long], limit)
            for index, one in zip(too_long, shorter, strict=True):
                ids[index] = one
        return ids, len(too_long)

    @cached_property
    def _tokens_after(self) -> int | None:
        """Number of special tokens after a text, if a truncated text less its last token is the text truncated by one more;
        None if this tokenizer truncates in another way, and each length needs a call of its own."""
        probe = " ".join(map(str, range(PROBE)))
        longer, shorter = (self._truncate([probe], limit)[0] for limit in (PROBE // 2, PROBE // 2 - 1))
        if len(longer) != PROBE // 2 or len(set(longer)) < PROBE // 4:  # too few different tokens to show anything
            return None
        for after in range(4):
            if longer[: len(shorter) - after] + longer[len(longer) - after :] == shorter:
                return after
        return None

    def _truncate(self, texts: list[str], limit: int, **options: Any) -> list[list[int]]:
        output = self.tokenizer(texts, truncation=True, max_length=limit, return_attention_mask=False, **options)
        return list(output["input_ids"])


def lower_case(tokenizer: Any, name: str) -> None:
    """Make a tokenizer lower-case texts first, as sentence-transformers does for a model with do_lower_case.

    It becomes a part of the tokenizer, and so of the tokenizer.json that is exported.

    Raises:
        ConfigError: the tokenizer of the model `name` is not one of the library tokenizers, which alone can be changed.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(
            f"{name} has do_lower_case = true with a {type(tokenizer).__name__}, which is not supported. Use another model."
        )
    own = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *own])


def pad(ids: Sequence[Sequence[int]], pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Return token ids padded on the right, and their attention mask: two int64 [B, L]."""
    return pad_flat(*flatten(ids), pad_token_id)


def flatten(ids: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids of all texts one after another, int32 [tokens], and the tokens of each text, int64 [B]."""
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    return np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths


def pad_flat(ids: np.ndarray, lengths: np.ndarray, pad_token_id: int) -> tuple[Tensor, Tensor]:
    """Return what `pad` does, of texts that are one after another in a flat array."""
    mask_BL = np.arange(lengths.max()) < lengths[:, None]
    input_ids_BL = np.full(mask_BL.shape, pad_token_id, np.int64)
    input_ids_BL[mask_BL] = ids
    return torch.from_numpy(input_ids_BL), torch.from_numpy(mask_BL.astype(np.int64))


def make_chunks(ids: Sequence[Sequence[int]], chunk_tokens: int) -> list[list[int]]:
    """Return the indices of the texts in chunks: sorted by length, each with at most `chunk_tokens` tokens after padding.

    A longer text is a chunk of its own. The texts of a chunk are of similar lengths, so padding is a few percent.
    """
    by_length = sorted(range(len(ids)), key=lambda index: (-len(ids[index]), index))
    chunks: list[list[int]] = []
    for index in by_length:
        if chunks and (len(chunks[-1]) + 1) * len(ids[chunks[-1][0]]) <= chunk_tokens:
            chunks[-1].append(index)
        else:
            chunks.append([index])
    return chunks
