"""The command `hbdist`: plan, build, check, translate, evaluate, report, doctor. Each command imports only what it needs.

Exit status 0 done, 2 the user's input is wrong (one message, no traceback), 1 anything else.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hbdist.config import Config, split_arguments
from hbdist.errors import ConfigError, DataError, HbdistError

app = typer.Typer(
    help="Hybrid-batch training of multilingual dense retrievers. To train: accelerate launch hbdist/train.py CONFIG.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Benchmark data.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        return app(list(arguments) if arguments is not None else None, standalone_mode=False) or 0
    except HbdistError as error:
        print(f"hbdist: {error}", file=sys.stderr)
        return 2
    except typer.Abort:
        return 130
    except Exception as error:
        show = getattr(error, "show", None)  # a usage error, of whichever click typer brings
        if show is None:
            raise
        show()
        return 2


@app.command()
def plan(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[CONFIG.toml] [key=value]...")] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Processes to plan for.")] = 1,
    step: Annotated[int | None, typer.Option(min=0, help="Also show the make-up of this step's batch, from 0.")] = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="Also show what the whole run will see of each language and group.")
    ] = False,
    fit: Annotated[
        bool, typer.Option("--fit", help="Also say what fits into memory; this trains a few steps.")
    ] = False,
    memory: Annotated[str | None, typer.Option(help="With --fit: of a rank, as 80GB; else what is free here.")] = None,
) -> None:
    """Print the arithmetic of a run, and check that it can be made. Loads no model, and no torch, but with --fit."""
    from collections import Counter

    from hbdist.launcher import find_zero
    from hbdist.plan import Plan
    from hbdist.schedule import Schedule
    from hbdist.shards.manifest import Manifest

    if memory is not None and not fit:
        raise ConfigError(f"--memory {memory} says what a rank can have, which only --fit looks at. Add --fit.")
    if fit:
        from hbdist.fit import Fit, parse_memory

        limit = parse_memory(memory) if memory is not None else None
    config = Config.load(*split_arguments(arguments or []))
    manifest = Manifest.load(config.data.shards)
    zero = find_zero(config.engine, os.environ)
    print(Plan.of(config, manifest, ranks=ranks, zero=zero).text(), end="")
    if statistics:
        from hbdist.exposure import run_statistics

        print("\n" + run_statistics(config, manifest).text(), end="")
    if step is not None:
        batch = Schedule.of(config, manifest).batch(step)
        counts = Counter(manifest.groups[group].name for group in batch.group)
        print(f"step {step}: {batch.mono.mean():.0%} monolingual")
        for name, count in counts.most_common():
            print(f"  {count:>6}  {name}")
    if fit:
        print("\nmeasuring a few real steps …", flush=True)
        print(Fit.measure(config, manifest, ranks=ranks, memory=limit, zero=zero).text(), end="")


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="What to build from what: a TOML file, as in shards/recipes/.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the shards, instead of the recipe's own.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one a core.")] = None,
) -> None:
    """Build shards grouped by language pair."""
    from hbdist.shards.build import build as build_shards
    from hbdist.shards.manifest import Manifest
    from hbdist.shards.recipe import VALIDATION
    from hbdist.shards.statistics import Statistics

    with Bar("building") as progress:
        manifest = build_shards(recipe, out, workers=workers, progress=progress)
    print(Statistics.load(manifest.folder).text())
    rows = sum(group.rows for group in manifest.groups)
    dropped = {name: sum(reasons.values()) for name, reasons in manifest.dropped.items()}
    print(
        f"{manifest.root}: {rows:,} pairs in {len(manifest.groups)} groups; left out {sum(dropped.values()):,} {dropped}"
    )
    if (held_out := manifest.folder / VALIDATION).is_dir():
        print(f"{held_out}: {Manifest.load(held_out).rows:,} pairs held out for validation")


@app.command()
def check(
    root: Annotated[
        str, typer.Argument(help="Folder of the shards (the one that holds manifest.json), or its address.")
    ],
) -> None:
    """Read every byte of built shards and compare it with the manifest."""
    from hbdist.shards.check import check as check_shards
    from hbdist.shards.recipe import VALIDATION

    held_out = Path(root, VALIDATION)
    for folder in (root, str(held_out)) if held_out.is_dir() else (root,):
        with Bar(f"checking {folder}") as bar:
            report = check_shards(folder, progress=lambda done, total, _: bar(done, total))
        print(report.text())


@app.command()
def translate(
    source: Annotated[Path, typer.Argument(help="Pairs as JSON lines, plain or .gz, as in shards/README.md.")],
    model: Annotated[
        str, typer.Option(help="M2M100, NLLB or Opus-MT: a Hugging Face name or a folder; {to}: the target.")
    ],
    to: Annotated[str, typer.Option(help="Languages to translate into: de,sw,th.")],
    out: Annotated[Path, typer.Option(help="Folder for LANGUAGE.jsonl.gz, recipe.toml and translation.json.")],
    source_lang: Annotated[str, typer.Option("--from", help="Language of texts whose row names none.")] = "en",
    beams: Annotated[int, typer.Option(min=1, help="Of beam search; 1 is greedy.")] = 4,
    batch_tokens: Annotated[int, typer.Option(min=1, help="Source tokens of a batch: speed and memory.")] = 4096,
    piece_tokens: Annotated[int, typer.Option(min=1, help="Longer texts go in as pieces, cut at sentence ends.")] = 128,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Of a piece's translation; longer ones are left out.")
    ] = 256,
    part_rows: Annotated[int, typer.Option(min=1, help="Rows of a part: what a kill loses at most.")] = 256,
    code: Annotated[
        list[str] | None, typer.Option(help="What the model calls a language: sw=swh_Latn. Repeatable.")
    ] = None,
) -> None:
    """Translate pairs into parallel ones, for `hbdist build`. Start it again to go on."""
    from hbdist.translate import translate as translate_pairs
    from hbdist.translator import Decoding

    wrong = [one for one in code or [] if not all(one.partition("="))]
    if wrong:
        raise ConfigError(f"--code {wrong[0]} is not understood; expected LANGUAGE=NAME, such as sw=swh_Latn.")
    with Bar("translating") as bar:
        report = translate_pairs(
            source,
            out,
            model=model,
            targets=[one.strip() for one in to.split(",") if one.strip()],
            language=source_lang,
            decoding=Decoding(beams, max_new_tokens, piece_tokens, batch_tokens),
            part_rows=part_rows,
            codes=dict(one.split("=", 1) for one in code or []),
            progress=bar,
        )
    if report is None:
        print(
            f"{out}: this rank's parts are done, others are missing; the last rank puts them together, or start again"
        )
        return
    for language, found in report["languages"].items():
        left_out = ", ".join(f"{reason} {count:,}" for reason, count in found["left_out"].items()) or "nothing"
        print(f"{language}: {found['rows']:,} pairs; left out: {left_out}")
    print(f"build them: hbdist build {out / 'recipe.toml'}")


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


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="xquad-r, mlqa-r, miracl, tydiqa, wikihop or beir:NAME.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the files, instead of data/NAME.")] = None,
    languages: Annotated[str | None, typer.Option(help="Of MIRACL: sw,yo.")] = None,
) -> None:
    """Fetch the data of a task from their public home, with checksums. Start it again to go on."""
    from hbdist.data.fetch import fetch as fetch_data
    from hbdist.data.homes import home_of

    home = home_of(name)
    with Bar(f"fetching {name}") as bar:
        fetched = fetch_data(
            home, out or Path("data") / home.name, languages=languages.split(",") if languages else (), progress=bar
        )
    print(fetched.text())


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run's folder.")]) -> None:
    """Write a run's report.html: curves, tables and heat maps in one file."""
    from hbdist.studies.report import run_report

    print(f"wrote {run_report(run)}")


