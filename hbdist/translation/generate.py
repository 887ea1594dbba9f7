"""A translation model at work: texts in, translations out, in pieces and batches that depend on the texts alone.

B pieces of one batch · L tokens, padded · T tokens of the longest translation
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM
from transformers.utils import logging as hf_logging

from hbdist.errors import ConfigError, DataError
from hbdist.models.tokenizer import make_chunks, pad
from hbdist.translation.families import Family, revision_of
from hbdist.translation.segments import Pieces, join, split


@dataclass(frozen=True)
class Decoding:
    """How translations are made. All of it may change them."""

    beams: int = 4
    """Of beam search; 1 is greedy."""
    max_new_tokens: int = 256
    """Of a piece's translation; a translation that is not finished by then is not used."""
    piece_tokens: int = 128
    """Most tokens of a piece. These models are trained on sentences, so a long text goes in as pieces."""
    batch_tokens: int = 4096
    """Source tokens of a batch, padded. What fits depends on the beams too."""


class Translation(NamedTuple):
    """A text's translation and how it came about."""

    text: str
    finished: bool
    """Whether the model ended all pieces by itself."""
    pieces: int
    broken: int
    """Sentences that were too long for a piece."""


class Translator:
    """A translation model, its family and its settings."""

    def __init__(self, model: Any, family: Family, decoding: Decoding) -> None:
        self.model = model
        self.family = family
        self.decoding = decoding

    @classmethod
    def load(cls, family: Family, decoding: Decoding) -> "Translator":
        """The weights of a family's model, on this rank's GPU where there is one.

        Raises:
            DataError: they are not there, damaged or incomplete.
        """
        hf_logging.set_verbosity_error()
        hf_logging.disable_progress_bar()
        try:
            model, loading = AutoModelForSeq2SeqLM.from_pretrained(
                family.name,
                dtype=getattr(torch, precision()),
                output_loading_info=True,
                **revision_of(family.name, family.revision),
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            first = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise DataError(f"--model {family.name} cannot be loaded: {first} Fetch it again.") from None
        if loading["missing_keys"]:
            raise DataError(
                f"--model {family.name} lacks {len(loading['missing_keys'])} weights of its own architecture, among them "
                f"{min(loading['missing_keys'])}: they would be random. Use a complete model."
            )
        # Marian's own settings end a translation by force where it gets too long, so that it would look finished.
        model.generation_config.forced_eos_token_id = None
        model.generation_config.max_length = None
        return cls(model.eval().to(device()), family, decoding)

    def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Translation]:
        """The translations of texts, in their order."""

        def fits(text: str) -> bool:
            return len(self.family.ids([text], source=source, target=target)[0]) <= self.decoding.piece_tokens

        cut = [split(text, fits) for text in texts]
        ids = self.family.ids([piece.text for one in cut for piece in one.pieces], source=source, target=target)
        outputs = self._generate(ids, target=target)
        ended = [self.model.generation_config.eos_token_id in output[1:] for output in outputs]
        done = [self.family.text(self._bare(output, target)) for output in outputs]
        return _joined(cut, done, ended, target=target)

    @torch.no_grad()
    def _generate(self, ids: Sequence[Sequence[int]], *, target: str) -> list[list[int]]:
        """The tokens that the model makes of each piece, with all special ones."""
        outputs: list[list[int]] = [[] for _ in ids]
        first = self.family.first_token(target)
        for chunk in make_chunks(ids, self.decoding.batch_tokens):
            input_ids_BL, attention_mask_BL = pad([ids[place] for place in chunk], self.model.config.pad_token_id)
            output_BT: Tensor = self.model.generate(
                input_ids=input_ids_BL.to(self.model.device),
                attention_mask=attention_mask_BL.to(self.model.device),
                num_beams=self.decoding.beams,
                do_sample=False,
                max_new_tokens=self.decoding.max_new_tokens,
                **({"forced_bos_token_id": first} if first is not None else {}),
            )
            for place, output in zip(chunk, output_BT.tolist(), strict=True):
                outputs[place] = output
        return outputs

    def _bare(self, output: list[int], target: str) -> list[int]:
        start = 1 + (self.family.first_token(target) is not None)
        special = {self.model.generation_config.eos_token_id, self.model.config.pad_token_id}
        return [token for token in output[start:] if token not in special]


def check_limits(family: Family, decoding: Decoding) -> None:
    """See that the model can take pieces of this size.

    Raises:
        ConfigError: it cannot.
    """
    for option, tokens in (
        ("--piece-tokens", decoding.piece_tokens),
        ("--max-new-tokens", decoding.max_new_tokens + 1),
    ):
        if tokens > family.positions:
            raise ConfigError(
                f"{option} is more than {family.name} can take, which has {family.positions} positions. Give less."
            )


def precision() -> str:
    """What a model computes in: float32 on the CPU, bfloat16 on a GPU that has it."""
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


def device() -> str:
    """This rank's GPU, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"


def _joined(cut: Sequence[Pieces], done: Sequence[str], ended: Sequence[bool], *, target: str) -> list[Translation]:
    translations: list[Translation] = []
    first = 0
    for one in cut:
        last = first + len(one.pieces)
        text = join(one.pieces, done[first:last], target=target)
        translations.append(Translation(text, all(ended[first:last]), len(one.pieces), one.broken))
        first = last
    return translations
