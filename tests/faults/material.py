"""What every trial trains on: a tiny encoder, tiny shards in both layouts, a tiny task; and the runs that nothing disturbed."""

import fcntl
import gzip
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from injection import at_change, count_changes, die
from launching import ROOT
from processes import start_command, start_run

from hbdist.data.build.build import build

LANGUAGES = ("en", "de", "th")
STEPS, EVERY = 12, 3
PATIENCE_S = 240.0
"""Seconds that a start may take before the trial counts as hanging."""

CONFIG = """
seed = 3
steps = {steps}
[data]
shards = "{folder}/shards"
[model]
name = "{folder}/model"
max_query_tokens = 16
max_document_tokens = 24
dropout = 0.1
[batch]
size = 12
cross_block = 3
[loss]
temperature = 0.05
learn_temperature = true
chunk_tokens = 256
[optimizer]
lr = 1e-3
[checkpoint]
every = {every}
[validation]
every = 4
batch_size = 6
batches = 2
keep = "best"
[evaluation]
every = 6
tasks = ["parallel:{folder}/task"]
[run]
log_batches = true
"""
RECIPE = """
pairs_per_group = 40
validation = 0.2
[[dataset]]
name = "ntrex"
reader = "jsonl"
parallel = true
layout = "parallel"
files = { en = "en.jsonl", de = "de.jsonl", th = "th.jsonl" }
[[dataset]]
name = "made"
reader = "jsonl"
files = { en = "made.en.jsonl", de = "made.de.jsonl" }
"""


@dataclass(frozen=True)
class Way:
    """How a run is trained: on how many ranks, with which strategy."""

    ranks: int = 1
    zero: int | None = None

    @property
    def name(self) -> str:
        strategy = "DDP" if self.zero is None else f"ZeRO-{self.zero}"
        return f"{self.ranks}×{strategy}"

    @property
    def overrides(self) -> list[str]:
        return [] if self.zero is None else [f"engine.deepspeed={ROOT}/launch/deepspeed/zero{self.zero}.json"]


@dataclass(frozen=True)
class Material:
    """The campaign's folder: what trials train on, and the references."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    @property
    def recipe(self) -> Path:
        return self.folder / "sources" / "recipe.toml"

    def make(self) -> None:
        """Make the model, shards, task and config, unless they are there."""
        if self.config.is_file():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "sources").mkdir(parents=True)
        texts = _write_sources(self.folder)
        _make_model(self.folder / "model", texts)
        build(self.recipe, self.shards, workers=1)
        self.config.write_text(CONFIG.format(folder=self.folder, steps=STEPS, every=EVERY), encoding="utf-8")

    def reference(self, way: Way, *overrides: str) -> Path:
        """Return the folder of an undisturbed run, trained once."""
        name = "-".join([way.name, *overrides])
        return self._once(f"run {name}", lambda folder: self._train(folder, way, overrides))

    def outputs(self) -> Path:
        """Return a folder with what undisturbed commands wrote: `scores` of `hbdist evaluate`."""
        return self._once("outputs", self._evaluate)

    def midway(self) -> Path:
        """Return the folder of a run that was killed after its seventh step; its newest checkpoint is of step 6."""
        return self._once("midway", self._stop_midway) / "run"

    def _train(self, folder: Path, way: Way, overrides: tuple[str, ...]) -> None:
        arguments = [str(self.config), *way.overrides, *overrides, f"run.folder={folder / 'run'}"]

        def prepare(rank: int) -> None:
            if rank == 0:
                count_changes(folder / "run", folder / "changes")

        start = start_run(folder / "starts", arguments, ranks=way.ranks, variables=variables(folder), prepare=prepare)
        status = start.wait(PATIENCE_S)
        assert status == 0, f"the undisturbed run {way.name} ended with status {status}:\n{start.output[-3000:]}"

    def _evaluate(self, folder: Path) -> None:
        words = evaluation_words(self, self.reference(Way()) / "run/model", folder / "scores")
        start = start_command(
            folder / "starts",
            words,
            variables=variables(folder),
            prepare=lambda _: count_changes(folder, folder / "changes"),
        )
        assert start.wait(PATIENCE_S) == 0, start.output[-3000:]

    def _stop_midway(self, folder: Path) -> None:
        changes = self.changes(self.reference(Way()))
        eighth = [number for number, path in enumerate(changes, 1) if path.endswith("metrics.jsonl")][7]
        start = start_run(
            folder / "starts",
            [str(self.config), f"run.folder={folder / 'run'}"],
            ranks=1,
            variables=variables(folder),
            prepare=lambda _: at_change(folder / "run", eighth, die, folder / "struck"),
        )
        assert start.wait(PATIENCE_S) == -9, start.output[-3000:]

    @staticmethod
    def changes(reference: Path) -> list[str]:
        """Return the path, after its kind, of each change of a file that rank 0 made in an undisturbed run."""
        return (reference / "changes").read_text(encoding="utf-8").split("\n")[:-1]

    def _once(self, name: str, make: Any) -> Path:
        folder = self.folder / "references" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            if not folder.is_dir():
                unfinished = folder.with_name(f"unfinished {name}")
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
        return folder


def evaluation_words(material: Material, model: Path, out: Path) -> list[str]:
    """Return the words of a command that evaluates a model on the tiny task."""
    return ["evaluate", str(model), "--task", f"parallel:{material.folder / 'task'}", "--out", str(out)]


def variables(folder: Path) -> dict[str, str]:
    """Return variables that keep a process's temporary and cached files below a folder."""
    for name in ("tmp", "cache", "home"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return {
        "TMPDIR": str(folder / "tmp"),
        "HBDIST_CACHE": str(folder / "cache"),
        "HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "DS_ACCELERATOR": "cpu",
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        os.set_inheritable(file.fileno(), False)
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield


def _write_sources(folder: Path) -> list[str]:
    """Write the recipe, its files and the task; return all texts."""
    texts: list[str] = []
    for language in LANGUAGES:
        shipped = ROOT / "shards/demo/train/ntrex" / f"{language}.jsonl.gz"
        rows = [json.loads(line) for line in gzip.decompress(shipped.read_bytes()).decode().split("\n")[:84]]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows[:64]]
        (folder / "sources" / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        texts += [text for row in rows for text in (row["query"], row["document"])]
        task = folder / "task" / f"{language}.txt"
        task.parent.mkdir(exist_ok=True)
        task.write_text("".join(row["query"].replace("\n", " ") + "\n" for row in rows[64:84]), encoding="utf-8")
    for language in ("en", "de"):
        made = [_made(number, language) for number in range(40)]
        path = folder / "sources" / f"made.{language}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    (folder / "sources" / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    return texts


def _made(number: int, language: str) -> dict[str, Any]:
    query, document = f"what is said in {language} of {number}", f"{number} is said in {language} to be {number**2}"
    return {"id": f"{language}{number}", "query": query, "document": document, "negatives": [f"{number} is not so"]}


def _make_model(folder: Path, texts: list[str]) -> None:
    """Make a random two-layer BERT with pieces learned from the texts, and dropout in its config."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = Tokenizer(models.BPE(unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace()
    pieces.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=1500, special_tokens=special, show_progress=False))
    pieces.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=pieces, model_max_length=64, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=pieces.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
