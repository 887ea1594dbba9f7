"""The families of translation models and what they call languages: M2M100, NLLB and Marian (Opus-MT).

Holds tokenizers and no weights, so that a language a model does not know is found before any is loaded.
"""

import difflib
import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as hf_logging

from hbdist.errors import ConfigError, DataError
from hbdist.models.language_codes import FLORES, flores_code
from hbdist.models.language_tokens import LanguageTokens
from hbdist.translation.languages import OPUS
from hbdist.utils.files import sha256

KINDS = ("m2m_100", "nllb-moe", "marian")
"""What the configs of translation models call their kind; M2M100 and the dense NLLB are one."""


class Family(ABC):
    """A translation model's languages and its tokenizer.

    Args:
        name: of the model, for messages.
        given: our code → the model's, where a user says so.
    """

    def __init__(self, name: str, config: Any, tokenizer: Any, *, revision: str, given: Mapping[str, str]) -> None:
        self.name = name
        self.positions = int(config.max_position_embeddings)
        """Most tokens of a text, on either side."""
        self.tokenizer = tokenizer
        self.revision = revision
        self.given = dict(given)

    @abstractmethod
    def check(self, *, source: str, target: str) -> None:
        """See that the model translates from `source` into `target`.

        Raises:
            ConfigError: it does not, or not under these names.
        """

    @abstractmethod
    def ids(self, texts: Sequence[str], *, source: str, target: str) -> list[list[int]]:
        """The token ids of each text, with all that the model wants around them; nothing is cut."""

    @abstractmethod
    def first_token(self, target: str) -> int | None:
        """The token that a translation into `target` must begin with, if it must."""

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def unknown(self, language: str, near: Sequence[str], *, known: int) -> ConfigError:
        """The error for a language that the model does not know.

        Args:
            near: those with the nearest names.
            known: how many it knows.
        """
        return ConfigError(
            f"{self.name} does not know {self.given.get(language, language)}; it knows {known} languages, the nearest "
            f"by name {', '.join(near)}. Leave the language out, or say what the model calls it: --code {language}=NAME."
        )


class Multilingual(Family):
    """M2M100 (arXiv 2010.11125) and NLLB-200 (arXiv 2207.04672): any language into any, by language tokens."""

    def __init__(self, name: str, config: Any, tokenizer: Any, *, revision: str, given: Mapping[str, str]) -> None:
        super().__init__(name, config, tokenizer, revision=revision, given=given)
        tokens = LanguageTokens.of(tokenizer)
        assert tokens is not None, f"{name} translates without language tokens"
        self.tokens = tokens

    def code(self, language: str) -> str:
        """What the model calls one of our languages.

        Raises:
            ConfigError: it does not know it.
        """
        code = self.given.get(language) or self.tokens.code(language)
        if code is None or code not in self.tokens.ids:
            near = self.tokens.nearest(self.given.get(language, language))
            raise self.unknown(language, near, known=len(self.tokens.ids))
        return code

    def check(self, *, source: str, target: str) -> None:
        if self.code(source) == self.code(target):
            raise ConfigError(
                f"{self.name} knows {source} and {target} by one name, {self.code(source)}. Leave one out."
            )

    def ids(self, texts: Sequence[str], *, source: str, target: str) -> list[list[int]]:
        self.tokenizer.src_lang = self.code(source)
        return [list(one) for one in self.tokenizer(list(texts))["input_ids"]]

    def first_token(self, target: str) -> int | None:
        return self.tokens.ids[self.code(target)]


class Marian(Family):
    """Opus-MT: one language into one, or into several that a token such as `>>swa<<` in front of the text chooses."""

    def __init__(self, name: str, config: Any, tokenizer: Any, *, revision: str, given: Mapping[str, str]) -> None:
        super().__init__(name, config, tokenizer, revision=revision, given=given)
        self.choices = [token.strip("<>") for token in tokenizer.supported_language_codes]

    def names(self, language: str) -> list[str]:
        """All that Opus-MT may call one of our languages, the likeliest first."""
        if language in self.given:
            return [self.given[language]]
        flores = flores_code(language)
        names = [language, OPUS.get(language, ""), flores.partition("_")[0], flores, language.partition("_")[0]]
        return [name for name in dict.fromkeys(names) if name]

    def choice(self, target: str) -> str | None:
        """The token that chooses the language; None if the model has but one.

        Raises:
            ConfigError: the model does not translate into it.
        """
        if not self.choices:
            return None
        found = [name for name in self.names(target) if name in self.choices]
        if not found:
            near = difflib.get_close_matches(self.given.get(target, target), self.choices, n=3, cutoff=0.0)
            raise self.unknown(target, near, known=len(self.choices))
        return f">>{found[0]}<<"

    def check(self, *, source: str, target: str) -> None:
        own = {"from": self.tokenizer.source_lang, "into": None if self.choices else self.tokenizer.target_lang}
        for way, language in (("from", source), ("into", target)):
            # A model of a family of languages says `mul` or `ROMANCE` here, which no language is called.
            one = own[way] and any(own[way] in self.names(known) for known in FLORES)
            if one and own[way] not in self.names(language):
                raise ConfigError(
                    f"{self.name} translates {way} {own[way]} and not {way} {language}. Opus-MT has a model for each pair: "
                    "give --model with {to} in its name, or say that it is the same: --code "
                    + f"{language}={own[way]}."
                )
        self.choice(target)

    def ids(self, texts: Sequence[str], *, source: str, target: str) -> list[list[int]]:
        choice = self.choice(target)
        prefixed = [f"{choice} {text}" if choice else text for text in texts]
        return [list(one) for one in self.tokenizer(prefixed)["input_ids"]]

    def first_token(self, target: str) -> int | None:
        return None

    def text(self, ids: Sequence[int]) -> str:
        # The pieces are the target language's also where both sides share a vocabulary.
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, use_source_tokenizer=False)).strip()


def family_of(name: str, *, given: Mapping[str, str]) -> Family:
    """The family of the model of this name on the hub, or in this folder.

    Raises:
        DataError: there is no such model, or its files are damaged.
        ConfigError: it does not translate.
    """
    hf_logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type not in KINDS:
            raise ConfigError(
                f"--model {name} is a {config.model_type} model; expected one that translates: M2M100, NLLB or Marian "
                "(Opus-MT). Give one, such as facebook/m2m100_418M."
            )
        revision = _digest(Path(name)) if Path(name).is_dir() else config._commit_hash or "main"
        with warnings.catch_warnings(action="ignore"):  # a hint at a package that Marian's tokenizer does not need
            tokenizer = AutoTokenizer.from_pretrained(name, **revision_of(name, revision))
    except ConfigError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(
            f"--model {name} cannot be loaded: {first} Give the name of a translation model on the Hugging Face hub, or a "
            "folder that holds config.json, weights and a tokenizer."
        ) from None
    kind = Marian if config.model_type == "marian" else Multilingual
    return kind(name, config, tokenizer, revision=revision, given=given)


def revision_of(name: str, revision: str) -> dict[str, str]:
    """What to give `from_pretrained` so that it loads the very files whose revision is known."""
    return {} if Path(name).is_dir() else {"revision": revision}


def _digest(folder: Path) -> str:
    """sha256 of names and bytes of the files in a model's folder. Markdown and hidden files do not count."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    parts = [f"{path.name} {sha256(path)}" for path in files if path.suffix != ".md"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
