"""The language tokens of M2M100 and NLLB: what the models call languages, and what stands around a text's pieces.

M2M100 (arXiv 2010.11125) reads `__de__ … </s>`, NLLB-200 (arXiv 2207.04672) `deu_Latn … </s>`, and in its older form
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
    """A tokenizer's language tokens. Holds numbers only, so that texts of many languages can be tokenised at once."""

    ids: Mapping[str, int]
    """The model's code → its token."""
    is_nllb: bool
    before: tuple[int | None, ...]
    """What the model wants in front of a text; None is its language's token."""
    behind: tuple[int | None, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> "LanguageTokens | None":
        """Those of a Hugging Face tokenizer; None if it has none."""
        flores = {code: token for code, token in tokenizer.get_added_vocab().items() if FLORES_CODE.fullmatch(code)}
        ids = flores or dict(getattr(tokenizer, "lang_code_to_id", {}))
        if not ids:
            return None
        own = set(ids.values())
        before, behind = (
            tuple(None if token in own else int(token) for token in side)
            for side in (tokenizer.prefix_tokens, tokenizer.suffix_tokens)
        )
        return cls(ids, bool(flores), before, behind)

    def code(self, language: str) -> str | None:
        """What the model calls one of our languages; None if it does not know it."""
        code = flores_code(language) if self.is_nllb else M2M100.get(language, language)
        return code if code in self.ids else None

    def nearest(self, language: str) -> list[str]:
        """The three languages the model knows, by our names or its own, whose names are most like this one."""
        ours = [one for one in FLORES if FLORES[one] in self.ids] if self.is_nllb else []
        return difflib.get_close_matches(language, [*ours, *self.ids], n=3, cutoff=0.0)

    def around(self, token: int | None) -> tuple[list[int], list[int]]:
        """What stands before and behind a text with this language token, or with none."""

        def filled(side: tuple[int | None, ...]) -> list[int]:
            return [one for one in (token if place is None else place for place in side) if one is not None]

        return filled(self.before), filled(self.behind)
