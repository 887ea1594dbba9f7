"""The manifest of a shard folder: its groups, their shards with counts and checksums, and the fingerprint of it all.

A folder without a manifest is no shard folder: the manifest is written last, so whoever finds one finds all it names.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from hbdist.atomic import write_atomically
from hbdist.errors import DataError

FILE = "manifest.json"
VERSION = 1


def check_name(name: str) -> str:
    """`name` if it can name a dataset: its folder, and its part of `ntrex/en-de`.

    Raises:
        ValueError: it cannot.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.]*", name):
        raise ValueError(f"{name!r} cannot name a dataset. Use a-z, 0-9, _ and ., beginning with a letter or digit")
    return name


def check_language(code: str) -> str:
    """`code` if it is a canonical language code, such as `en` or `zh_Hant`.

    Raises:
        ValueError: it is not, for example because it has a `-`, which stands between the two languages of a pair.
    """
    if not re.fullmatch(r"[a-z]{2,3}(_[A-Za-z0-9]{2,8})*", code):
        raise ValueError(f"{code!r} is not a canonical language code. Write it as en, arz or zh_Hant: _ and never -")
    return code


def check_path(path: str) -> str:
    """`path` if it stays inside the folder it is relative to.

    Raises:
        ValueError: it does not: a manifest from elsewhere must not name files outside its own folder.
    """
    parts = PurePosixPath(path)
    if not path or parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{path!r} leads out of the folder. Use paths below it")
    return path


Name = Annotated[str, AfterValidator(check_name)]
Language = Annotated[str, AfterValidator(check_language)]
RelativePath = Annotated[str, AfterValidator(check_path)]


@dataclass(frozen=True)
class Shard:
    """One tar file and its index; paths are relative to the shard folder, with `/`."""

    path: RelativePath
    rows: int
    bytes: int
    sha256: str
    index: RelativePath
    index_sha256: str


@dataclass(frozen=True)
class Group:
    """The pairs of one dataset, one query language and one document language."""

    dataset: Name
    query_lang: Language
    document_lang: Language
    shards: tuple[Shard, ...]

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def pair(self) -> str:
        """Query and document language, as in "en-de"."""
        return f"{self.query_lang}-{self.document_lang}"

    @property
    def monolingual(self) -> bool:
        return self.query_lang == self.document_lang

    @property
    def name(self) -> str:
        """Dataset and language pair, as in "ntrex/en-de"; also the group's folder."""
        return f"{self.dataset}/{self.pair}"

    @property
    def key(self) -> tuple[str, str, str]:
        """What a manifest sorts its groups by."""
        return self.dataset, self.query_lang, self.document_lang


class _Stored(BaseModel):
    """The JSON of a manifest."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: int
    fingerprint: str
    inputs: str
    licences: dict[str, str]
    dropped: dict[str, dict[str, int]]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class Manifest:
    """A shard folder as it was built.

    `groups` are sorted by (dataset, query language, document language). `dropped` counts per dataset and reason what
    the build left out. `inputs` is a digest of the recipe and the files it was built from.
    """

    root: Path
    groups: tuple[Group, ...]
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    licences: Mapping[str, str] = field(default_factory=dict)
    inputs: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what the rows are and in which order, wherever the folder lies and whatever its files'
        names."""
        digest = hashlib.sha256()
        for group in self.groups:
            digest.update(f"{group.name}\n".encode())
            digest.update("".join(f"{shard.rows} {shard.sha256}\n" for shard in group.shards).encode())
        return digest.hexdigest()

    @property
    def languages(self) -> tuple[str, ...]:
        """All languages of queries or documents, sorted."""
        return tuple(sorted({lang for group in self.groups for lang in (group.query_lang, group.document_lang)}))

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    @classmethod
    def load(cls, root: str | Path) -> Self:
        """The manifest of the shard folder `root`.

        Raises:
            DataError: there is none, or it is unreadable, of another version, or not as it was written.
        """
        root = Path(root)
        stored = _parse(root / FILE)
        groups = tuple(sorted(stored.groups, key=lambda group: group.key))
        manifest = cls(root, groups, stored.dropped, stored.licences, stored.inputs)
        if len({group.key for group in groups}) < len(groups):
            raise DataError(f"{root / FILE} lists a group twice; expected each once. {_REBUILD}")
        if manifest.fingerprint != stored.fingerprint:
            raise DataError(
                f"{root / FILE} has the fingerprint {stored.fingerprint[:12]}, its contents have "
                f"{manifest.fingerprint[:12]}: it was changed after the build. {_REBUILD}"
            )
        return manifest

    def save(self, root: str | Path) -> None:
        """Write the manifest into the folder `root`: wholly or not at all."""
        values = {
            "version": VERSION,
            "fingerprint": self.fingerprint,
            "inputs": self.inputs,
            "licences": dict(self.licences),
            "dropped": {dataset: dict(reasons) for dataset, reasons in self.dropped.items()},
            "groups": [asdict(group) for group in self.groups],
        }
        write_atomically(Path(root) / FILE, json.dumps(values, ensure_ascii=False, indent=1) + "\n")


_REBUILD = "Build the folder again with `hbdist build RECIPE`."


def _parse(path: Path) -> _Stored:
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text)
        version = values.get("version") if isinstance(values, dict) else None
        if version == VERSION:
            return _Stored.model_validate_json(text)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(
            f"{path} does not exist; expected a folder of built shards. Build it with `hbdist build RECIPE`."
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is damaged at {where}: {first['msg']}. {_REBUILD}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; expected JSON. {_REBUILD}") from None
    raise DataError(f"{path} has version {version!r}; this hbdist reads version {VERSION}. {_REBUILD}")


def differences(old: Manifest, new: Manifest) -> list[str]:
    """One sentence for every group whose rows are not the same in both; empty if the fingerprints agree."""
    before, after = ({group.name: group for group in manifest.groups} for manifest in (old, new))
    sentences = (_difference(name, before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys()))
    return [sentence for sentence in sentences if sentence]


def _difference(name: str, old: Group | None, new: Group | None) -> str:
    if old is None or new is None:
        return f"{name} is new ({new.rows} rows)." if new else f"{name} is gone ({old.rows if old else 0} rows)."
    if [(shard.rows, shard.sha256) for shard in old.shards] == [(shard.rows, shard.sha256) for shard in new.shards]:
        return ""
    if old.rows != new.rows:
        return f"{name} has {new.rows} rows where it had {old.rows}."
    return f"{name} has as many rows as before ({new.rows}), but not the same ones or not in the same shards."
