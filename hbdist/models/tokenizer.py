"""Texts → token ids, padded and cut into chunks of about equally long ones.

B texts of one forward pass · L tokens, padded
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from hbdist.config.sections import ModelSection
from hbdist.errors import ConfigError
from hbdist.models.language_tokens import LanguageTokens

TextKind = Literal["query", "document"]


@dataclass(frozen=True)
class Tokenize:
    """Texts → token ids, as this model wants them. Holds no weights, so that data workers can have a copy."""

    tokenizer: Any
    settings: ModelSection

    def __call__(
        self, texts: Sequence[str], kind: TextKind, languages: Sequence[str] | None = None
    ) -> tuple[list[list[int]], int]:
        """Token ids of each text, prefix and special tokens included, and how many texts were cut to fit.

        Args:
            languages: of the texts. Models without language tokens do not look at them.

        Raises:
            ConfigError: the model puts each text's language before it, and does not know one, or none are given.
        """
        if not texts:
            return [], 0
        if self.language_tokens is None:
            return self._cut(self._prefixed(texts, kind), self._limit(kind))
        assert languages is None or len(languages) == len(texts), f"{len(languages)} languages of {len(texts)} texts"
        of: Sequence[str | None] = languages or [None] * len(texts)
        around = {language: self.language_tokens.around(self._token(language)) for language in set(of)}
        return self._cut_between(self._prefixed(texts, kind), self._limit(kind), [around[language] for language in of])

    def count(self, texts: Sequence[str]) -> int:
        """Tokens of documents, whatever their languages: one language's token is as long as another's."""
        if not texts or self.language_tokens is None or self.settings.language_token != "keep":
            return sum(map(len, self(texts, "document")[0]))
        around = self.language_tokens.around(next(iter(self.language_tokens.ids.values())))
        ids, _ = self._cut_between(self._prefixed(texts, "document"), self._limit("document"), [around] * len(texts))
        return sum(map(len, ids))

    def check(self, languages: Iterable[str]) -> None:
        """See that texts of these languages can be tokenised.

        Raises:
            ConfigError: the model puts each text's language before it, and does not know one of them.
        """
        for language in sorted(set(languages)) if self.language_tokens else ():
            self._token(language)

    @cached_property
    def language_tokens(self) -> LanguageTokens | None:
        """Those of M2M100 and NLLB; other models have none."""
        return LanguageTokens.of(self.tokenizer)

    @property
    def pad_token_id(self) -> int:
        assert self.tokenizer.pad_token_id is not None, "a model without a padding token"
        return int(self.tokenizer.pad_token_id)

    def _token(self, language: str | None) -> int | None:
        """The language token of a text in this language, as `model.language_token` says."""
        assert self.language_tokens is not None
        how, name = self.settings.language_token, self.settings.name
        if how == "drop":
            return None
        wanted = self.settings.fixed_language if how == "fixed" else language
        if wanted is None:
            raise ConfigError(
                f'{name} puts the language of each text before it (model.language_token = "keep"), and the languages'
                ' of these texts are not given. Give them, or set model.language_token to "fixed" or "drop".'
            )
        code = self.language_tokens.code(wanted)
        if code is None:
            known = self.language_tokens
            remedy = (
                f"model.fixed_language = {wanted!r} has to be one of them."
                if how == "fixed"
                else "Leave it out (data.languages, --languages), or use it without language tokens of its own:"
                ' model.language_token = "fixed" or "drop".'
            )
            raise ConfigError(
                f"{name} has no token for the language {wanted}; it knows {len(known.ids)} languages, the nearest by name"
                f" {', '.join(known.nearest(wanted))}. {remedy}"
            )
        return self.language_tokens.ids[code]

    def _prefixed(self, texts: Sequence[str], kind: TextKind) -> list[str]:
        prefix = self.settings.query_prefix if kind == "query" else self.settings.document_prefix
        return [prefix + text for text in texts]

    def _limit(self, kind: TextKind) -> int:
        return self.settings.max_query_tokens if kind == "query" else self.settings.max_document_tokens

    def _cut(self, texts: list[str], limit: int) -> tuple[list[list[int]], int]:
        # Cutting by the tokenizer keeps the special token at the end; one token more tells what was cut.
        ids = self.tokenizer(texts, truncation=True, max_length=limit + 1, return_attention_mask=False)["input_ids"]
        too_long = [place for place, one in enumerate(ids) if len(one) > limit]
        if too_long:
            shorter = self.tokenizer([texts[place] for place in too_long], truncation=True, max_length=limit)
            for place, one in zip(too_long, shorter["input_ids"], strict=True):
                ids[place] = one
        return ids, len(too_long)

    def _cut_between(
        self, texts: list[str], limit: int, around: Sequence[tuple[list[int], list[int]]]
    ) -> tuple[list[list[int]], int]:
        """The same with what stands around each text; these tokenizers can only do one language at a time."""
        room = limit - sum(map(len, around[0]))
        pieces = self.tokenizer(
            texts, add_special_tokens=False, truncation=True, max_length=room + 1, return_attention_mask=False
        )["input_ids"]
        ids = [[*before, *one[:room], *behind] for one, (before, behind) in zip(pieces, around, strict=True)]
        return ids, sum(len(one) > room for one in pieces)


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
