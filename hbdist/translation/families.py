"""The supported families of translation models, M2M100, NLLB and Marian (Opus-MT), and their names for languages.

They load tokenizers but no weights, so that an unsupported language is reported before any weights are loaded.
"""

import difflib
import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

from hbdist.errors import ConfigError, DataError
from hbdist.models.language_codes import FLORES, flores_code
from hbdist.models.language_tokens import LanguageTokens
from hbdist.models.pretrained import first_line
from hbdist.translation.languages import OPUS
from hbdist.utils.files import sha256

MODEL_TYPES = ("m2m_100", "nllb-moe", "marian")
"""`model_type` of the supported translation models; M2M100 and the dense NLLB share one."""


@dataclass(eq=False)
class Family(ABC):
    """Tokenizer of a translation model and the languages that the model supports."""

    name: str
    """Name of the model on the hub, or its folder."""
    positions: int
    """Most tokens of a text, in the source or the target language."""
    tokenizer: Any
    revision: str
    """Commit on the hub, or the digest of a folder."""
    codes: Mapping[str, str]
    """hbdist code → the model's code, as given by the user."""

    @abstractmethod
    def check(self, *, source: str, target: str) -> None:
        """Check that the model translates from `source` into `target`.

        Raises:
            ConfigError: it does not, or has other names for these languages.
        """

    @abstractmethod
    def ids(self, texts: Sequence[str], *, source: str, target: str) -> list[list[int]]:
        """Return the token ids of each text, not truncated, with the special tokens that the model expects."""

    @abstractmethod
    def first_token(self, target: str) -> int | None:
        """Return the token that a translation into `target` must begin with, or None if there is none."""

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def unsupported(self, language: str, supported: Collection[str], nearest: Sequence[str]) -> ConfigError:
        """Return the error for a language that is not one of the supported ones, of which `nearest` look most like it."""
        return ConfigError(
            f"{self.name} does not support the language {self.codes.get(language, language)}; it supports {len(supported)} "
            f"languages, the closest by name {', '.join(nearest)}. Leave the language out, or give the model's name for it: "
            f"--code {language}=NAME."
        )


class Multilingual(Family):
    """M2M100 (arXiv 2010.11125) and NLLB-200 (arXiv 2207.04672): any language into any, chosen by language tokens."""

    @cached_property
    def tokens(self) -> LanguageTokens:
        """The model's language tokens."""
        tokens = LanguageTokens.from_tokenizer(self.tokenizer)
        assert tokens is not None, f"{self.name} translates without language tokens"
        return tokens

    def code(self, language: str) -> str:
        """Return the model's code for an hbdist language code.

        Raises:
            ConfigError: the model does not support the language.
        """
        code = self.codes.get(language) or self.tokens.code(language)
        if code is None or code not in self.tokens.ids:
            raise self.unsupported(language, self.tokens.ids, self.tokens.nearest(self.codes.get(language, language)))
        return code

    def check(self, *, source: str, target: str) -> None:
        if self.code(source) == self.code(target):
            raise ConfigError(
                f"{self.name} has one name for both {source} and {target}, {self.code(source)}. Leave one of them out."
            )

    def ids(self, texts: Sequence[str], *, source: str, target: str) -> list[list[int]]:
        self.tokenizer.src_lang = self.code(source)
        return [list(one) for one in self.tokenizer(list(texts))["input_ids"]]

    def first_token(self, target: str) -> int | None:
        return self.tokens.ids[self.code(target)]


class Marian(Family):
    """Opus-MT: one language into one, or into several, chosen by a token such as `>>swa<<` before the text."""

    @cached_property
    def targets(self) -> list[str]:
        """Target languages that a token can choose; empty if the model has only one."""
        return [token.strip("<>") for token in self.tokenizer.supported_language_codes]

    def names(self, language: str) -> list[str]:
        """Return the names that Opus-MT may have for an hbdist language code, the likeliest first."""
        if language in self.codes:
            return [self.codes[language]]
        flores = flores_code(language)
        names = [language, OPUS.get(language, ""), flores.partition("_")[0], flores, language.partition("_")[0]]
        return [name for name in dict.fromkeys(names) if name]

    def target_token(self, target: str) -> str | None:
        """Return the token that chooses the target language; None if the model has only one.

        Raises:
            ConfigError: the model does not translate into the language.
        """
        if not self.targets:
            return None
        name = next((name for name in self.names(target) if name in self.targets), None)
        if name is None:
            nearest = difflib.get_close_matches(self.codes.get(target, target), self.targets, n=3, cutoff=0.0)
            raise self.unsupported(target, self.targets, nearest)
        return f">>{name}<<"

    def check(self, *, source: str, target: str) -> None:
        own = {"from": self.tokenizer.source_lang, "into": None if self.targets else self.tokenizer.target_lang}
        for direction, language in (("from", source), ("into", target)):
            # A model for a group of languages has `mul` or `ROMANCE` here, which is not the name of any language.
            is_language = own[direction] and any(own[direction] in self.names(known) for known in FLORES)
            if is_language and own[direction] not in self.names(language):
                raise ConfigError(
                    f"{self.name} translates {direction} {own[direction]}, not {direction} {language}. Opus-MT has a model "
                    "for each pair: give --model with {to} in its name, or say that the two are the same language: --code "
                    + f"{language}={own[direction]}."
                )
        self.target_token(target)

    def ids(self, texts: Sequence[str], *, source: str, target: str) -> list[list[int]]:
        token = self.target_token(target)
        prefixed = [f"{token} {text}" if token else text for text in texts]
        return [list(one) for one in self.tokenizer(prefixed)["input_ids"]]

    def first_token(self, target: str) -> int | None:
        return None

    def text(self, ids: Sequence[int]) -> str:
        # The tokens are the target language's even if both sides share a vocabulary.
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, use_source_tokenizer=False)).strip()


def load_family(name: str, *, codes: Mapping[str, str]) -> Family:
    """Load the tokenizer and the config of a translation model by its name on the hub or its folder.

    Raises:
        DataError: the model does not exist, or its files are damaged.
        ConfigError: it is not a supported translation model.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type not in MODEL_TYPES:
            raise ConfigError(
                f"--model {name} is a {config.model_type} model; expected a translation model: M2M100, NLLB or Marian "
                "(Opus-MT). Give one of these, such as facebook/m2m100_418M."
            )
        revision = _digest(Path(name)) if Path(name).is_dir() else config._commit_hash or "main"
        with warnings.catch_warnings(action="ignore"):  # Marian recommends a package that it does not need
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **pin_revision(name, revision))
    except ConfigError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise DataError(
            f"--model {name} cannot be loaded: {first_line(error)} Give the name of a translation model on the Hugging Face "
            "hub, or a folder that holds config.json, weights and a tokenizer."
        ) from None
    family = Marian if config.model_type == "marian" else Multilingual
    return family(name, int(config.max_position_embeddings), tokenizer, revision, codes)


def pin_revision(name: str, revision: str) -> dict[str, str]:
    """Return the arguments that make `from_pretrained` load the files of this revision."""
    return {} if Path(name).is_dir() else {"revision": revision}


def _digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of a model's files, without Markdown and hidden files."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    parts = [f"{path.name} {sha256(path)}" for path in files if path.suffix != ".md"]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
