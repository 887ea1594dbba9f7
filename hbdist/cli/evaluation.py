"""The command that scores models: evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from hbdist.cli.app import Bar, app, console
from hbdist.errors import DataError


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A Hugging Face name, or a model's folder.")],
    out: Annotated[Path, typer.Option(help="Folder for scores.json and the TREC files.")],
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
) -> None:
    """Score a model on a benchmark: mono-, cross-lingual and multilingual retrieval, and language bias."""
    from hbdist.encoder import Encoder, settings_of
    from hbdist.evaluation.benchmark import evaluate_to
    from hbdist.evaluation.confidence import compare
    from hbdist.evaluation.per_query import read_per_query
    from hbdist.evaluation.scores import read_scores, table
    from hbdist.evaluation.tasks.catalog import load_task

    kept = languages.split(",") if languages else []
    chosen = load_task(task, data, languages=kept).cut(languages=kept, questions=questions)
    earlier = read_scores(before) if before else None
    if before and earlier is None:
        raise DataError(f"--before {before} holds no scores.json. Give the --out of an earlier evaluation.")
    # Read before the model is: what is missing should be said at once.
    ranks = read_per_query(before, earlier["task_fingerprint"]) if before and earlier else None
    settings = settings_of(model, pooling=pooling, query_prefix=query_prefix, document_prefix=document_prefix)
    print(f"{model}: {settings.pooling} pooling, prefixes {settings.query_prefix!r} and {settings.document_prefix!r}")
    with Bar(f"{task} {model}") as bar:
        scores = evaluate_to(
            out, chosen, settings, load=Encoder.load_for_use, progress=lambda what, done, total: bar(done, total, what)
        )
    change = None
    if ranks and earlier and earlier["task_fingerprint"] == scores["task_fingerprint"]:
        change = compare([ranks], [read_per_query(out, scores["task_fingerprint"])])
    console.print(table(scores, earlier, change))
    print(f"the scores are in {out / 'scores.json'}")
