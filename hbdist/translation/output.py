"""The folder of translations while it is made and when it is done.

parts/<language>.<block>.json   what one block of rows gave, complete or absent; gone when all is done
<language>.jsonl.gz             the pairs in one language, with the ids of the source
recipe.toml                     for `hbdist build`, with all cross-lingual groups
translation.json                from what, by what and how; and, when done, what was left out and why
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
from typing import Any

from hbdist.errors import ConfigError, DataError
from hbdist.utils.files import write_atomically

FILE = "translation.json"
RECIPE = "recipe.toml"

OTHER_LANGUAGE = "not in this language"
"""The reason for rows of the source that are not in the file of its language."""

RECIPE_TEXT = """# Written by hbdist translate. What was left out of a language, and why, is in {file}.
out = "shards"

[[dataset]]
name = "{name}"
reader = "jsonl"
parallel = true
licence = "not stated; translated by {models}"
[dataset.files]
{files}
"""


@dataclass
class Part:
    """What a block of rows gave in one language."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    """Reason → rows; of hard negatives, those alone."""
    counts: Counter[str] = field(default_factory=Counter)
    """What was done: texts, pieces, sentences broken."""


class Folder:
    """The folder of the translations that `settings` describe.

    Args:
        settings: all that the bytes follow from; JSON values.
    """

    def __init__(self, root: Path, settings: Mapping[str, Any]) -> None:
        self.root = root
        self.settings = json.loads(json.dumps(settings))
        self.fingerprint = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def standing(self) -> dict[str, Any] | None:
        """What translation.json says; None if there is none.

        Raises:
            ConfigError: the folder holds translations that other settings made, or none.
        """
        path = self.root / FILE
        if not path.is_file():
            # Hidden files may be what another rank is just writing.
            if self.root.exists() and (not self.root.is_dir() or any(p.name[0] != "." for p in self.root.iterdir())):
                raise ConfigError(
                    f"{self.root} is there already and holds no {FILE}; expected translations or nothing. Give another --out."
                )
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            settings, _ = found["settings"], found["state"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}). Remove the folder and translate again.") from None
        if settings != self.settings:
            raise ConfigError(
                f"{self.root} holds other translations: {_difference(settings, self.settings)}. Give another --out, or "
                "what they were made with."
            )
        return dict(found)

    def is_done(self) -> bool:
        """Whether all is translated and written."""
        found = self.standing()
        files = [self.file(language) for language in self.settings["languages"]]
        return found is not None and found["state"] == "done" and all(path.is_file() for path in files)

    def start(self) -> None:
        """Say what is being made here, where nothing says it yet."""
        self.root.mkdir(parents=True, exist_ok=True)
        if not (self.root / FILE).is_file():
            self._note({"state": "underway"})
        (self.root / "parts").mkdir(exist_ok=True)

    def file(self, language: str) -> Path:
        """Where the pairs of a language are when all is done."""
        return self.root / f"{language}.jsonl.gz"

    def part(self, language: str, block: int) -> Path:
        """Where the part of one block is when it is complete."""
        return self.root / "parts" / f"{language}.{block:06d}.json"

    def write_part(self, language: str, block: int, part: Part) -> None:
        """Write a part, whole or not at all."""
        write_atomically(self.part(language, block), json.dumps(vars(part), ensure_ascii=False))

    def finish(self, blocks: int, originals: Iterable[dict[str, Any]], source: Mapping[str, Any]) -> dict[str, Any]:
        """Put the parts of all languages together; returns what translation.json says.

        Two ranks may do this at a time: they write the same bytes.

        Args:
            originals: the rows that are in the source's language as they are.
            source: what is to be said of it.
        """
        languages: dict[str, Any] = {}
        own, *targets = self.settings["languages"]
        try:
            for language in targets:
                total = Part()
                rows = self._rows(language, blocks, total)
                count = write_rows(self.file(language), rows)
                languages[language] = {"rows": count, "left_out": dict(sorted(total.left_out.items())), **total.counts}
            count = write_rows(self.file(own), originals)
            others = source["rows"] - count
            languages[own] = {"rows": count, "left_out": {OTHER_LANGUAGE: others} if others else {}}
        except FileNotFoundError:  # the other one was faster and has taken the parts away
            if not self.is_done():
                raise
            return self.standing() or {}
        kept = [language for language in self.settings["languages"] if languages[language]["rows"]]
        if kept:
            write_atomically(self.root / RECIPE, self._recipe(kept))
        report = self._note({"state": "done", "source": dict(source), "languages": languages})
        shutil.rmtree(self.root / "parts", ignore_errors=True)
        return report

    def _rows(self, language: str, blocks: int, total: Part) -> Iterator[dict[str, Any]]:
        for block in range(blocks):
            path = self.part(language, block)
            try:
                part = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"{path} is damaged ({error}). Remove it and start again.") from None
            total.left_out.update(part["left_out"])
            total.counts.update(part["counts"])
            yield from part["rows"]

    def _recipe(self, languages: Sequence[str]) -> str:
        name = re.sub(r"[^a-z0-9_.]+", "_", self.settings["source"].split(".")[0].lower()).lstrip("_.")
        files = "\n".join(f'{language} = "{language}.jsonl.gz"' for language in languages)
        models = ", ".join(sorted({model["model"] for model in self.settings["models"].values()}))
        return RECIPE_TEXT.format(
            file=FILE, name=name or "translated", models=models.replace("\\", "/").replace('"', ""), files=files
        )

    def _note(self, values: Mapping[str, Any]) -> dict[str, Any]:
        report = {**values, "fingerprint": self.fingerprint, "settings": self.settings}
        write_atomically(self.root / FILE, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
        return report


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write JSON lines, gzipped, always the same bytes for the same rows; returns how many."""
    count = 0
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            count += 1
    write_atomically(path, packed.getvalue())
    return count


def _difference(found: Any, wanted: Any, at: str = "") -> str:
    """The first setting that differs, as `decoding.beams was 4, now 5`; empty if none does."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        inside = (_difference(found.get(key), wanted.get(key), f"{at}.{key}".lstrip(".")) for key in wanted | found)
        return next(filter(None, inside), "")
    return f"{at} was {json.dumps(found)}, now {json.dumps(wanted)}" if found != wanted else ""
