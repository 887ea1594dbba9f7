"""Commands about data: build, check, translate, data fetch."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from hbdist.cli.app import Bar, Count, app, data_app, split
from hbdist.errors import ConfigError


@app.command()
def build(
    recipe: Annotated[Path, Argument(help="TOML file with the data sets to build, such as those in shards/recipes/.")],
    out: Annotated[Path | None, Option(help="Folder for the shards. Default: the one in the recipe.")] = None,
    workers: Annotated[int | None, Count(help="Number of processes. Default: one per core.")] = None,
) -> None:
    """Build shards that are grouped by language pair."""
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
    if (validation := manifest.folder / VALIDATION).is_dir():
        print(f"{validation}: {Manifest.load(validation).rows:,} pairs held out for validation")


@app.command()
def check(
    root: Annotated[str, Argument(help="Folder of the shards (the one with manifest.json), or its address.")],
) -> None:
    """Read every byte of built shards and compare it with the manifest."""
    from hbdist.data.shards.manifest import VALIDATION
    from hbdist.data.shards.verify import check as check_shards

    validation = Path(root, VALIDATION)
    for folder in (root, str(validation)) if validation.is_dir() else (root,):
        with Bar(f"checking {folder}") as bar:
            report = check_shards(folder, progress=lambda done, total, _: bar(done, total))
        print(report.text())


@app.command()
def translate(
    source: Annotated[Path, Argument(help="Pairs as JSON lines, plain or .gz, as described in shards/README.md.")],
    model: Annotated[
        str, Option(help="M2M100, NLLB or Opus-MT model: its Hugging Face name or folder. {to} becomes the language.")
    ],
    to: Annotated[str, Option(help="Languages to translate into, separated by commas: de,sw,th.")],
    out: Annotated[Path, Option(help="Folder for LANGUAGE.jsonl.gz, recipe.toml and translation.json.")],
    source_lang: Annotated[str, Option("--from", help="Language of the rows that name none.")] = "en",
    beams: Annotated[int, Count(help="Number of beams; 1 decodes greedily.")] = 4,
    batch_tokens: Annotated[int, Count(help="Source tokens per batch; more are faster and take more memory.")] = 4096,
    piece_tokens: Annotated[int, Count(help="Source tokens per piece; longer texts are cut at sentence ends.")] = 128,
    max_new_tokens: Annotated[
        int, Count(help="Most tokens in the translation of a piece; rows that need more are left out.")
    ] = 256,
    part_rows: Annotated[int, Count(help="Rows per part; an interruption loses at most one part.")] = 256,
    code: Annotated[
        list[str] | None,
        Option(help="The model's code of a language: sw=swh_Latn. May be repeated. Default: the built-in codes."),
    ] = None,
) -> None:
    """Translate pairs into several languages, for `hbdist build`. The same command resumes after an interruption."""
    from hbdist.translation.generate import Decoding
    from hbdist.translation.translate import translate as translate_pairs

    if wrong := [one for one in code or [] if not all(one.partition("="))]:
        raise ConfigError(f"--code {wrong[0]} is not understood; expected LANGUAGE=NAME, such as sw=swh_Latn.")
    with Bar("translating") as bar:
        report = translate_pairs(
            source,
            out,
            model=model,
            targets=[one.strip() for one in split(to) if one.strip()],
            language=source_lang,
            decoding=Decoding(beams, max_new_tokens, piece_tokens, batch_tokens),
            part_rows=part_rows,
            codes=dict(one.split("=", 1) for one in code or []),
            progress=bar,
        )
    if report is None:
        print(
            f"{out}: the parts of this rank are done, others are missing. The last rank to finish merges them;"
            " otherwise run this command again"
        )
        return
    for language, counts in report["languages"].items():
        left_out = ", ".join(f"{reason} {count:,}" for reason, count in counts["left_out"].items()) or "nothing"
        print(f"{language}: {counts['rows']:,} pairs; left out: {left_out}")
    print(f"build them: hbdist build {out / 'recipe.toml'}")


@data_app.command()
def fetch(
    name: Annotated[str, Argument(help="xquad-r, mlqa-r, miracl, tydiqa, wikihop or beir:NAME.")],
    out: Annotated[Path | None, Option(help="Folder for the files. Default: data/NAME.")] = None,
    languages: Annotated[str | None, Option(help="Languages of MIRACL to fetch: sw,yo. Default: all.")] = None,
) -> None:
    """Download the data of a task from their public source and verify checksums. The same command resumes."""
    from hbdist.evaluation.download.fetch import fetch as fetch_data
    from hbdist.evaluation.download.sources import find_source

    source = find_source(name)
    with Bar(f"fetching {name}") as bar:
        fetched = fetch_data(source, out or Path("data") / source.name, languages=split(languages), progress=bar)
    print(fetched.text())
