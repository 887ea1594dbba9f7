"""Commands about data: build, check, translate, data fetch."""

from pathlib import Path
from typing import Annotated

import typer

from hbdist.cli.app import Bar, app, data_app
from hbdist.errors import ConfigError


@app.command()
def build(
    recipe: Annotated[Path, typer.Argument(help="What to build from what: a TOML file, as in shards/recipes/.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the shards, instead of the recipe's own.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one a core.")] = None,
) -> None:
    """Build shards grouped by language pair."""
    from hbdist.data.build.build import build as build_shards
    from hbdist.data.build.statistics import Statistics
    from hbdist.data.shards.manifest import VALIDATION, Manifest

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
    from hbdist.data.shards.manifest import VALIDATION
    from hbdist.data.shards.verify import check as check_shards

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
    from hbdist.translation.generate import Decoding
    from hbdist.translation.translate import translate as translate_pairs

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


@data_app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="xquad-r, mlqa-r, miracl, tydiqa, wikihop or beir:NAME.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the files, instead of data/NAME.")] = None,
    languages: Annotated[str | None, typer.Option(help="Of MIRACL: sw,yo.")] = None,
) -> None:
    """Fetch the data of a task from their public source, with checksums. Start it again to go on."""
    from hbdist.evaluation.download.fetch import fetch as fetch_data
    from hbdist.evaluation.download.sources import find_source

    source = find_source(name)
    with Bar(f"fetching {name}") as bar:
        fetched = fetch_data(
            source, out or Path("data") / source.name, languages=languages.split(",") if languages else (), progress=bar
        )
    print(fetched.text())
