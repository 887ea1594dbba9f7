"""Commands about runs: train, plan, report, doctor."""

import os
from pathlib import Path
from typing import Annotated

import typer

from hbdist.cli.app import app, console
from hbdist.config.config import Config, split_arguments
from hbdist.errors import ConfigError


@app.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
def train(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[CONFIG.toml] [key=value]...")] = None,
) -> int:
    """Train one model in this process; with a launcher: accelerate launch hbdist/train.py, which is the same."""
    from hbdist.train import main

    return main(arguments or [])


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

    from hbdist.data.batching.schedule import Schedule
    from hbdist.data.shards.manifest import Manifest
    from hbdist.distributed.launcher import find_zero
    from hbdist.runs.plan import Plan

    if memory is not None and not fit:
        raise ConfigError(f"--memory {memory} says what a rank can have, which only --fit looks at. Add --fit.")
    if fit:
        from hbdist.memory.estimate import MemoryEstimate, parse_memory

        limit = parse_memory(memory) if memory is not None else None
    config = Config.load(*split_arguments(arguments or []))
    manifest = Manifest.load(config.data.shards)
    zero = find_zero(config.engine, os.environ)
    print(Plan.of(config, manifest, ranks=ranks, zero=zero).text(), end="")
    if statistics:
        from hbdist.data.batching.exposure import run_statistics

        print("\n" + run_statistics(config, manifest).text(), end="")
    if step is not None:
        batch = Schedule.of(config, manifest).batch(step)
        counts = Counter(manifest.groups[group].name for group in batch.group)
        print(f"step {step}: {batch.mono.mean():.0%} monolingual")
        for name, count in counts.most_common():
            print(f"  {count:>6}  {name}")
    if fit:
        print("\nmeasuring a few real steps …", flush=True)
        print(MemoryEstimate.measure(config, manifest, ranks=ranks, memory=limit, zero=zero).text(), end="")


@app.command()
def report(
    path: Annotated[Path, typer.Argument(help="A folder of a run, an evaluation or a study; or a study's TOML.")],
) -> None:
    """Write report.html: curves, tables and heat maps in one file; of a study also results.csv, report.md, report.tex."""
    from hbdist.reports.report import report_on

    print(f"wrote {report_on(path)}")


@app.command()
def doctor() -> None:
    """Say what this machine has for training, and what is missing."""
    from hbdist.cli.doctor import examine

    findings = examine()
    for finding in findings:
        mark, colour = ("ok", "green") if finding.ok else ("--", "yellow") if finding.optional else ("no", "red")
        console.print(f"[{colour}]{mark:>4}[/]  {finding.text}")
    raise typer.Exit(0 if all(finding.ok or finding.optional for finding in findings) else 1)
