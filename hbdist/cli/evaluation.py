"""Commands about scores: evaluate, compare."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hbdist.cli.app import Bar, app, console
from hbdist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from hbdist.config.sections import ModelSection
    from hbdist.distributed.process_group import ProcessGroup
    from hbdist.evaluation.metrics.per_query import PerQuery
    from hbdist.evaluation.search.settings import SearchSettings
    from hbdist.evaluation.tasks.task import RetrievalTask


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A Hugging Face name, or a model's folder.")],
    out: Annotated[Path, typer.Option(help="Folder for scores.json, report.html and the TREC files.")],
    task: Annotated[
        str,
        typer.Option(help="xquad-r[:paragraph], mlqa-r, miracl, tydiqa, wikihop[:any], beir:FOLDER or parallel:PATH."),
    ] = "xquad-r",
    data: Annotated[Path | None, typer.Option(help="Folder of the task's files, instead of data/TASK.")] = None,
    languages: Annotated[str | None, typer.Option(help="Keep only these, in queries and candidates: en,ar.")] = None,
    questions: Annotated[
        int | None, typer.Option(min=1, help="Keep this many a language; all candidates stay.")
    ] = None,
    before: Annotated[Path | None, typer.Option(help="Another evaluation's --out, to show the difference.")] = None,
    pooling: Annotated[str | None, typer.Option(help="mean or cls, instead of what the model's folder says.")] = None,
    query_prefix: Annotated[str | None, typer.Option(help="Instead of what the model's folder says.")] = None,
    document_prefix: Annotated[str | None, typer.Option(help="Instead of what the model's folder says.")] = None,
    language_token: Annotated[str | None, typer.Option(help="M2M100 and NLLB: keep, fixed or drop.")] = None,
    fixed_language: Annotated[str | None, typer.Option(help="With fixed: the language of all tokens.")] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Keep candidates' vectors here; by default those of large pools alone are kept.")
    ] = None,
    precision: Annotated[
        Literal["float32", "float16"], typer.Option(help="Of the candidates' vectors; float16 takes half the room.")
    ] = "float32",
    keep: Annotated[bool, typer.Option(help="Whether vectors on disk stay there, for the next evaluation.")] = True,
    index: Annotated[
        str | None, typer.Option(help="Search approximately by FAISS: ivf or hnsw, as hnsw:links=32,search=1000.")
    ] = None,
) -> None:
    """Score a model on a benchmark: mono-, cross-lingual and multilingual retrieval, and language bias.

    On many ranks: accelerate launch -m hbdist.evaluation, or torchrun, with the same arguments.
    """
    from hbdist.distributed.process_group import join_process_group
    from hbdist.evaluation.search.faiss_index import Approximate
    from hbdist.evaluation.search.settings import SearchSettings
    from hbdist.evaluation.tasks.registry import load_task
    from hbdist.models.encoder import settings_of
    from hbdist.reports.report import evaluation_report

    with join_process_group() as ranks:
        # What is missing should be said before the model is loaded.
        with ranks.raise_together():
            approximate = Approximate.parse(index) if index else None
            kept = languages.split(",") if languages else []
            chosen = load_task(task, data, languages=kept).cut(languages=kept, questions=questions)
            earlier = _earlier(before) if before else None
            settings = settings_of(
                model,
                pooling=pooling,
                query_prefix=query_prefix,
                document_prefix=document_prefix,
                language_token=language_token,
                fixed_language=fixed_language,
            )
            if fixed_language is not None and settings.language_token != "fixed":
                raise ConfigError(
                    f"--fixed-language {fixed_language} needs --language-token fixed. Add it, or leave this out."
                )
        if ranks.is_main:
            prefixes = f"{settings.query_prefix!r} and {settings.document_prefix!r}"
            print(f"{model}: {settings.pooling} pooling, prefixes {prefixes}")
        search = SearchSettings(vectors, precision, keep, approximate)
        with Bar(f"{task} {model}") as bar:
            scores = _score(out, chosen, settings, search, ranks=ranks, bar=bar)
    if ranks.is_main:
        _show(scores, out, earlier)
        for sentence in _remarks(scores, search):
            print(sentence)
        print(f"the scores are in {out / 'scores.json'}, tables and heat maps in {evaluation_report(out)}")


def _score(
    out: Path,
    task: "RetrievalTask",
    settings: "ModelSection",
    search: "SearchSettings",
    *,
    ranks: "ProcessGroup",
    bar: Bar,
) -> dict[str, Any]:
    """The scores, by all ranks together; says what was cut on the way."""
    import numpy as np

    from hbdist.evaluation.evaluate import evaluate_to
    from hbdist.models.encoder import Encoder

    loaded: list[Encoder] = []

    def load(settings: "ModelSection") -> Encoder:
        loaded.append(Encoder.load_for_use(settings))
        return loaded[-1]

    scores = evaluate_to(
        out,
        task,
        settings,
        load=load,
        ranks=ranks,
        search=search,
        progress=lambda what, done, total: bar(done, total, what),
    )
    own = [sum(encoder.cut[kind] for encoder in loaded) for kind in ("query", "document")]
    queries, documents = ranks.all_reduce_sum(np.array(own)).tolist()
    if ranks.is_main and queries + documents:
        print(f"cut, as they were longer than the model takes: {queries:,} queries, {documents:,} candidates")
    return scores


def _earlier(before: Path) -> "tuple[dict[str, Any], PerQuery]":
    """The scores and ranks of an earlier evaluation."""
    from hbdist.evaluation.metrics.per_query import read_per_query
    from hbdist.evaluation.scores import read_scores

    scores = read_scores(before)
    if scores is None:
        raise DataError(f"--before {before} holds no scores.json. Give the --out of an earlier evaluation.")
    return scores, read_per_query(before, scores["task_fingerprint"])


def _show(scores: dict[str, Any], out: Path, earlier: "tuple[dict[str, Any], PerQuery] | None") -> None:
    from hbdist.cli.score_tables import table
    from hbdist.evaluation.metrics.bootstrap import compare
    from hbdist.evaluation.metrics.per_query import read_per_query

    if earlier is None:
        console.print(table(scores))
        return
    before, kept = earlier
    change = None
    if before["task_fingerprint"] == scores["task_fingerprint"]:
        change = compare([kept], [read_per_query(out, scores["task_fingerprint"])])
    console.print(table(scores, before, change))


def _remarks(scores: dict[str, Any], settings: "SearchSettings") -> Iterator[str]:
    """What the table does not say: how was searched, what is missing, what is kept."""
    from hbdist.evaluation.search.embeddings import list_stored
    from hbdist.evaluation.search.settings import default_folder

    search = scores["search"]
    if not search["exact"]:
        given = ", ".join(f"{name} {search[name]:,}" for name in search if name not in ("exact", "index", "vectors"))
        yield f"approximate: searched by {search['index']} ({given}); what it did not find counts as standing last"
    if search["vectors"] != "float32":
        yield f"candidates' vectors were rounded to {search['vectors']}"
    for what, why in scores["not_measured"].items():
        yield f"{what} was not measured: {why}"
    folder = settings.folder or default_folder()
    if sets := list(list_stored(folder)):
        size = sum(size for _, _, size in sets)
        yield f"vectors kept in {folder}: {size / 1e6:,.0f} MB in {len(sets)} folders; delete those that are not needed"


BETWEEN = "--with"
"""Stands between the two lists. Not an option: one takes a fixed number of values, and a shell's * gives any number."""


