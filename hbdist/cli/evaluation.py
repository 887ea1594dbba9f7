"""Commands about scores: evaluate, compare."""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from hbdist.cli.app import Bar, Count, app, console, split
from hbdist.errors import ConfigError, DataError

if TYPE_CHECKING:
    from hbdist.config.sections import ModelSection
    from hbdist.distributed.process_group import ProcessGroup
    from hbdist.evaluation.metrics.per_query import PerQuery
    from hbdist.evaluation.search.settings import SearchSettings
    from hbdist.evaluation.tasks.task import RetrievalTask


@app.command()
def evaluate(
    model: Annotated[str, Argument(help="Hugging Face name of a model, or its folder.")],
    out: Annotated[Path, Option(help="Folder for scores.json, report.html and the TREC files.")],
    task: Annotated[
        str, Option(help="xquad-r[:paragraph], mlqa-r, miracl, tydiqa, wikihop[:any], beir:FOLDER or parallel:PATH.")
    ] = "xquad-r",
    data: Annotated[Path | None, Option(help="Folder of the task's files. Default: data/TASK, or what ships.")] = None,
    languages: Annotated[str | None, Option(help="Languages of queries and candidates: en,ar. Default: all.")] = None,
    questions: Annotated[int | None, Count(help="Questions per language; all candidates stay. Default: all.")] = None,
    before: Annotated[Path | None, Option(help="Folder of an earlier evaluation, to show the difference.")] = None,
    pooling: Annotated[str | None, Option(help="mean or cls. Default: the model's.")] = None,
    query_prefix: Annotated[str | None, Option(help="Text before each query. Default: the model's.")] = None,
    document_prefix: Annotated[str | None, Option(help="Text before each candidate. Default: the model's.")] = None,
    language_token: Annotated[
        str | None, Option(help="M2M100 and NLLB: keep, fixed or drop. Default: the model's.")
    ] = None,
    fixed_language: Annotated[
        str | None, Option(help="Language of the tokens with --language-token fixed. Default: en.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        Option(min=4, help="Tokens after which texts are cut. Default: as exported, or the model's own length."),
    ] = None,
    trust_remote_code: Annotated[
        bool, Option("--trust-remote-code", help="Run code that comes with the model (auto_map). Read it first.")
    ] = False,
    vectors: Annotated[
        Path | None, Option(help="Folder for candidates' vectors. Default: only those of large pools are kept.")
    ] = None,
    precision: Annotated[
        Literal["float32", "float16"], Option(help="Precision of candidates' vectors. float16 takes half the space.")
    ] = "float32",
    keep: Annotated[bool, Option(help="Keep vectors on disk for the next evaluation.")] = True,
    index: Annotated[
        str | None, Option(help="FAISS index: ivf or hnsw, such as hnsw:links=32,search=1000. Default: exact search.")
    ] = None,
) -> None:
    """Score a model on a benchmark: monolingual, cross-lingual and multilingual retrieval, and language bias.

    On many ranks: accelerate launch -m hbdist.evaluation, or torchrun, with the same arguments.
    """
    from hbdist.distributed.process_group import join_process_group
    from hbdist.evaluation.search.faiss_index import Approximate
    from hbdist.evaluation.search.settings import SearchSettings
    from hbdist.evaluation.tasks.registry import load_task
    from hbdist.models.encoder import settings_of
    from hbdist.reports.report import evaluation_report

    with join_process_group() as ranks:
        # Mistakes should be reported before the model is loaded.
        with ranks.raise_together():
            approximate = Approximate.parse(index) if index else None
            wanted = split(languages)
            chosen = load_task(task, data, languages=wanted).cut(languages=wanted, questions=questions)
            earlier = _read_earlier(before) if before else None
            settings = settings_of(
                model,
                pooling=pooling,
                query_prefix=query_prefix,
                document_prefix=document_prefix,
                language_token=language_token,
                fixed_language=fixed_language,
                max_tokens=max_tokens,
                trust_remote_code=trust_remote_code,
            )
            if fixed_language is not None and settings.language_token != "fixed":
                raise ConfigError(
                    f"--fixed-language {fixed_language} needs --language-token fixed. Add it, or leave this out."
                )
        if ranks.is_main:
            prefixes = f"{settings.query_prefix!r} and {settings.document_prefix!r}"
            tokens = sorted({settings.max_query_tokens, settings.max_document_tokens})
            cut = f"texts of up to {' and '.join(map(str, tokens))} tokens"
            print(f"{model}: {settings.pooling} pooling, prefixes {prefixes}, {cut}")
        search = SearchSettings(vectors, precision, keep, approximate)
        with Bar(f"{task} {model}") as bar:
            scores = _score(out, chosen, settings, search, ranks, bar)
    if ranks.is_main:
        _show(scores, out, earlier)
        print(_remarks(scores, search), end="")
        print(f"the scores are in {out / 'scores.json'}, tables and heat maps in {evaluation_report(out)}")


def _score(
    out: Path,
    task: "RetrievalTask",
    settings: "ModelSection",
    search: "SearchSettings",
    ranks: "ProcessGroup",
    bar: Bar,
) -> dict[str, Any]:
    """Return the scores, computed by all ranks together, and print how many texts were cut."""
    import numpy as np

    from hbdist.evaluation.evaluate import evaluate_to
    from hbdist.models.encoder import Encoder

    loaded: list[Encoder] = []

    def load(settings: "ModelSection") -> Encoder:
        loaded.append(Encoder.load_for_use(settings, ranks.device))
        return loaded[-1]

    def progress(what: str, done: int, total: int) -> None:
        bar(done, total, what)

    scores = evaluate_to(out, task, settings, load=load, ranks=ranks, search=search, progress=progress)
    cut = [sum(encoder.cut[kind] for encoder in loaded) for kind in ("query", "document")]
    queries, documents = ranks.all_reduce_sum(np.array(cut)).tolist()
    if ranks.is_main and queries + documents:
        print(f"cut at the model's length: {queries:,} queries, {documents:,} candidates")
    return scores


def _read_earlier(before: Path) -> "tuple[dict[str, Any], PerQuery]":
    """Return the scores and the per-query scores of an earlier evaluation."""
    from hbdist.evaluation.metrics.per_query import read_per_query
    from hbdist.evaluation.scores import read_evaluation

    scores = read_evaluation(before)
    if scores is None:
        raise DataError(f"--before {before} contains no scores.json. Give the --out folder of an earlier evaluation.")
    return scores, read_per_query(before, scores["task_fingerprint"])


def _show(scores: dict[str, Any], out: Path, earlier: "tuple[dict[str, Any], PerQuery] | None") -> None:
    from hbdist.cli.score_tables import table
    from hbdist.evaluation.metrics.bootstrap import compare
    from hbdist.evaluation.metrics.per_query import check_same_clusters, read_per_query

    before, per_query = earlier or (None, None)
    change = None
    if before and per_query and before["task_fingerprint"] == scores["task_fingerprint"]:
        now = read_per_query(out, scores["task_fingerprint"])
        check_same_clusters(Path("--before"), per_query, out, now)
        change = compare([per_query], [now])
    console.print(table(scores, before, change))


def _remarks(scores: dict[str, Any], settings: "SearchSettings") -> str:
    """Return what the table does not show: the kind of search, what is missing, which vectors are kept."""
    from hbdist.evaluation.search.embeddings import list_stored
    from hbdist.evaluation.search.settings import default_folder
    from hbdist.reports.render import render

    folder, sizes = settings.folder, list[int]()
    with suppress(ConfigError):  # without a home folder there is no cache, and so nothing that was kept there
        folder = folder or default_folder()
        sizes = [size for _, _, size in list_stored(folder)]
    return render("remarks.txt", scores=scores, search=scores["search"], folder=folder, sizes=sizes)


BETWEEN = "--with"
"""Separator of the two lists. It cannot be an option, which takes a fixed number of values: a shell's * gives any number."""


@app.command(context_settings={"ignore_unknown_options": True})
def compare(
    folders: Annotated[
        list[str],
        Argument(metavar="BEFORE... --with AFTER...", help="The --out folders of evaluations, one per training seed."),
    ],
    out: Annotated[Path | None, Option(help="JSON file to write the differences to. Default: none.")] = None,
) -> None:
    """Test whether two models differ on a task, each evaluated once or with several training seeds."""
    from hbdist.cli.score_tables import comparison_table
    from hbdist.evaluation.comparison import compare_folders
    from hbdist.utils.files import write_atomically

    if out and out.is_dir():
        raise ConfigError(f"--out {out} is a folder. Name the JSON file to write, such as {out / 'difference.json'}.")
    comparison = compare_folders(*split_sides(folders))
    console.print(comparison_table(comparison))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
        print(f"the differences are in {out}")


def split_sides(words: list[str]) -> tuple[list[Path], list[Path]]:
    """Return the folders before and after BETWEEN.

    Raises:
        ConfigError: BETWEEN is missing or given twice, a side is empty, or an option is unknown.
    """
    unknown = [one for one in words if one.startswith("-") and one != BETWEEN]
    if unknown:
        raise ConfigError(f"{unknown[0]} is not an option of compare. It has {BETWEEN} and --out.")
    middle = words.index(BETWEEN) if words.count(BETWEEN) == 1 else 0
    if not 0 < middle < len(words) - 1:
        raise ConfigError(
            f"found {' '.join(words)!r}; expected the folders of one model, {BETWEEN} once, and the folders of the other:"
            f" hbdist compare base-1/scores base-2/scores {BETWEEN} mixed-1/scores mixed-2/scores"
        )
    return [Path(one) for one in words[:middle]], [Path(one) for one in words[middle + 1 :]]
