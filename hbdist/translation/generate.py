"""Generation of translations, in pieces and batches that depend only on the texts.

B pieces of one batch · L tokens, padded · T tokens of the longest translation
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM

from hbdist.distributed.rendezvous import gpu_index
from hbdist.errors import ConfigError, DataError
from hbdist.models.pretrained import first_line, incomplete
from hbdist.models.tokenizer import make_chunks, pad
from hbdist.translation.families import Family, pin_revision
from hbdist.translation.segments import join, split


@dataclass(frozen=True)
class Decoding:
    """Settings of generation; each may change the translations."""

    beams: int = 4
    """Number of beams; 1 is greedy decoding."""
    max_new_tokens: int = 256
    """Most tokens of a piece's translation; a translation that is longer is not used."""
    piece_tokens: int = 128
    """Most tokens of a piece. These models are trained on sentences, so a longer text is translated in pieces."""
    batch_tokens: int = 4096
    """Source tokens per batch, padding included. The most that fits in memory also depends on `beams`."""


class Translation(NamedTuple):
    """Translation of one text."""

    text: str
    finished: bool
    """True if the model ended the translation of every piece itself."""
    pieces: int
    broken: int
    """Number of sentences that were too long for one piece."""


@dataclass(frozen=True)
class Translator:
    """Translation model with its family and its decoding settings."""

    model: Any
    family: Family
    decoding: Decoding

    @classmethod
    def load(cls, family: Family, decoding: Decoding) -> "Translator":
        """Load the weights of a family's model, onto this rank's GPU if there is one.

        Raises:
            DataError: the weights are missing, damaged or incomplete.
        """
        try:
            model, loading = AutoModelForSeq2SeqLM.from_pretrained(
                family.name,
                dtype=getattr(torch, choose_precision()),
                output_loading_info=True,
                trust_remote_code=False,
                **pin_revision(family.name, family.revision),
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise DataError(f"--model {family.name} cannot be loaded: {first_line(error)} Fetch it again.") from None
        if loading["missing_keys"]:
            raise incomplete(f"--model {family.name}", loading["missing_keys"])
        # Marian's own settings force the end of a translation that gets too long, so that it would look finished.
        model.generation_config.forced_eos_token_id = None
        model.generation_config.max_length = None
        return cls(model.eval().to(choose_device()), family, decoding)

    def translate(self, texts: Sequence[str], *, source: str, target: str) -> list[Translation]:
        """Return the translations of the texts, in their order."""

        def fits(text: str) -> bool:
            return len(self.family.ids([text], source=source, target=target)[0]) <= self.decoding.piece_tokens

        texts_in_pieces = [split(text, fits) for text in texts]
        pieces_alone = [piece.text for text in texts_in_pieces for piece in text.pieces]
        ids = self.family.ids(pieces_alone, source=source, target=target)
        outputs = iter(self._generate(ids, target=target))
        translations: list[Translation] = []
        for pieces, broken in texts_in_pieces:
            own = list(islice(outputs, len(pieces)))
            text = join(pieces, [self._decode(output, target) for output in own], target=target)
            finished = all(self.model.generation_config.eos_token_id in output[1:] for output in own)
            translations.append(Translation(text, finished, len(pieces), broken))
        return translations

    @torch.no_grad()
    def _generate(self, ids: Sequence[Sequence[int]], *, target: str) -> list[list[int]]:
        """Return the tokens that the model generates for each piece, special tokens included."""
        outputs: list[list[int]] = [[] for _ in ids]
        first = self.family.first_token(target)
        for chunk in make_chunks(ids, self.decoding.batch_tokens):
            input_ids_BL, attention_mask_BL = pad([ids[index] for index in chunk], self.model.config.pad_token_id)
            output_BT: Tensor = self.model.generate(
                input_ids=input_ids_BL.to(self.model.device),
                attention_mask=attention_mask_BL.to(self.model.device),
                num_beams=self.decoding.beams,
                do_sample=False,
                max_new_tokens=self.decoding.max_new_tokens,
                **({"forced_bos_token_id": first} if first is not None else {}),
            )
            for index, output in zip(chunk, output_BT.tolist(), strict=True):
                outputs[index] = output
        return outputs

    def _decode(self, output: list[int], target: str) -> str:
        start = 1 + (self.family.first_token(target) is not None)
        special = {self.model.generation_config.eos_token_id, self.model.config.pad_token_id}
        return self.family.text([token for token in output[start:] if token not in special])


def check_limits(family: Family, decoding: Decoding) -> None:
    """Check that the model has enough positions for pieces and translations of these lengths.

    Raises:
        ConfigError: it does not.
    """
    options = {"--piece-tokens": decoding.piece_tokens, "--max-new-tokens": decoding.max_new_tokens + 1}
    for option, tokens in options.items():
        if tokens > family.positions:
            raise ConfigError(f"{option} is too large: {family.name} has {family.positions} positions. Give less.")


def choose_precision() -> str:
    """Return the precision to compute in: bfloat16 on a GPU that supports it, else float32."""
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


def choose_device() -> str:
    """Return this rank's GPU, or the CPU if there is none."""
    return f"cuda:{gpu_index(os.environ, torch.cuda.device_count())}" if torch.cuda.is_available() else "cpu"