@app.command(context_settings={"ignore_unknown_options": True})
def compare(
    folders: Annotated[
        list[str],
        typer.Argument(metavar="BEFORE... --with AFTER", help="The --out folders of evaluations, one a seed."),
    ],
    out: Annotated[Path | None, typer.Option(help="Also write the differences to this JSON file.")] = None,
) -> None:
    """Say whether two models differ on a task, each evaluated once or with several training seeds."""
    from hbdist.cli.score_tables import comparison_table
    from hbdist.evaluation.comparison import compare_folders
    from hbdist.utils.files import write_atomically

    if out and out.is_dir():
        raise ConfigError(f"--out {out} is a folder. Name the JSON file to write, as {out / 'difference.json'}.")
    found = compare_folders(*split_sides(folders))
    console.print(comparison_table(found))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        print(f"the differences are in {out}")


def split_sides(given: list[str]) -> tuple[list[Path], list[Path]]:
    """The folders before and after BETWEEN.

    Raises:
        ConfigError: it is missing or there twice, a side is empty, or an option is not known.
    """
    unknown = [one for one in given if one.startswith("-") and one != BETWEEN]
    if unknown:
        raise ConfigError(f"{unknown[0]} is not an option of compare. It has {BETWEEN} and --out.")
    place = given.index(BETWEEN) if given.count(BETWEEN) == 1 else 0
    if not 0 < place < len(given) - 1:
        raise ConfigError(
            f"found {' '.join(given)!r}; expected the folders of one model, {BETWEEN} once, and the folders of the other:"
            f" hbdist compare base-1/scores base-2/scores {BETWEEN} mixed-1/scores mixed-2/scores"
        )
    return [Path(one) for one in given[:place]], [Path(one) for one in given[place + 1 :]]
