"""Folders as an older version leaves them, for the tests beside this file.

    git worktree add OLD 2f82de6                 # the last commit before the files were moved into folders
    PYTHONPATH=OLD python tests/compatibility/make.py tests/compatibility/2f82de6.tar.xz

Everything is small: 30 pairs in three languages, a one-layer encoder that knows 120 characters. All paths in it are
relative to the folder that is packed, so a test unpacks it anywhere and works there.
"""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

LANGUAGES = ("en", "de", "th")
ROWS = 30

RECIPE = """

[[dataset]]
name = "made"
reader = "jsonl"
parallel = true
layout = "{layout}"
files = {{ en = "source/en.jsonl", de = "source/de.jsonl", th = "source/th.jsonl" }}
"""
CONFIG = """
seed = 3
steps = 8
[data]
shards = "shards"
[model]
name = "encoder"
dropout = 0
max_query_tokens = 24
max_document_tokens = 32
[batch]
size = 12
mono_share = 0.5
[optimizer]
lr = 1e-3
warmup_steps = 2
[checkpoint]
every = 4
keep = 3
[run]
log_batches = true
"""
STUDY = """
name = "small"
question = "Does it work?"
base = "base.toml"
folder = "study"
seeds = [1]
[grid]
"batch.mono_share" = [0.0, 1.0]
[[measure]]
task = "parallel:sentences"
name = "sentences"
[measure.columns]
"recall@1" = "cross_lingual.recall@1"
"""


def text(number: int, language: str, kind: str) -> str:
    """Return one sentence of a language; no two are equal."""
    words = {"en": "alpha bravo charlie delta", "de": "äpfel birnen kirschen datteln", "th": "หนึ่ง สอง สาม สี่"}[
        language
    ].split()
    return f"{kind} {words[number % 4]} {words[number // 4 % 4]} {number}"


def make_sources(folder: Path) -> None:
    (folder / "source").mkdir()
    (folder / "sentences").mkdir()
    for language in LANGUAGES:
        rows = [
            {"id": f"i{n}", "query": text(n, language, "q"), "document": text(n, language, "d")} for n in range(ROWS)
        ]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / "source" / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if language != "th":
            sentences = [text(n, language, "s") for n in range(8)]
            (folder / "sentences" / f"{language}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    for layout, name in (("pairs", "recipe.toml"), ("parallel", "parallel.toml")):
        (folder / name).write_text(RECIPE.format(layout=layout), encoding="utf-8")
    (folder / "base.toml").write_text(CONFIG, encoding="utf-8")
    (folder / "study-file.toml").write_text(STUDY, encoding="utf-8")


def make_encoder(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    letters = sorted(
        {letter for language in LANGUAGES for n in range(ROWS) for kind in "qds" for letter in text(n, language, kind)}
    )
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters]
    tokenizer = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(known),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
        ),
        add_pooling_layer=False,
    ).save_pretrained(folder)


def hbdist(folder: Path, *words: str, fails: bool = False) -> None:
    done = subprocess.run([sys.executable, "-m", "hbdist", *words], cwd=folder, check=False)
    assert bool(done.returncode) == fails, words


def make_all(folder: Path) -> None:
    make_sources(folder)
    make_encoder(folder / "encoder")
    for recipe, out in (("recipe.toml", "shards"), ("parallel.toml", "parallel")):
        hbdist(folder, "build", recipe, "--out", out)
    hbdist(folder, "train", "base.toml", "run.folder=finished")
    hbdist(folder, "evaluate", "finished/model", "--task", "parallel:sentences", "--out", "finished/scores")
    # As a kill -9 after step 6 leaves it: the newest checkpoint is that of step 4, the logs go further.
    shutil.copytree(
        folder / "finished",
        folder / "killed",
        ignore=shutil.ignore_patterns("model", "scores", "outcome.json", "000000008"),
    )
    (folder / "killed/checkpoints/latest").write_text("000000004\n", encoding="utf-8")
    config = folder / "killed/config.toml"
    config.write_text(config.read_text(encoding="utf-8").replace("finished", "killed"), encoding="utf-8")
    for name in ("metrics.jsonl", "batches.jsonl"):
        lines = (folder / "killed" / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / "killed" / name).write_text("".join(lines[:6]), encoding="utf-8")
    make_jobs(folder)
    hbdist(folder, "study", "submit", "study-file.toml", "--cluster", "debug")


def make_jobs(folder: Path) -> None:
    """Run jobs: one that is done, one whose input is wrong, one that trains, one that is cancelled."""
    os.chdir(folder)
    from hbdist.launch import Command, JobError, Resources, submit_all

    here = Resources(cluster="local", snapshot=False)
    for name, words in (
        ("done", ("plan", "base.toml")),
        ("invalid", ("plan", "base.toml", "batch.sice=4")),
        ("trained", ("train", "base.toml", "run.folder=jobs/trained", "steps=2")),
    ):
        handle = submit_all([Command(words)], here, names=[name], folder="jobs")[0]
        try:
            handle.result(120)
        except JobError as error:
            print(error)
    handle = submit_all(
        [Command(("train", "base.toml", "run.folder=jobs/cancelled", "steps=100000"))],
        here,
        names=["cancelled"],
        folder="jobs",
    )[0]
    while not Path("jobs/cancelled/checkpoints/latest").exists():
        time.sleep(0.02)
    handle.cancel()
    while handle.state not in ("cancelled", "done"):
        time.sleep(0.2)


def relative(folder: Path) -> None:
    """Take the machine's own paths out of every file."""
    for path in folder.rglob("submission.json"):
        values = json.loads(path.read_text(encoding="utf-8")) | {"by": "make.py"}
        path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    for path in folder.rglob("*"):
        if path.is_symlink():
            path.unlink()
        elif path.is_file() and path.suffix in {".json", ".toml", ".txt", ".jsonl", ".html", ".log", ".csv", ".md"}:
            content = path.read_text(encoding="utf-8")
            if str(folder) in content:
                content = content.replace(f"{folder}/", "").replace(str(folder), ".")
            path.write_text(content.replace(sys.executable, "python"), encoding="utf-8")


def pack(folder: Path, out: Path) -> None:
    dropped = shutil.ignore_patterns("report.html", "*.tex", "*.md", "*.pkl", "logs")
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept, ignore=dropped)
    with tarfile.open(out, "w:xz") as tar:
        for path in sorted(kept.rglob("*")):
            info = tar.gettarinfo(path, path.relative_to(kept).as_posix())
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            with path.open("rb") if path.is_file() else open(os.devnull, "rb") as file:
                tar.addfile(info, file if path.is_file() else None)


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    with tempfile.TemporaryDirectory() as made:
        place = Path(made) / "made"
        place.mkdir()
        make_all(place)
        relative(place)
        pack(place, target)
    print(f"{target}: {target.stat().st_size:,} bytes")
