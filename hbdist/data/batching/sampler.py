"""The schedule for other trainers: a batch sampler for a PyTorch `DataLoader`, and the shards as a map-style dataset.

manifest = Manifest.load("shards/built/demo")
schedule = Schedule.of(config, manifest)
sampler = HybridBatchSampler(schedule, rank, world, steps=config.steps)
for pairs in DataLoader(PairDataset(manifest), batch_sampler=sampler, collate_fn=list, num_workers=2):
    ...
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hbdist.data.batching.schedule import GlobalBatch, Schedule, deal_to_ranks
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import Pair, ShardReader


class HybridBatchSampler:
    """For each step this rank's pairs of the global batch, as a list of (group of the manifest, row of the group).

    The ranks' lists together are the global batch, each pair once, for any number of ranks; their lengths differ by one
    at most. There are no epochs to set: an iteration goes on from `step`. A `DataLoader` with workers asks ahead, and so
    `step` is then ahead of what was trained on: keep your own count of steps, and put it back with
    `load_state_dict({"step": done})` or `start=done`.

    Args:
        schedule: the same on every rank.
        rank, world: this process's place, and how many there are.
        start: step to begin with.
        steps: the run's number of steps, at which iteration ends; unset: never.
        lengths: about how long each pair of a batch is, [B], the same on every rank: ranks then get about as many tokens
            each. Unset: all count as equally long.
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
            mine = self._mine(self.step)
            self.step += 1
            yield mine

    def __len__(self) -> int:
        """Steps that are left.

        Raises:
            TypeError: there is no last one.
        """
        if self.steps is None:
            raise TypeError("a HybridBatchSampler without steps has no length; give it steps=…")
        return max(0, self.steps - self.step)

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]

    def _mine(self, step: int) -> list[tuple[int, int]]:
        batch = self.schedule.batch(step)
        lengths = self.lengths(batch) if self.lengths else np.zeros(len(batch))
        mine = deal_to_ranks(lengths, self.world)[self.rank]
        return list(zip(batch.group[mine].tolist(), batch.row[mine].tolist(), strict=True))


class PairDataset:
    """The pairs of a shard folder: item (group, row) is one pair. Can be sent to worker processes."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._reader = ShardReader(manifest)

    def __len__(self) -> int:
        return self.manifest.rows

    def __getitem__(self, place: tuple[int, int]) -> Pair:
        """The pair.

        Raises:
            DataError: its shard is missing or damaged.
        """
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> list[Pair]:
        """The pairs of a whole batch, read shard by shard: a `DataLoader` asks so."""
        groups, rows = np.array(places, dtype=np.int64).reshape(-1, 2).T
        return self._reader.read(groups, rows)