@app.command()
def doctor() -> None:
    """Say what this machine has for training, and what is missing."""
    from hbdist.doctor import examine

    findings = examine()
    for finding in findings:
        mark, colour = ("ok", "green") if finding.ok else ("--", "yellow") if finding.optional else ("no", "red")
        console.print(f"[{colour}]{mark:>4}[/]  {finding.text}")
    raise typer.Exit(0 if all(finding.ok or finding.optional for finding in findings) else 1)


class Bar:
    """A progress bar on a terminal, and a plain line now and then in a log: called with (done, total)."""

    def __init__(self, title: str) -> None:
        self.title = title

    def __enter__(self) -> "Bar":
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self.progress.start()
        self.task = self.progress.add_task(self.title, total=None)
        self.shown = (self.title, 0)
        return self

    def __call__(self, done: int, total: int, label: str = "") -> None:
        title = f"{self.title} {label}".strip()
        self.progress.update(self.task, completed=done, total=total, description=title)
        # Behind a comma stands what changes all the time, such as a rate: no reason for a line.
        shown = (title.partition(",")[0], 4 * done // total if total else 0)
        if not console.is_terminal and shown != self.shown:
            self.shown = shown
            print(f"{title}: {done:,} of {total:,}", flush=True)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


if __name__ == "__main__":
    sys.exit(main())
