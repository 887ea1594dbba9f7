"""Lengths of a step's texts and of the chunks they are cut into, estimated from the characters in the shards' indexes."""

from collections.abc import Mapping

import numpy as np

from hbdist.config.config import Config
from hbdist.data.batching.schedule import Schedule, deal_to_rank
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import ShardReader
from hbdist.errors import ConfigError
from hbdist.models.tokenizer import make_chunks
from hbdist.training.loader import estimate_tokens

STEPS, PAIRS = 32, 16_384
"""Maximum number of steps examined, and of pairs in them; at least two steps are examined."""
SHORTEST = 2
"""Tokens of an empty text: two special ones."""
StepTokens = tuple[np.ndarray, np.ndarray]
"""Tokens of each query and of each document of a step on one rank, hard negatives included."""


class TextLengths:
    """Tokens of the texts on rank 0, to which the longest pairs are dealt.

    The tokens of a text are its characters times its language's tokens per character, up to the limit of its kind. A hard
    negative is assumed to be as long as the pair's own document.

    Args:
        token_rates: tokens per character of each language (see `measure_token_rates`).
    """

    def __init__(self, config: Config, manifest: Manifest, token_rates: Mapping[str, float], *, ranks: int) -> None:
        self.config, self.manifest, self.token_rates, self.ranks = config, manifest, token_rates, ranks
        self.reader = ShardReader(manifest)
        self._cache: dict[int, list[StepTokens]] = {}

    def first_steps(self, batch: int) -> list[StepTokens]:
        """Return the lengths in the run's first steps, with `batch` pairs over all ranks.

        Raises:
            ConfigError: such batches cannot be made from these shards, or have fewer pairs than there are ranks.
        """
        if self.ranks > batch:
            raise ConfigError(f"batch.size = {batch} is less than the {self.ranks} ranks: some would have no pair.")
        if batch not in self._cache:
            section = self.config.batch.model_copy(update={"size": batch})
            schedule = Schedule.of(self.config.model_copy(update={"batch": section}), self.manifest)
            steps = min(self.config.steps, STEPS, max(2, PAIRS // batch))
            self._cache[batch] = [self._step(schedule, step) for step in range(steps)]
        return self._cache[batch]

    def _step(self, schedule: Schedule, step: int) -> StepTokens:
        tokens = estimate_tokens(self.reader, self.manifest, schedule.batch(step), self.token_rates)
        dealt, model = deal_to_rank(tokens.sum(axis=0), 0, self.ranks), self.config.model
        query_B, document_B = np.ceil(tokens[:, dealt]).astype(np.int64)
        return (
            query_B.clip(SHORTEST, model.max_query_tokens),
            np.tile(document_B.clip(SHORTEST, model.max_document_tokens), 1 + self.config.loss.hard_negatives),
        )


def chunk_shapes(tokens_B: np.ndarray, chunk_tokens: int) -> list[tuple[int, int]]:
    """Return the number of texts and the padded length of each chunk, given the tokens of each text."""
    texts = [range(tokens) for tokens in tokens_B.tolist()]
    return [(len(indices), len(texts[indices[0]])) for indices in make_chunks(texts, chunk_tokens)]
