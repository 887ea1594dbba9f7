"""All measures of a model on all available benchmarks, as docs/results.md.

    python benchmarks/results_table.py MODEL DATA [--only xquad-r,flores] [--about TEXT] [--work FOLDER] [--out PAGE]

MODEL is a name or a folder, as for `hbdist evaluate`. DATA is a folder with some of these in it:

    xquad-r                    ar.json … zh.json
    mlqa-r                     ar.json …, or MLQA's dev-context-ar-question-ar.json …
    tydiqa, tydiqa-goldp-dev   tydiqa-goldp-v1.1-dev.json, or queries.ar.jsonl (id, query, pid) and passages.ar.jsonl …
    flores, flores-sib         eng_Latn.jsonl (id, text) … or eng_Latn.txt …, whose lines correspond
    tatoeba                    deu.jsonl … (text, and en, its English translation)

all of them plain or gzipped. Each row is measured in a separate process and kept in the work folder: a second start
continues, and repeats only the rows that another model or other files were used for.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import HERE, RunError, launch, machine, peak_bytes, say
from results_page import page

FOLDERS = {
    "xquad-r": ("xquad-r",),
    "xquad-r:paragraph": ("xquad-r",),
    "mlqa-r": ("mlqa-r",),
    "tydiqa": ("tydiqa", "tydiqa-goldp-dev"),
    "flores": ("flores", "flores-sib"),
    "tatoeba": ("tatoeba",),
}
"""Row → folders in which its data may be."""
ENGLISH = "eng"
"""Language of the other side of Tatoeba's files."""
HOURS = 3
SOURCE = "The first lines of benchmarks/results_table.py say what is expected."


def measure_row(row: str, model: str, folder: str) -> dict[str, Any]:
    """Measure one row, in a separate process: scores, seconds and peak memory, or the `reason` why that is impossible."""
    from hbdist.errors import HbdistError
    from hbdist.models.encoder import Encoder, settings_of

    started = time.perf_counter()
    settings = settings_of(model)
    measure = translations if row in ("flores", "tatoeba") else retrieval
    try:
        found = measure(row, Encoder.load_for_use(settings), folder)
    except HbdistError as error:
        # The page must not contain paths of this machine.
        said = str(error).replace(folder, Path(folder).name).replace(model, Path(model).name)
        return {"reason": said.rstrip(".")}
    seconds = time.perf_counter() - started
    prefixes = [settings.query_prefix, settings.document_prefix]
    return {**found, "prefixes": prefixes, "seconds": seconds, "peak_bytes": peak_bytes()}


def retrieval(row: str, encoder: Any, folder: str) -> dict[str, Any]:
    """Return the scores of `hbdist evaluate`."""
    from hbdist.evaluation.evaluate import evaluate
    from hbdist.evaluation.tasks.registry import load_task

    task = tydiqa_files(Path(folder)) if row == "tydiqa" else None
    return {"scores": evaluate(encoder, task or load_task(row, Path(folder)), model="").scores}


def tydiqa_files(folder: Path) -> Any:
    """Return TyDi QA's gold passages from one file of questions and one of passages per language; None if there are none."""
    from hbdist.data.formats.json_files import json_object
    from hbdist.data.formats.lines import nonblank_lines
    from hbdist.evaluation.tasks.corpus import Candidate
    from hbdist.evaluation.tasks.task import Query, RetrievalTask
    from hbdist.evaluation.tasks.tydiqa import NOTE, QUESTIONS

    def rows(path: Path) -> list[dict[str, Any]]:
        return [json_object(line, ("pid",)) for _, line in nonblank_lines(path, remedy=SOURCE)]

    paths = {path.name.split(".")[1]: path for path in sorted(folder.glob("queries.*.jsonl*"))}
    queries: list[Any] = []
    candidates: list[Any] = []
    relevance: dict[str, tuple[int, ...]] = {}
    for language, path in paths.items():
        place = {}
        for number, passage in enumerate(rows(path.with_name(path.name.replace("queries", "passages")))):
            place[passage["pid"]] = len(candidates)
            candidates.append(Candidate(language, number, 0, passage["text"]))
        for asked in rows(path):
            queries.append(Query(asked["id"], language, asked["query"]))
            relevance[asked["id"]] = (place[asked["pid"]],)
    if not queries:
        return None
    note = NOTE if set(paths) == set(QUESTIONS) else f"{NOTE}; {len(paths)} of its {len(QUESTIONS)} languages"
    settings = ("monolingual",)
    return RetrievalTask(
        "tydiqa-goldp", tuple(paths), tuple(queries), tuple(candidates), relevance, settings=settings, note=note
    )


def translations(row: str, encoder: Any, folder: str) -> dict[str, Any]:
    """Measure the alignment of sentences and their translations, all with the prefix of queries.

    Raises:
        ConfigError: the model needs a token for each text's language, and does not have one.
    """
    return (many_languages if row == "flores" else with_english)(encoder, Path(folder))


