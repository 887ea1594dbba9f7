"""The manifest of a shard folder: its groups, their shards with counts and checksums, and the fingerprint of it all.

A folder without a manifest is no shard folder: the manifest is written last, so whoever finds one finds all it names.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from hbdist.data.shards.groups import (
    Group,
    Language,
    Name,
    Shard,
    Shards,
    ShardSet,
    Texts,
    View,
    check_language,
    check_name,
    check_paths,
)
from hbdist.data.shards.remote import Remote, locate
from hbdist.errors import DataError
from hbdist.utils.files import write_atomically

__all__ = [
    "FILE",
    "VERSION",
    "Group",
    "Language",
    "Manifest",
    "Name",
    "Shard",
    "ShardSet",
    "Shards",
    "Texts",
    "View",
    "check_language",
    "check_name",
    "check_paths",
    "differences",
]

FILE = "manifest.json"
VERSION = 2


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
    """A shard folder as it was built.

    `groups` are sorted by (dataset, query language, document language). `dropped` counts per dataset and reason what
    the build left out. `inputs` is a digest of the recipe and the files it was built from. `texts` are what those groups
    that are views are views of.
    """

    root: Path | Remote
    groups: tuple[Group, ...]
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    inputs: str = ""
    texts: tuple[Texts, ...] = ()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the rows are and in which order, wherever the folder lies and whatever its files'
        names. It is of the stored bytes: the same pairs have another one in the other layout."""
        digest = hashlib.sha256()
        for shard_set in self.shard_sets:
            digest.update(f"{shard_set.name}\n{_lines(shard_set)}".encode())
        return digest.hexdigest()

    @property
    def shard_sets(self) -> tuple[ShardSet, ...]:
        """All that has shards: the groups, and then the texts."""
        return *self.groups, *self.texts

    @cached_property
    def texts_of(self) -> Mapping[tuple[str, str], int]:
        """(dataset, language) → the place of its texts among the shard_sets."""
        return {(one.dataset, one.language): place for place, one in enumerate(self.texts, len(self.groups))}

    def sides(self, group: Group) -> tuple[int, int]:
        """The places, among the shard_sets, of the texts that a view's queries and its documents are in."""
        return self.texts_of[group.dataset, group.query_lang], self.texts_of[group.dataset, group.document_lang]

    @property
    def folder(self) -> Path:
        """`root`, for those who built it: a folder of this machine."""
        assert isinstance(self.root, Path), self.root
        return self.root

    @property
    def languages(self) -> tuple[str, ...]:
        """All languages of queries or documents, sorted."""
        return tuple(sorted({lang for group in self.groups for lang in (group.query_lang, group.document_lang)}))

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    @classmethod
    def load(cls, root: str | Path) -> Self:
        """The manifest of the shard folder `root`, which may be an address (`s3://`, `gs://`, `https://`).

        Raises:
            ConfigError: `root` is an address of a kind that cannot be read here.
            DataError: there is none, or it is unreadable, of another version, or not as it was written.
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
        """The manifest that `text` is, of the shard folder `root`, which is only named.

        Raises:
            DataError: it is no JSON, of another version, or not as it was written.
        """
        stored = _parse(text, root / FILE)
        groups = tuple(sorted(stored.groups, key=lambda group: group.key))
        manifest = cls(root, groups, stored.dropped, stored.licences, stored.inputs, stored.texts)
        if len({group.key for group in groups}) < len(groups) or len(manifest.texts_of) < len(stored.texts):
            raise DataError(f"{root / FILE} lists a group twice; expected each once. {_REBUILD}")
        if stray := [group.name for group in groups if group.view and not _has_texts(manifest, group, group.view)]:
            raise DataError(f"{root / FILE} has no texts of which {stray[0]} could be a view. {_REBUILD}")
        if manifest.fingerprint != stored.fingerprint:
            raise DataError(
                f"{root / FILE} has the fingerprint {stored.fingerprint[:12]}, its contents have "
                f"{manifest.fingerprint[:12]}: it was changed after the build. {_REBUILD}"
            )
        return manifest

    def save(self, root: str | Path) -> None:
        """Write the manifest into the folder `root`: wholly or not at all. A group, or a language's texts, is a line."""
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
        tail = ",\n".join(f' "{name}": [\n' + ",\n".join(map(_line, held)) + "\n]" for name, held in lists.items())
        write_atomically(Path(root) / FILE, f"{head},\n{tail}}}\n")


