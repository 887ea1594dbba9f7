"""Targets that read data: training sources, recipes, manifests, evaluation sets, translations."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from shard_sources import write_jsonl
from task_files import json_lines, write_text

from fuzz.campaign import Target
from hbdist.config.config import Config
from hbdist.data.batching.schedule import Schedule
from hbdist.data.build.build import build
from hbdist.data.build.decontamination import ContaminationFilter
from hbdist.data.build.recipe import Decontaminate, Recipe
from hbdist.data.shards import manifest as manifests
from hbdist.data.shards.manifest import Manifest
from hbdist.data.shards.read import ShardReader
from hbdist.data.sources.corpora import read_beir
from hbdist.data.sources.files import read_csv, read_json_or_jsonl, read_jsonl, read_lines, read_squad
from hbdist.data.sources.rows import Row, rows_of, unusable
from hbdist.evaluation.tasks.registry import load_task
from hbdist.evaluation.tasks.sentences import sentence_breaks
from hbdist.evaluation.tasks.squad import published_breaks, read_sentences
from hbdist.runs.plan import Plan
from hbdist.translation.output import Folder, Part
from hbdist.translation.source import read_examples

LANGUAGES = ("en", "de")


def rows(language: str, count: int = 8) -> list[dict[str, Any]]:
    """Rows of a source with everything that a row may have."""
    return [
        {
            "id": f"i{n}",
            "kind": "xy"[n % 2],
            "query": f"what is {n} in {language}",
            "document": f"it is {n} ü 語 in {language}",
        }
        | ({"document_id": f"d{n // 2}", "negatives": [f"not {n}", "nor that"]} if n % 2 else {})
        for n in range(count)
    ]


# Training sources


def _write_sources(folder: Path) -> None:
    write_jsonl(folder / "rows.jsonl", rows("en"))
    write_text(folder / "array.json", json.dumps(rows("en")))
    write_text(folder / "lines.txt", "one\ntwo\n\nthree\n")
    write_text(folder / "rows.csv", "id,query,document\n1,what,that\n2,who,she\n")


def _read_sources(folder: Path) -> None:
    parse = partial(rows_of, fields={}, where={})
    for record in read_jsonl(folder / "rows.jsonl", parse):
        for row in record if isinstance(record, list) else [record]:
            if isinstance(row, Row):
                unusable(row)
    list(read_jsonl(folder / "rows.jsonl", partial(rows_of, fields={"document": "query"}, where={"id": "i1"})))
    list(read_json_or_jsonl(folder / "array.json", parse))
    list(read_csv(folder / "rows.csv", parse))
    list(read_lines(folder / "lines.txt"))


# SQuAD


def _squad() -> dict[str, Any]:
    def paragraph(article: int, number: int) -> dict[str, Any]:
        context = "The first sentence. The second one is longer. A third ends."
        questions = [
            {
                "id": f"q{article}{number}{n}",
                "question": f"which {n}?",
                "answers": [{"text": "x", "answer_start": n * 22}],
            }
            for n in range(2)
        ]
        return {"context": context, "sentence_breaks": [[0, 19], [20, 45], [46, 59]], "qas": questions}

    articles = [{"title": f"t{a}", "paragraphs": [paragraph(a, p) for p in range(2)]} for a in range(2)]
    return {"version": "1.1", "data": articles}


def _write_squad(folder: Path, ending: str = "") -> None:
    write_text(folder / f"squad.json{ending}", json.dumps(_squad(), indent=1))


def _read_squad(folder: Path, ending: str = "") -> None:
    path = folder / f"squad.json{ending}"
    ContaminationFilter(Decontaminate.model_validate({"files": [path], "words": 4}, context={"folder": folder}))
    list(read_squad(path, document="paragraph"))
    list(read_squad(path, document="sentence"))
    list(read_squad(path, document="sentence and paragraph"))

    def own_breaks(paragraph: dict[str, Any], language: str) -> Any:
        return sentence_breaks(paragraph["context"], language)

    for breaks in (published_breaks, own_breaks):
        read_sentences({"en": path}, breaks=breaks, counts={"en": (8, 12)}, with_paragraph=True, remedy="Mend it.")


# Evaluation sets


def _write_beir(folder: Path) -> None:
    documents = ({"_id": f"d{n}", "title": f"t{n}" if n % 2 else "", "text": f"text {n}"} for n in range(6))
    write_text(folder / "corpus.jsonl", json_lines(*documents))
    write_text(folder / "queries.jsonl", json_lines(*({"_id": f"q{n}", "text": f"query {n}"} for n in range(4))))
    judgements = "".join(f"q{n}\td{n}\t{n % 3}\n" for n in range(4)) + "q1\td2\t1\n"
    write_text(folder / "qrels/test.tsv", f"query-id\tcorpus-id\tscore\n{judgements}")


def _read_beir(folder: Path) -> None:
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    errors = []
    for read in (
        lambda: load_task(f"beir:{folder}").cut(questions=2).fingerprint,
        lambda: [unusable(row) for row in read_beir(folder, split="test", scratch=scratch) if isinstance(row, Row)],
    ):
        try:
            read()
        except ValueError as error:
            errors.append(error)
    for error in errors:
        raise error


def _write_miracl(folder: Path) -> None:
    for language in ("sw", "yo"):
        passages = [{"docid": f"{n}#0", "title": f"t{n}", "text": f"{language} text {n}"} for n in range(5)]
        write_text(folder / f"miracl-corpus-v1.0-{language}/docs-0.jsonl", json_lines(*passages))
        topics = "".join(f"{n}\tquestion {n}\n" for n in range(3))
        write_text(folder / f"topics/topics.miracl-v1.0-{language}-dev.tsv", topics)
        qrels = "".join(f"{n} Q0 {n}#0 1\n{n} Q0 4#0 0\n" for n in range(3))
        write_text(folder / f"qrels/qrels.miracl-v1.0-{language}-dev.tsv", qrels)
    write_text(folder / "subset.txt", "small\n")


def _read_miracl(folder: Path) -> None:
    task = load_task("miracl", folder).cut(languages=("sw",), questions=2)
    assert task.fingerprint
    [candidate.text.encode() for candidate in task.candidates]


def _write_parallel(folder: Path) -> None:
    for language in LANGUAGES:
        sentences = [{"id": f"s{n}", "text": f"sentence {n} in {language}"} for n in range(4)]
        write_text(folder / f"lines/{language}.jsonl", json_lines(*sentences))
        write_text(folder / f"texts/{language}.txt", "".join(f"{one['text']}\n" for one in sentences))
    write_text(folder / "columns.tsv", "en\tde\nhello\thallo\nhouse\tHaus\n")


def _read_parallel(folder: Path) -> None:
    for name in ("lines", "texts", "columns.tsv"):
        assert load_task(f"parallel:{folder / name}").cut(questions=1).fingerprint


# Recipes

RECIPE = """
pairs_per_group = 20
validation = 0.1
shard_rows = 16
[limits]
query_characters = [1, 500]
[deduplicate]
text = "normalised"
across_datasets = false
[decontaminate]
files = ["held-out.jsonl"]
words = 5
[[dataset]]
name = "made"
reader = "jsonl"
parallel = true
layout = "parallel"
cross = [["en", "de"]]
licence = "CC0"
[dataset.files]
en = "en.jsonl"
de = "de.jsonl"
[[dataset]]
name = "other"
reader = "jsonl"
fields = { document = "document", negatives = "negatives" }
where = { kind = "x" }
[dataset.files]
en = ["en.jsonl"]
"""


def _write_recipe(folder: Path) -> None:
    write_text(folder / "recipe.toml", RECIPE)
    for language in LANGUAGES:
        write_jsonl(folder / f"{language}.jsonl", rows(language, 40))
    write_jsonl(folder / "held-out.jsonl", [{"question": "what is 7 in en", "passage": "a b c d e f g h"}])


def _read_recipe(folder: Path) -> None:
    recipe = Recipe.load(folder / "recipe.toml")
    for dataset in recipe.dataset:
        assert dataset.groups


def _build_recipe(folder: Path) -> None:
    build(folder / "recipe.toml", folder / "built", workers=1)


# Manifests


def _write_shards(folder: Path, *, name: str = "manifest.json") -> None:
    scratch = folder / "source"
    _write_recipe(scratch)
    build(scratch / "recipe.toml", folder / "shards", workers=1)
    for path in scratch.iterdir():
        path.unlink()
    scratch.rmdir()


CONFIG = {"steps": 3, "data": {"shards": "shards"}, "model": {"name": "none"}, "batch": {"size": 4}}


def _read_manifest(folder: Path) -> Manifest:
    return Manifest.parse((folder / "shards/manifest.json").read_bytes(), folder / "shards")


def _use_signed_manifest(folder: Path) -> None:
    """Use a manifest as if its fingerprint fitted: what its checks let through must not harm anybody."""
    text, root = (folder / "shards/manifest.json").read_bytes(), folder / "shards"
    stored = manifests._parse(text, root)
    groups = tuple(sorted(stored.groups, key=lambda group: group.key))
    unsigned = Manifest(root, groups, stored.dropped, stored.licences, stored.inputs, stored.texts)
    values = json.loads(text) | {"fingerprint": unsigned.fingerprint}
    manifest = Manifest.parse(json.dumps(values), root)
    config = Config.check(CONFIG, source="config")
    Plan.of(config, manifest, ranks=1).text()
    batch = Schedule.of(config, manifest).batch(0)
    ShardReader(manifest).read(batch.group, batch.row)


# Translation

SETTINGS: dict[str, Any] = {
    "source": "en.jsonl",
    "languages": ["en", "de"],
    "models": {"de": {"model": "made/model", "revision": "1"}},
    "part_rows": 2,
}


def _write_translation(folder: Path) -> None:
    out = Folder(folder / "out", SETTINGS)
    out.start()
    for block in range(2):
        translated = [{"id": f"i{block}", "query": "q", "document": "d", "translation": {"model": "made/model"}}]
        out.write_part("de", block, Part(translated, Counter({"query: copied": 1}), Counter(texts=2)))
    write_jsonl(folder / "source.jsonl", [{**row, "lang": "en"} for row in rows("en")])


def _read_translation(folder: Path) -> None:
    list(read_examples(folder / "source.jsonl", language="en"))
    out = Folder(folder / "out", SETTINGS)
    if out.read_finished() is None:
        out.finish(2, [{"id": "i0", "query": "q", "document": "d"}], {"rows": 2, "left_out": {}})
        assert out.read_finished()


def _gz(write: Callable[[Path], None]) -> Callable[[Path], None]:
    def both(folder: Path) -> None:
        write(folder)
        for path in folder.rglob("*.jsonl"):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()

    return both


DATA = (
    Target("jsonl", _write_sources, _read_sources, ("rows.jsonl", "*.json", "*.csv", "*.txt")),
    Target("squad", _write_squad, _read_squad, ("squad.json",)),
    Target("squad-gz", partial(_write_squad, ending=".gz"), partial(_read_squad, ending=".gz"), ("squad.json.gz",)),
    Target("beir", _write_beir, _read_beir, ("*.jsonl", "*.tsv")),
    Target("miracl", _write_miracl, _read_miracl, ("*.jsonl", "*.tsv", "subset.txt")),
    Target("miracl-gz", _gz(_write_miracl), _read_miracl, ("*.jsonl.gz",), share=0.1),
    Target("parallel", _write_parallel, _read_parallel, ("*.jsonl", "*.txt", "*.tsv")),
    Target("recipe", _write_recipe, _read_recipe, ("recipe.toml",)),
    Target("recipe-build", _write_recipe, _build_recipe, ("recipe.toml", "en.jsonl", "held-out.jsonl"), share=0.2),
    Target("manifest", _write_shards, _read_manifest, ("manifest.json",)),
    Target("manifest-signed", _write_shards, _use_signed_manifest, ("manifest.json",)),
    Target(
        "translation", _write_translation, _read_translation, ("out/translation.json", "parts/*.json", "source.jsonl")
    ),
)
