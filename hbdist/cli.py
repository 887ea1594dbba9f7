"""The command `hbdist`: plan, build, check, evaluate, report, doctor. Each command imports only what it needs.

Exit status 0 done, 2 the user's input is wrong (one message, no traceback), 1 anything else.
"""

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
) -> None:
    """Print the arithmetic of a run, and check that it can be made. Loads no model, and no torch."""
    from collections import Counter

    from hbdist.plan import Plan
    from hbdist.schedule import Schedule
    from hbdist.shards.manifest import Manifest

    config = Config.load(*split_arguments(arguments or []))
    manifest = Manifest.load(Path(config.data.shards))
    print(Plan.of(config, manifest, ranks=ranks).text(), end="")
    if step is not None:
        batch = Schedule.of(config, manifest).batch(step)
        counts = Counter(manifest.groups[group].name for group in batch.group)
        print(f"step {step}: {batch.mono.mean():.0%} monolingual")
        for name, count in counts.most_common():
            print(f"  {count:>6}  {name}")


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="What to build from what: a TOML file, as in shards/recipes/.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the shards, instead of the recipe's own.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one a core.")] = None,
) -> None:
    """Build shards grouped by language pair."""
    from hbdist.shards.build import build as build_shards

    with Bar("building") as progress:
        manifest = build_shards(recipe, out, workers=workers, progress=progress)
    rows = sum(group.rows for group in manifest.groups)
    dropped = {name: sum(reasons.values()) for name, reasons in manifest.dropped.items()}
    print(
        f"{manifest.root}: {rows:,} pairs in {len(manifest.groups)} groups; left out {sum(dropped.values()):,} {dropped}"
    )


@app.command()
def check(
    root: Annotated[Path, typer.Argument(help="Folder of the shards (the one that holds manifest.json).")],
) -> None:
    """Read every byte of built shards and compare it with the manifest."""
    from hbdist.shards.check import check as check_shards

    with Bar("checking") as progress:
        report = check_shards(root, progress=progress)
    print(report.text())


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A Hugging Face name, or a model's folder.")],
    out: Annotated[Path, typer.Option(help="Folder for scores.json and the TREC files.")],
    task: Annotated[str, typer.Option(help="The benchmark: xquad-r.")] = "xquad-r",
    data: Annotated[Path | None, typer.Option(help="Folder of the task's files, instead of those that ship.")] = None,
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
    from hbdist.evaluation.scores import read_scores, table
    from hbdist.evaluation.tasks.xquad_r import load_xquad_r

    if task != "xquad-r":
        raise ConfigError(f"--task {task!r} is not known. Give xquad-r.")
    chosen = load_xquad_r(data) if data else load_xquad_r()
    chosen = chosen.cut(languages=languages.split(",") if languages else (), questions=questions)
    earlier = read_scores(before) if before else None
    if before and earlier is None:
        raise DataError(f"--before {before} holds no scores.json. Give the --out of an earlier evaluation.")
    settings = settings_of(model, pooling=pooling, query_prefix=query_prefix, document_prefix=document_prefix)
    print(f"{model}: {settings.pooling} pooling, prefixes {settings.query_prefix!r} and {settings.document_prefix!r}")
    with Bar(f"{task} {model}") as bar:
        scores = evaluate_to(
            out, chosen, settings, load=Encoder.load_for_use, progress=lambda what, done, total: bar(done, total, what)
        )
    console.print(table(scores, earlier))
    print(f"the scores are in {out / 'scores.json'}")


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
        shown = (title, 4 * done // total if total else 0)
        if not console.is_terminal and shown != self.shown:
            self.shown = shown
            print(f"{title}: {done:,} of {total:,}", flush=True)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


if __name__ == "__main__":
    sys.exit(main())
