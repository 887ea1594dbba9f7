"""Manifest of a shard folder: its groups, their shards with counts and checksums, and a fingerprint of all rows.

A folder without a manifest is not a shard folder: the manifest is written last, so all files that it names exist.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from hbdist.data.shards.groups import Group, ShardSet, Texts
from hbdist.data.shards.remote import Remote, locate
from hbdist.errors import DataError
from hbdist.utils.files import write_atomically

FILE = "manifest.json"
VERSION = 2
VALIDATION = "validation"
"""Folder, in a shard folder, of the pairs that were held out; itself a shard folder."""
_REBUILD = "Build the folder again with `hbdist build RECIPE`."


class _Stored(BaseModel):
    """The JSON of a manifest."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[2]
    fingerprint: str
    inputs: str
    licences: dict[str, str]
    dropped: dict[str, dict[str, int]]
    texts: tuple[Texts, ...] = ()
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Manifest:
    """Contents of a shard folder, as it was built."""

    root: Path | Remote
    groups: tuple[Group, ...]
    """Groups, sorted by (dataset, query language, document language)."""
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Number of rows that the build left out, by dataset and reason."""
    licences: Mapping[str, str] = field(default_factory=dict)
    inputs: str = ""
    """Digest of the recipe and the files that the folder was built from."""
    texts: tuple[Texts, ...] = ()
    """Texts of the languages of parallel layouts, which some of the groups are views of."""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the rows and their order, whatever the folder's location and the names of its files.

        It covers the stored bytes: the same pairs have another fingerprint in the other layout."""
        digest = hashlib.sha256()
        for shard_set in self.shard_sets:
            digest.update(f"{shard_set.name}\n{_content(shard_set)}".encode())
        return digest.hexdigest()

    @cached_property
    def shard_sets(self) -> tuple[ShardSet, ...]:
        """The groups, and after them the texts. Shard sets are referred to by their index in this tuple."""
        return *self.groups, *self.texts

    @cached_property
    def text_numbers(self) -> Mapping[tuple[str, str], int]:
        """Index, among the shard sets, of the texts of each (dataset, language)."""
        return {(one.dataset, one.language): number for number, one in enumerate(self.texts, len(self.groups))}

    def text_sets(self, view: Group) -> tuple[int, int]:
        """Return the indexes, among the shard sets, of the texts of a view's queries and of its documents."""
        return self.text_numbers[view.dataset, view.query_lang], self.text_numbers[view.dataset, view.document_lang]

    @property
    def folder(self) -> Path:
        """`root` as a folder of this machine, for code that has just built it."""
        assert isinstance(self.root, Path), self.root
        return self.root

    @property
    def languages(self) -> tuple[str, ...]:
        """All languages of queries or documents, sorted."""
        return tuple(sorted({lang for group in self.groups for lang in (group.query_lang, group.document_lang)}))

    @property
    def rows(self) -> int:
        """Number of pairs."""
        return sum(group.rows for group in self.groups)

    @classmethod
    def load(cls, root: str | Path) -> Self:
        """Read the manifest of the shard folder `root`, which may be an address (`s3://`, `gs://`, `https://`).

        Raises:
            ConfigError: `root` is an address of a kind that cannot be read on this machine.
            DataError: there is no manifest, or it is unreadable, of another version, or was altered.
        """
        folder = locate(root)
        path = folder / FILE
        try:
            return cls.parse(path.read_bytes(), folder)
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(
                f"{path} does not exist; expected a folder of built shards. Build it with `hbdist build RECIPE`."
            ) from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}; expected JSON. {_REBUILD}") from None

    @classmethod
    def parse(cls, text: str | bytes, root: Path | Remote) -> Self:
        """Parse the JSON of a manifest; the shard folder `root` is only named, and not opened.

        Raises:
            DataError: the text is not JSON, of another version, or was altered.
        """
        stored = _parse(text, root / FILE)
        groups = tuple(sorted(stored.groups, key=lambda group: group.key))
        manifest = cls(root, groups, stored.dropped, stored.licences, stored.inputs, stored.texts)
        if len({group.key for group in groups}) < len(groups) or len(manifest.text_numbers) < len(stored.texts):
            raise DataError(f"{root / FILE} lists a group twice; expected each once. {_REBUILD}")
        for group in groups:
            languages = {(group.dataset, group.query_lang), (group.dataset, group.document_lang)}
            if group.view and (len(group.shards) or not languages <= manifest.text_numbers.keys()):
                raise DataError(f"{root / FILE} has no texts of which {group.name} could be a view. {_REBUILD}")
        if manifest.fingerprint != stored.fingerprint:
            raise DataError(
                f"{root / FILE} has the fingerprint {stored.fingerprint[:12]}, its contents have "
                f"{manifest.fingerprint[:12]}: it was changed after the build. {_REBUILD}"
            )
        return manifest

    def save(self, root: str | Path) -> None:
        """Write the manifest into the folder `root`, atomically, with one line per group and per language's texts."""
        values = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "inputs": self.inputs,
            "licences": dict(self.licences),
            "dropped": {dataset: dict(reasons) for dataset, reasons in self.dropped.items()},
        }
        head = json.dumps(values, ensure_ascii=False, indent=1).removesuffix("\n}")
        lists: dict[str, tuple[ShardSet, ...]] = {"texts": self.texts} if self.texts else {}
        lists["groups"] = self.groups
        tail = ",\n".join(f' "{name}": [\n' + ",\n".join(map(_line, sets)) + "\n]" for name, sets in lists.items())
        write_atomically(Path(root) / FILE, f"{head},\n{tail}}}\n")