def many_languages(encoder: Any, folder: Path) -> dict[str, Any]:
    """Return the same sentences in all languages."""
    from hbdist.evaluation.metrics.alignment import alignment
    from hbdist.evaluation.metrics.summary import find_question_rows
    from hbdist.evaluation.tasks.parallel import load_parallel

    task = load_parallel(folder)
    known = known_languages(encoder, task.languages)
    spoken = [known[query.language] for query in task.queries]
    vector_MD = encoder.encode([query.text for query in task.queries], "query", languages=spoken)
    found = alignment(vector_MD, find_question_rows(task), list(task.languages))
    return {"alignment": found, "languages": len(task.languages), "texts": len(task.queries)}


def with_english(encoder: Any, folder: Path) -> dict[str, Any]:
    """Return the sentences of each language and their English translations, which differ by language."""
    from hbdist.data.formats.json_files import json_object
    from hbdist.data.formats.lines import nonblank_lines
    from hbdist.evaluation.metrics.alignment import pair_alignment

    rows = {
        path.name.split(".")[0]: [json_object(line, ("text", "en")) for _, line in nonblank_lines(path, remedy=SOURCE)]
        for path in sorted(folder.glob("*.jsonl*"))
    }
    known = known_languages(encoder, [*rows, ENGLISH])
    sides = {
        name: ([(known[name], row["text"]) for row in part], [(known[ENGLISH], row["en"]) for row in part])
        for name, part in rows.items()
    }
    texts = list(dict.fromkeys(text for both in sides.values() for side in both for text in side))
    place = {text: number for number, text in enumerate(texts)}
    vector_ND = encoder.encode([text for _, text in texts], "query", languages=[language for language, _ in texts])
    by_language = {
        name: {"items": len(both[0])} | pair_alignment(*(vector_ND[[place[text] for text in side]] for side in both))
        for name, both in sides.items()
    }
    return {"by_language": by_language, "texts": len(texts)}


def known_languages(encoder: Any, names: Sequence[str]) -> dict[str, str]:
    """Return the model's language codes by file names such as deu_Latn or deu; any code, if the model does not need one.

    Raises:
        ConfigError: the model needs a token for each text's language, and does not have one.
    """
    from hbdist.models.language_codes import FLORES
    from hbdist.translation.languages import OPUS

    tokens = encoder.tokenize.language_tokens
    known = {name: name for name in names}
    for name in names if tokens else ():
        ours = [one for table in (FLORES, OPUS) for one, code in table.items() if name in (code, code.split("_")[0])]
        own = [code for code in tokens.ids if name == code.split("_")[0]]
        known[name] = next((one for one in (name, *ours, *own) if tokens.code(one)), name)
    encoder.tokenize.check(known.values())
    return known


def fingerprint(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of the files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".md"):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def find(row: str, data: Path) -> Path | None:
    return next((data / name for name in FOLDERS[row] if (data / name).is_dir()), None)


def rows(model: str, data: Path, work: Path, only: list[str]) -> dict[str, dict[str, Any]]:
    """Return every row: kept, measured now, or the reason why there is none.

    Args:
        only: rows to measure now; others are read from the work folder.
    """
    from hbdist.evaluation.evaluate import model_fingerprint
    from hbdist.models.encoder import settings_of

    found: dict[str, dict[str, Any]] = {}
    of_model = model_fingerprint(settings_of(model))
    for row in FOLDERS:
        folder, path = find(row, data), work / f"{row.replace(':', '-')}.json"
        if folder is None:
            found[row] = {"reason": "its data are not at hand"}
            continue
        key = [of_model, fingerprint(folder)]
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if kept and kept["key"] == key:
            found[row] = kept
        elif row in only:
            say(row)
            try:
                made = launch(measure_row, timeout=HOURS * 3600, row=row, model=model, folder=str(folder))[0]
            except RunError as error:
                found[row] = {"reason": f"it could not be measured: {error}"}
                continue
            if "reason" in made:
                found[row] = {"reason": f"it cannot be measured: {made['reason']}"}
                continue
            found[row] = {"key": key, "machine": machine(), **made}
            work.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(found[row]) + "\n", encoding="utf-8")
        else:
            found[row] = {"reason": "it was not asked for"}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="a name, or a folder")
    parser.add_argument("data", type=Path, help="the folder of the benchmarks' folders")
    parser.add_argument("--only", default=",".join(FOLDERS), help="rows to measure now; the others stand as kept")
    parser.add_argument("--about", default="", help="a sentence on the model, for the head of the page")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "results", help="where rows are kept")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results.md")
    given = parser.parse_args()
    only = given.only.split(",")
    if unknown := sorted(set(only) - set(FOLDERS)):
        parser.error(f"no row is called {unknown[0]}; there are {', '.join(FOLDERS)}")
    if not given.data.is_dir():
        parser.error(f"{given.data} is not a folder")
    found = rows(given.model, given.data, given.work, only)
    given.out.write_text(page(given.model, found, about=given.about), encoding="utf-8")
    say(f"wrote {given.out}")


if __name__ == "__main__":
    main()