def _line(shard_set: ShardSet) -> str:
    values = {one.name: getattr(shard_set, one.name) for one in fields(shard_set)}
    if isinstance(shard_set, Group):
        del values["shards" if shard_set.view else "view"]
    return json.dumps(values, ensure_ascii=False, default=_plain)


def _plain(value: Shards | View) -> dict[str, Any]:
    return value.columns if isinstance(value, Shards) else vars(value)


def _lines(shard_set: ShardSet) -> str:
    """What the rows of a shard_set are: a line a file, with its rows and its digest."""
    if isinstance(shard_set, Group) and shard_set.view:
        return f"{shard_set.view.rows} {shard_set.view.sha256} of {shard_set.view.shard_rows}\n"
    head = (
        f"{shard_set.rows} of {shard_set.shard_rows} in {shard_set.windows}\n" if isinstance(shard_set, Texts) else ""
    )
    lines = (f"{rows} {sha256}\n" for rows, sha256 in zip(shard_set.shards.rows, shard_set.shards.sha256, strict=True))
    return head + "".join(lines)


def _has_texts(manifest: Manifest, group: Group, view: View) -> bool:
    sides = [manifest.texts_of.get((group.dataset, language)) for language in (group.query_lang, group.document_lang)]
    return None not in sides and not len(group.shards)


_REBUILD = "Build the folder again with `hbdist build RECIPE`."


def _parse(text: str | bytes, where: Path | Remote) -> _Stored:
    try:
        return _Stored.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} cannot be read: {error}; expected JSON. {_REBUILD}") from None
    version = values.get("version") if isinstance(values, dict) else None
    if version != VERSION:
        raise DataError(f"{where} has version {version!r}; this hbdist reads version {VERSION}. {_REBUILD}")
    raise DataError(f"{where} is damaged at {'.'.join(map(str, first['loc']))}: {first['msg']}. {_REBUILD}")


def differences(old: Manifest, new: Manifest) -> list[str]:
    """One sentence for every group whose rows are not the same in both; empty if the fingerprints agree."""
    before, after = ({group.name: group for group in manifest.groups} for manifest in (old, new))
    return [
        sentence
        for name in sorted(before.keys() | after.keys())
        for sentence in _difference(name, (old, before.get(name)), (new, after.get(name)))
    ]


def _difference(name: str, *sides: tuple[Manifest, Group | None]) -> Iterator[str]:
    (old, before), (new, after) = sides
    if before is None or after is None:
        yield (
            f"{name} is new ({after.rows} rows)." if after else f"{name} is gone ({before.rows if before else 0} rows)."
        )
    elif before.rows != after.rows:
        yield f"{name} has {after.rows} rows where it had {before.rows}."
    elif bool(before.view) != bool(after.view):
        yield f"{name} has as many rows as before ({after.rows}), but in another layout."
    elif _content(old, before) != _content(new, after):
        yield f"{name} has as many rows as before ({after.rows}), but not the same ones or not in the same shards."


def _content(manifest: Manifest, group: Group) -> list[str]:
    sides = [manifest.shard_sets[place] for place in manifest.sides(group)] if group.view else []
    return [_lines(shard_set) for shard_set in (group, *sides)]


VALIDATION = "validation"
"""Folder, in a shard folder, of the pairs that were held out; itself a shard folder."""