def _line(shard_set: ShardSet) -> str:
    values = {one.name: getattr(shard_set, one.name) for one in fields(shard_set)}
    if isinstance(shard_set, Group):
        del values["shards" if shard_set.view else "view"]
    return json.dumps(values, ensure_ascii=False, default=_known)


def _known(value: object) -> dict[str, Any]:
    """Return the fields of shards or of a view, without those that the build did not count."""
    return {name: column for name, column in vars(value).items() if column is not None}


def _content(shard_set: ShardSet) -> str:
    """Return what identifies the rows of a shard set: one line per file, with its rows and its digest."""
    if isinstance(shard_set, Group) and shard_set.view:
        return f"{shard_set.view.rows} {shard_set.view.sha256} of {shard_set.view.shard_rows}\n"
    files = zip(shard_set.shards.rows, shard_set.shards.sha256, strict=True)
    lines = "".join(f"{rows} {sha256}\n" for rows, sha256 in files)
    if isinstance(shard_set, Texts):
        return f"{shard_set.rows} of {shard_set.shard_rows} in {shard_set.windows}\n{lines}"
    return lines


def _parse(text: str | bytes, where: Path | Remote) -> _Stored:
    try:
        return _Stored.model_validate_json(text)
    except ValidationError as error:
        faults = error.errors()
    if faults[0]["type"] == "json_invalid":
        raise DataError(f"{where} cannot be read: {faults[0]['msg']}; expected JSON. {_REBUILD}")
    for fault in faults:
        if fault["loc"] in ((), ("version",)):
            version = None if fault["type"] != "literal_error" else fault["input"]
            raise DataError(f"{where} has version {version!r}; this hbdist reads version {VERSION}. {_REBUILD}")
    raise DataError(f"{where} is damaged at {'.'.join(map(str, faults[0]['loc']))}: {faults[0]['msg']}. {_REBUILD}")


def differences(old: Manifest, new: Manifest) -> list[str]:
    """Return one sentence for every group whose rows differ; an empty list if the fingerprints agree."""
    before, after = ({group.name: group for group in manifest.groups} for manifest in (old, new))
    sentences = [f"{name} is gone ({before[name].rows} rows)." for name in before.keys() - after.keys()]
    sentences += [f"{name} is new ({after[name].rows} rows)." for name in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        rows, rows_now = before[name].rows, after[name].rows
        if rows != rows_now:
            sentences.append(f"{name} has {rows_now} rows where it had {rows}.")
        elif bool(before[name].view) != bool(after[name].view):
            sentences.append(f"{name} has as many rows as before ({rows}), but in another layout.")
        elif _all_content(old, before[name]) != _all_content(new, after[name]):
            sentences.append(
                f"{name} has as many rows as before ({rows}), but not the same ones or not in the same shards."
            )
    return sorted(sentences, key=lambda sentence: sentence.split(" ", 1)[0])


def _all_content(manifest: Manifest, group: Group) -> list[str]:
    texts = [manifest.shard_sets[number] for number in manifest.text_sets(group)] if group.view else []
    return [_content(shard_set) for shard_set in (group, *texts)]
