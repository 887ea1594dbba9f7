"""Script of test_foreign_trainer.py, run on each rank: the trainer of sentence-transformers on the schedule's batches.

python -m torch.distributed.run --nproc-per-node 2 foreign_trainer.py SHARDS MODEL OUT
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from hbdist.config.config import Config
from hbdist.data.batching.sampler import HybridBatchSampler, PairDataset
from hbdist.data.batching.schedule import Schedule
from hbdist.data.shards.manifest import Manifest

shards, model_folder, out = sys.argv[1:]
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
values = {"steps": 4, "data": {"shards": shards}, "model": {"name": model_folder}, "batch": {"size": 8}}
config = Config.check(values, source="the example")
manifest = Manifest.load(shards)
schedule = Schedule.of(config, manifest)
first_row = np.cumsum([0, *(group.rows for group in manifest.groups)])


class HybridForTrainer(DefaultBatchSampler):
    """Sampler for the trainer, which deals batches to its processes in turn: a step is one list of rows for each."""

    def __iter__(self) -> Iterator[list[int]]:
        samplers = [HybridBatchSampler(schedule, number, world, steps=config.steps) for number in range(world)]
        for parts in zip(*samplers, strict=True):
            for part in parts:
                yield [int(first_row[group]) + row for group, row in part]

    def __len__(self) -> int:
        return config.steps * world


class WatchedLoss(MultipleNegativesRankingLoss):
    """Loss that records the sum of the token ids of each batch's queries."""

    def forward(self, features, labels):  # type: ignore[no-untyped-def]
        features = list(features)
        trained.append(features[0]["input_ids"].sum().item())
        return super().forward(features, labels)


pairs = PairDataset(manifest)
items = [(number, row) for number, group in enumerate(manifest.groups) for row in range(group.rows)]
texts = pairs.__getitems__(items)
rows = Dataset.from_dict({"query": [pair.query for pair in texts], "document": [pair.document for pair in texts]})
trained: list[int] = []
model = SentenceTransformer(model_folder, device="cpu")
arguments = SentenceTransformerTrainingArguments(
    output_dir=out,
    max_steps=config.steps,
    per_device_train_batch_size=config.batch.size // world,
    batch_sampler=HybridForTrainer,
    use_cpu=True,
    report_to=[],
    save_strategy="no",
)
SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=WatchedLoss(model)).train()
planned = [
    int(torch.tensor(model.tokenizer([pairs[item].query for item in batch], padding=True)["input_ids"]).sum())
    for batch in HybridBatchSampler(schedule, rank, world, steps=config.steps)
]
Path(out, f"{rank}.json").write_text(json.dumps({"trained": trained, "planned": planned}), encoding="utf-8")
