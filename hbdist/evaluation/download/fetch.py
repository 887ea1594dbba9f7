"""Fetch benchmark data from their public homes, compare checksums, and note those that were not known before."""

import hashlib
import http.client
import json
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfileobj
from typing import IO
from uuid import uuid4

from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.download.sources import Home, RemoteFile
from hbdist.utils.files import write_atomically

NOTES = "fetched.json"
TIMEOUT = 60.0
"""Seconds without a byte."""
BLOCK = 1 << 20
Progress = Callable[[int, int], None]
"""Called with files done and files in all."""


@dataclass(frozen=True)
class Fetched:
    """What came of it; paths in the data set's folder."""

    folder: Path
    licence: str
    fetched: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Were there, as they should be."""
    first_seen: dict[str, str] = field(default_factory=dict)
    """Path → sha256 of what had no checksum to be compared with; noted in fetched.json."""

    def text(self) -> str:
        """For the terminal."""
        lines = [f"{self.folder}: {len(self.fetched):,} files fetched, {len(self.kept):,} were there ({self.licence})"]
        if self.first_seen:
            lines.append(
                f"no checksum was known of {len(self.first_seen):,} of them: what came is noted in"
                f" {self.folder / NOTES} and compared from now on"
            )
            lines += [f"  {digest}  {path}" for path, digest in self.first_seen.items()]
        return "\n".join(lines)


def fetch(home: Home, folder: Path, *, languages: Sequence[str] = (), progress: Progress | None = None) -> Fetched:
    """All files of a data set in the folder; those that are there and right stay.

    What a file's sha256 must be is known, or noted by an earlier fetch in FOLDER/fetched.json; else it is noted now.
    A file that was put there by hand, an archive too, is taken as fetched if it is right, or nothing is known of it.

    Args:
        home: of the data set.
        folder: for its files; made if needed.
        languages: only what these need, where there is a choice.
        progress: told how far it is.

    Raises:
        ConfigError: a language is not there, none is named where one must be, or a program cannot fetch the data.
        DataError: a file cannot be had, or is not what it should be.
    """
    if home.by_hand:
        raise ConfigError(home.by_hand.format(folder=folder))
    _check_languages(home, languages)
    folder.mkdir(parents=True, exist_ok=True)
    files, noted, done = home.files(languages), _read_notes(folder), Fetched(folder, home.licence)
    for number, file in enumerate(files, start=1):
        expected = file.sha256 or noted.get(file.path, "")
        if expected and _is_there(folder, file, expected, noted):
            done.kept.append(file.path)
        else:
            # What lies there already was put there by hand: what is fetched has its name only when it is whole.
            digest = _digest(folder / file.path)
            by_hand = bool(digest) and digest == (expected or digest)
            if not by_hand:
                digest = _download(file, folder, expected)
            noted[file.path] = digest
            noted |= _unpack(folder, file)
            _write_notes(folder, noted)
            (done.kept if by_hand else done.fetched).append(file.path)
            if not expected:
                done.first_seen[file.path] = digest
        if progress:
            progress(number, len(files))
    return done


def _check_languages(home: Home, languages: Sequence[str]) -> None:
    if languages and not home.languages:
        raise ConfigError(f"{home.name} is fetched whole; leave out --languages.")
    if unknown := [language for language in languages if language not in home.languages]:
        raise ConfigError(f"{home.name} has no {', '.join(unknown)}. It has {', '.join(home.languages)}.")
    if home.must_choose and not languages:
        raise ConfigError(
            f"{home.name} is large; name the languages to fetch: --languages {home.languages[0]},… of"
            f" {', '.join(home.languages)}."
        )


def _is_there(folder: Path, file: RemoteFile, expected: str, noted: dict[str, str]) -> bool:
    if file.members:  # the archive is not kept
        return noted.get(file.path) == expected and all(
            _digest(folder / path) == noted.get(path, "?") for _, path in file.members
        )
    return _digest(folder / file.path) == expected


def _download(file: RemoteFile, folder: Path, expected: str) -> str:
    """Fetch one file, whole or not at all; returns its sha256."""
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid4().hex[:8]}.partial")
    try:
        with urllib.request.urlopen(file.url, timeout=TIMEOUT) as response, partial.open("wb") as out:
            digest = _copy(response, out)
        if expected and digest != expected:
            raise DataError(f"{file.url} has sha256 {digest}; expected {expected}. {_advice(file, folder)}")
        partial.replace(path)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{file.url} cannot be fetched: {_why(error)}. Start again to go on, or fetch it elsewhere and put it to {path}."
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return digest


def _advice(file: RemoteFile, folder: Path) -> str:
    """What to do about a file that is not the expected one."""
    if file.sha256:
        return f"It is not the published file: fetch again, or put the right one to {folder / file.path}."
    return (
        f"It has changed since it was first fetched: fetch again, or delete its line from {folder / NOTES} if the new one"
        " is wanted."
    )


def _copy(response: IO[bytes], out: IO[bytes]) -> str:
    digest, size = hashlib.sha256(), 0
    while block := response.read(BLOCK):
        digest.update(block)
        out.write(block)
        size += len(block)
    length = getattr(response, "headers", {}).get("Content-Length")
    if length is not None and int(length) != size:
        raise OSError(f"{size:,} of {int(length):,} bytes came")
    return digest.hexdigest()


def _unpack(folder: Path, file: RemoteFile) -> dict[str, str]:
    """Take the members out of an archive and delete it; returns their sha256 by path."""
    if not file.members:
        return {}
    archive, digests = folder / file.path, {}
    try:
        with zipfile.ZipFile(archive) as packed:
            for ending, path in file.members:
                names = [name for name in packed.namelist() if f"/{name}".endswith(f"/{ending}")]
                if len(names) != 1:
                    raise DataError(f"{file.url} holds {len(names)} files that end in {ending}; expected one.")
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{target.name}.partial")
                with packed.open(names[0]) as member, partial.open("wb") as out:
                    copyfileobj(member, out)
                partial.replace(target)
                digests[path] = _digest(target)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(f"{file.url} is not a zip archive, or a damaged one: {error}. Fetch it again.") from None
    finally:
        archive.unlink(missing_ok=True)
    return digests


def _digest(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_notes(folder: Path) -> dict[str, str]:
    path = folder / NOTES
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error!r}. Delete it; checksums are noted anew.") from None
    return dict(notes)


def _write_notes(folder: Path, noted: dict[str, str]) -> None:
    text = json.dumps({"sha256": dict(sorted(noted.items()))}, indent=2)
    write_atomically(folder / NOTES, text + "\n")


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__
