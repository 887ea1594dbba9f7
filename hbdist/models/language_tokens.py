"""The language tokens of M2M100 and NLLB: their codes, and the special tokens around a text.

M2M100 (arXiv 2010.11125) reads `__de__ … </s>`, NLLB-200 (arXiv 2207.04672) `deu_Latn … </s>`, and its older tokenizer
`… </s> deu_Latn`.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hbdist.models.language_codes import FLORES, M2M100, flores_code

FLORES_CODE = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")


@dataclass(frozen=True)
class LanguageTokens:
    """Language tokens of a tokenizer, kept apart from it so that texts of many languages can be tokenized at once."""

    ids: Mapping[str, int]
    """The model's language code → id of its token."""
    is_nllb: bool
    before: tuple[int | None, ...]
    """Ids of the tokens before a text; None stands for the token of its language."""
    after: tuple[int | None, ...]
    """Ids of the tokens after a text; None stands for the token of its language."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> "LanguageTokens | None":
        """Return the language tokens of a Hugging Face tokenizer, or None if it has none."""
        flores = {code: token for code, token in tokenizer.get_added_vocab().items() if FLORES_CODE.fullmatch(code)}
        ids = flores or dict(getattr(tokenizer, "lang_code_to_id", {}))
        if not ids:
            return None
        tokens = set(ids.values())
        before, after = (
            tuple(None if token in tokens else int(token) for token in side)
            for side in (tokenizer.prefix_tokens, tokenizer.suffix_tokens)
        )
        return cls(ids, bool(flores), before, after)

    def code(self, language: str) -> str | None:
        """Return the model's code for an hbdist language code, or None if the model does not support the language."""
        code = flores_code(language) if self.is_nllb else M2M100.get(language, language)
        return code if code in self.ids else None

    def nearest(self, language: str) -> list[str]:
        """Return the three supported codes, hbdist's or the model's, that look most like `language`."""
        ours = [code for code in FLORES if FLORES[code] in self.ids] if self.is_nllb else []
        return difflib.get_close_matches(language, [*ours, *self.ids], n=3, cutoff=0.0)

    def around(self, token: int | None) -> tuple[list[int], list[int]]:
        """Return the ids before and after a text with this language token; None leaves the language token out."""

        def fill(side: tuple[int | None, ...]) -> list[int]:
            return [one for one in (token if one is None else one for one in side) if one is not None]

        return fill(self.before), fill(self.after)
