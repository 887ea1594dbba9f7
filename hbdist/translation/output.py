"""The folder of translations, while they are made and when they are complete.

parts/<language>.<block>.json   translation of one block of rows, complete or absent; removed when all are done
<language>.jsonl.gz             pairs in one language, with the ids of the source
recipe.toml                     for `hbdist build`, with all cross-lingual groups
translation.json                source, models and settings; and, when done, the rows left out and the reasons
"""

import gzip
import hashlib
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict

from hbdist.errors import ConfigError, DataError
from hbdist.utils.files import write_atomically
from hbdist.utils.json_toml import read_json_object, read_text
from hbdist.utils.leftovers import remove_leftovers
from hbdist.utils.stored import as_stored, read_stored_if_any

REPORT = "translation.json"
RECIPE = "recipe.toml"
OTHER_LANGUAGE = "not in this language"
"""Reason why rows of the source are not in the file of its main language."""
RECIPE_TEXT = read_text(Path(__file__).with_name("recipe_template.txt"))


@dataclass
class Part:
    """Translation of one block of rows into one language."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason → number of rows left out; for hard negatives, the number of negatives."""
    counts: Counter[str] = field(default_factory=Counter)
    """Number of texts, pieces and broken sentences."""


class _StoredPart(TypedDict):
    rows: list[dict[str, Any]]
    left_out: dict[str, int]
    counts: dict[str, int]


class _StoredLanguage(TypedDict):
    rows: int
    left_out: dict[str, int]


class _StoredReport(TypedDict):
    state: Literal["underway", "done"]
    settings: dict[str, Any]
    languages: NotRequired[dict[str, _StoredLanguage]]


class Folder:
    """Folder of the translations that `settings` describe: JSON values, with all that determines the files' bytes."""

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        self.root = root
        self.settings = json.loads(json.dumps(settings))
        self.fingerprint = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def read_finished(self) -> dict[str, Any] | None:
        """Return the content of translation.json if all is translated and written, else None.

        Raises:
            ConfigError: the folder has translations made with other settings, or other files.
            DataError: translation.json is damaged.
        """
        path = self.root / REPORT
        if not path.is_file():
            # Another rank may be writing a file, which is hidden until it is complete.
            if self.root.exists() and (not self.root.is_dir() or any(p.name[0] != "." for p in self.root.iterdir())):
                raise ConfigError(
                    f"{self.root} already exists without {REPORT}; expected translations or nothing. Give another --out."
                )
            return None
        remedy = "Remove the folder and translate again."
        report = read_json_object(path, remedy=remedy)
        stored = as_stored(_StoredReport, report, where=str(path), remedy=remedy)
        settings, state = stored["settings"], stored["state"]
        if state == "done" and stored.get("languages", {}).keys() < set(self.settings["languages"]):
            raise DataError(f"{path} is damaged: it lacks a language that is done. {remedy}")
        if settings != self.settings:
            raise ConfigError(
                f"{self.root} has translations made with other settings: {_difference(settings, self.settings)}. Give "
                "another --out, or the settings of the folder."
            )
        complete = all(self.file(language).is_file() for language in self.settings["languages"])
        return report if state == "done" and complete else None

    def start(self) -> None:
        """Create the folder, with a translation.json if it has none."""
        self.root.mkdir(parents=True, exist_ok=True)
        if not (self.root / REPORT).is_file():
            self._write_report({"state": "underway"})
        (self.root / "parts").mkdir(exist_ok=True)
        remove_leftovers(self.root, below=True)

    def file(self, language: str) -> Path:
        """Return the path of a language's pairs, which exists when all parts are done."""
        return self.root / f"{language}.jsonl.gz"

    def part(self, language: str, block: int) -> Path:
        """Return the path of one block's part, which exists when the part is complete."""
        return self.root / "parts" / f"{language}.{block:06d}.json"

    def write_part(self, language: str, block: int, part: Part) -> None:
        """Write a part, complete or not at all."""
        write_atomically(self.part(language, block), json.dumps(vars(part), ensure_ascii=False))

    def finish(self, blocks: int, originals: Iterable[dict[str, Any]], source: Mapping[str, Any]) -> dict[str, Any]:
        """Merge the parts of each language into its file; return the content of translation.json, which records `source`.

        `originals` are the source's rows entirely in its main language. Two ranks may do this at once: their bytes are equal.
        """
        languages: dict[str, Any] = {}
        main, *targets = self.settings["languages"]
        try:
            for language in targets:
                total = Part()
                count = write_rows(self.file(language), self._read_rows(language, blocks, total))
                languages[language] = {"rows": count, "left_out": dict(sorted(total.left_out.items())), **total.counts}
            count = write_rows(self.file(main), originals)
            others = source["rows"] - count
            languages[main] = {"rows": count, "left_out": {OTHER_LANGUAGE: others} if others else {}}
        except FileNotFoundError:  # another rank finished first and has removed the parts
            if report := self.read_finished():
                return report
            raise
        if nonempty := [language for language in self.settings["languages"] if languages[language]["rows"]]:
            write_atomically(self.root / RECIPE, self._recipe(nonempty))
        report = self._write_report({"state": "done", "source": dict(source), "languages": languages})
        shutil.rmtree(self.root / "parts", ignore_errors=True)
        return report

    def _read_rows(self, language: str, blocks: int, total: Part) -> Iterator[dict[str, Any]]:
        for block in range(blocks):
            path = self.part(language, block)
            part = read_stored_if_any(_StoredPart, path, remedy="Remove it and start again.")
            if part is None:  # another rank finished first and has removed the parts
                raise FileNotFoundError(path)
            total.left_out.update(part["left_out"])
            total.counts.update(part["counts"])
            yield from part["rows"]

    def _recipe(self, languages: Sequence[str]) -> str:
        name = re.sub(r"[^a-z0-9_.]+", "_", self.settings["source"].split(".")[0].lower()).lstrip("_.")
        files = "\n".join(f'{language} = "{language}.jsonl.gz"' for language in languages)
        models = ", ".join(sorted({model["model"] for model in self.settings["models"].values()}))
        return RECIPE_TEXT.format(
            report=REPORT,
            name=name[:100] or "translated",
            models=models.replace("\\", "/").replace('"', ""),
            files=files,
        )

    def _write_report(self, values: Mapping[str, Any]) -> dict[str, Any]:
        report = {**values, "fingerprint": self.fingerprint, "settings": self.settings}
        write_atomically(self.root / REPORT, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
        return report


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write gzipped JSON lines, the same bytes for the same rows; return the number of rows."""
    count = 0
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            count += 1
    write_atomically(path, packed.getvalue())
    return count


def _difference(before: Any, now: Any, key: str = "") -> str:
    """Return the first setting that differs, as `decoding.beams was 4, now 5`; empty if none does."""
    if isinstance(before, dict) and isinstance(now, dict):
        nested = (_difference(before.get(name), now.get(name), f"{key}.{name}".lstrip(".")) for name in now | before)
        return next(filter(None, nested), "")
    return f"{key} was {json.dumps(before)}, now {json.dumps(now)}" if before != now else ""
