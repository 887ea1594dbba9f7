"""Schedule for other trainers: a batch sampler for a PyTorch `DataLoader`, and the shards as a map-style dataset.

manifest = Manifest.load("shards/built/demo")
schedule = Schedule.of(config, manifest)
sampler = HybridBatchSampler(schedule, rank, world, steps=config.steps)
for pairs in DataLoader(PairDataset(manifest), batch_sampler=sampler, collate_fn=list, num_workers=2):
    ...
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hbdist.data.batching.schedule import GlobalBatch, Schedule, deal_to_rank
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import Pair, ShardReader


class HybridBatchSampler:
    """Batch sampler of one rank: for each step, its pairs of the global batch, as a list of (group index, row).

    Together, the lists of all ranks are the global batch, each pair once, for any number of ranks; their lengths differ
    by one at most. There are no epochs to set: each iteration continues from `step`. A `DataLoader` with workers fetches
    batches ahead, so `step` is then ahead of training: keep your own count of completed steps, and restore it with
    `load_state_dict({"step": done})` or `start=done`.

    Args:
        schedule: the same on every rank.
        steps: number of steps of the run, after which iteration ends; unset: never.
        lengths: approximate length of each pair of a batch, [B], the same on every rank: ranks then get about equally
            many tokens. Unset: all pairs count as equally long.
    """

    def __init__(
        self,
        schedule: Schedule,
        rank: int,
        world: int,
        *,
        start: int = 0,
        steps: int | None = None,
        lengths: Callable[[GlobalBatch], np.ndarray] | None = None,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} of {world} ranks; expected 0 to {world - 1}")
        self.schedule = schedule
        self.rank = rank
        self.world = world
        self.step = start
        """The next step."""
        self.steps = steps
        self.lengths = lengths

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        while self.steps is None or self.step < self.steps:
            batch = self.schedule.batch(self.step)
            lengths = self.lengths(batch) if self.lengths else np.zeros(len(batch))
            of_rank = deal_to_rank(lengths, self.rank, self.world)
            self.step += 1
            yield list(zip(batch.group[of_rank].tolist(), batch.row[of_rank].tolist(), strict=True))

    def __len__(self) -> int:
        """Return the number of remaining steps.

        Raises:
            TypeError: the sampler has no last step.
        """
        if self.steps is None:
            raise TypeError("a HybridBatchSampler without steps has no length; give it steps=…")
        return max(0, self.steps - self.step)

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


class PairDataset:
    """Map-style dataset of a shard folder: item (group index, row) is one pair. Can be sent to worker processes."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._reader = ShardReader(manifest)

    def __len__(self) -> int:
        return self.manifest.rows

    def __getitem__(self, item: tuple[int, int]) -> Pair:
        """Return one pair.

        Raises:
            DataError: its shard is missing or damaged.
        """
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[tuple[int, int]]) -> list[Pair]:
        """Return the pairs of a whole batch, read shard by shard; `DataLoader` calls this method if it exists."""
        groups, rows = np.array(items, dtype=np.int64).reshape(-1, 2).T
        return self._reader.read(groups, rows)
