"""How long the texts of a step are, and the chunks they make, from the characters that the shards' indexes hold."""

from collections.abc import Mapping

import numpy as np

from hbdist.config.config import Config
from hbdist.data.batching.schedule import Schedule, deal_to_ranks
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import ShardReader
from hbdist.errors import ConfigError
from hbdist.models.tokenizer import make_chunks

STEPS, PAIRS = 32, 16_384
"""Steps that are looked at: so many, or those that have so many pairs, but two at least."""
SHORTEST = 2
"""Tokens of an empty text: two special ones."""
StepTokens = tuple[np.ndarray, np.ndarray]
"""Tokens of each query and of each document of a step on one rank, hard negatives included."""


class Lengths:
    """Tokens of the texts on rank 0, to which the longest pairs are dealt.

    A text has as many as its characters times the tokens a character of its language, up to the limit of its kind. A hard
    negative is taken to be as long as the pair's own document.

    Args:
        token_rates: tokens a character of each language (see `measure_token_rates`).
    """

    def __init__(self, config: Config, manifest: Manifest, token_rates: Mapping[str, float], *, ranks: int) -> None:
        self.config = config
        self.manifest = manifest
        self.reader = ShardReader(manifest)
        self.token_rates = token_rates
        self.ranks = ranks
        self._known: dict[int, list[StepTokens]] = {}

    def of_first_steps(self, batch: int) -> list[StepTokens]:
        """Of the run's first steps, with so many pairs over all ranks.

        Raises:
            ConfigError: such batches cannot be made from these shards, or have fewer pairs than there are ranks.
        """
        if self.ranks > batch:
            raise ConfigError(f"batch.size = {batch} is less than the {self.ranks} ranks: some would have no pair.")
        if batch not in self._known:
            section = self.config.batch.model_copy(update={"size": batch})
            schedule = Schedule.of(self.config.model_copy(update={"batch": section}), self.manifest)
            steps = min(self.config.steps, STEPS, max(2, PAIRS // batch))
            self._known[batch] = [self._of_step(schedule, step) for step in range(steps)]
        return self._known[batch]

    def _of_step(self, schedule: Schedule, step: int) -> StepTokens:
        batch = schedule.batch(step)
        tokens = np.empty((2, len(batch)))
        for number in np.unique(batch.group):
            here, group = batch.group == number, self.manifest.groups[number]
            query, document = self.reader.lengths(int(number), batch.row[here])
            tokens[:, here] = (
                query * self.token_rates[group.query_lang],
                document * self.token_rates[group.document_lang],
            )
        mine, model = deal_to_ranks(tokens.sum(axis=0), self.ranks)[0], self.config.model
        query_B, document_B = np.ceil(tokens[:, mine]).astype(np.int64)
        return (
            query_B.clip(SHORTEST, model.max_query_tokens),
            np.tile(document_B.clip(SHORTEST, model.max_document_tokens), 1 + self.config.loss.hard_negatives),
        )


def chunk_shapes(tokens_B: np.ndarray, chunk_tokens: int) -> list[tuple[int, int]]:
    """Texts and padded tokens of each chunk that texts of so many tokens are cut into."""
    texts = [range(tokens) for tokens in tokens_B.tolist()]
    return [(len(places), len(texts[places[0]])) for places in make_chunks(texts, chunk_tokens)]
