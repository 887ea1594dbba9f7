"""Download of benchmark data, with known checksums compared and unknown ones recorded."""

import json
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from shutil import copyfileobj

from hbdist.errors import ConfigError, DataError
from hbdist.evaluation.download.sources import DataSource, RemoteFile
from hbdist.utils.files import atomic_file, sha256, write_atomically
from hbdist.utils.json_toml import read_json_object
from hbdist.utils.leftovers import remove_leftovers
from hbdist.utils.parse import a_json

CHECKSUMS = "fetched.json"
"""File in a data set's folder that records the checksums of what was fetched."""
TIMEOUT = 60.0
"""Seconds without a byte after which a download fails."""
Progress = Callable[[int, int], None]
"""Callback with the number of files done and of all files."""


@dataclass(frozen=True)
class FetchReport:
    """Outcome of a fetch, with paths in the data set's folder."""

    folder: Path
    licence: str
    fetched: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    """Files that were already there with the expected checksum, or put there by hand."""
    first_seen: dict[str, str] = field(default_factory=dict)
    """Path → SHA-256 of files without a known checksum; recorded in fetched.json."""

    def text(self) -> str:
        """Return the report for the terminal."""
        fetched, unchanged = len(self.fetched), len(self.unchanged)
        lines = [f"{self.folder}: {fetched:,} files fetched, {unchanged:,} were there ({self.licence})"]
        if self.first_seen:
            lines.append(
                f"no checksum was known of {len(self.first_seen):,} of them: those of the fetched files are recorded in"
                f" {self.folder / CHECKSUMS} and compared from now on"
            )
            lines += [f"  {digest}  {path}" for path, digest in self.first_seen.items()]
        return "\n".join(lines)


def fetch(
    source: DataSource, folder: Path, *, languages: Sequence[str] = (), progress: Progress | None = None
) -> FetchReport:
    """Fetch all files of a data set into the folder, except those that are there and right.

    The expected SHA-256 of a file is published, or was recorded by an earlier fetch in FOLDER/fetched.json; otherwise it
    is recorded now. A file that was put there by hand, even an archive, counts as fetched if it has the expected checksum
    or none is known.

    Args:
        folder: folder for the files; made if needed.
        languages: languages to fetch, if the data set can be fetched in part; empty for all.

    Raises:
        ConfigError: a language is unknown, none is named but one must be, or the data must be fetched by hand.
        DataError: a file cannot be fetched, or does not have the expected checksum.
    """
    if source.by_hand:
        raise ConfigError(source.by_hand.format(folder=folder))
    _check_languages(source, languages)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder, below=True)
    files, recorded, report = source.files(languages), _read_checksums(folder), FetchReport(folder, source.licence)
    for number, file in enumerate(files, start=1):
        expected = file.sha256 or recorded.get(file.path, "")
        if expected and _is_there(folder, file, expected, recorded):
            report.unchanged.append(file.path)
        else:
            # A file that is already there was put there by hand: a download gets its name only when it is whole.
            digest = _digest(folder / file.path)
            by_hand = bool(digest) and digest == (expected or digest)
            if not by_hand:
                digest = _download(file, folder, expected)
            recorded |= {file.path: digest} | _unpack(folder, file)
            checksums = {"sha256": dict(sorted(recorded.items()))}
            write_atomically(folder / CHECKSUMS, json.dumps(checksums, indent=2) + "\n")
            (report.unchanged if by_hand else report.fetched).append(file.path)
            if not expected:
                report.first_seen[file.path] = digest
        if progress:
            progress(number, len(files))
    return report


def _check_languages(source: DataSource, languages: Sequence[str]) -> None:
    if languages and not source.languages:
        raise ConfigError(f"{source.name} is fetched whole; leave out --languages.")
    if unknown := [language for language in languages if language not in source.languages]:
        raise ConfigError(f"{source.name} has no {', '.join(unknown)}. It has {', '.join(source.languages)}.")
    if source.languages and not languages:
        raise ConfigError(
            f"{source.name} is large; name the languages to fetch: --languages {source.languages[0]},… of"
            f" {', '.join(source.languages)}."
        )


def _is_there(folder: Path, file: RemoteFile, expected: str, recorded: dict[str, str]) -> bool:
    if file.members:  # the archive itself was deleted
        return recorded.get(file.path) == expected and all(
            _digest(folder / path) == recorded.get(path, "?") for _, path in file.members
        )
    return _digest(folder / file.path) == expected


def _digest(path: Path) -> str:
    return sha256(path) if path.is_file() else ""


def _download(file: RemoteFile, folder: Path, expected: str) -> str:
    """Fetch one file, whole or not at all, and return its SHA-256."""
    path = folder / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_file(path) as out:
            with urllib.request.urlopen(file.url, timeout=TIMEOUT) as response:
                copyfileobj(response, out)
                length = response.headers.get("Content-Length")
            if length is not None and int(length) != out.tell():
                raise OSError(f"{out.tell():,} of {int(length):,} bytes came")
            out.flush()
            digest = sha256(Path(out.name))
            if expected and digest != expected:
                advice = (
                    f"It has changed since it was first fetched: fetch again, or delete its line from {folder / CHECKSUMS}"
                    " to accept the new one."
                )
                if file.sha256:
                    advice = f"It is not the published file: fetch again, or put the right one at {path}."
                raise DataError(f"{file.url} has sha256 {digest}; expected {expected}. {advice}")
    except (OSError, HTTPException) as error:
        raise DataError(
            f"{file.url} cannot be fetched: {_reason(error)}. Start again to continue with this file, or fetch it elsewhere"
            f" and put it at {path}."
        ) from None
    return digest


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__


def _unpack(folder: Path, file: RemoteFile) -> dict[str, str]:
    """Extract the members of an archive, delete it, and return path → SHA-256 of each member."""
    if not file.members:
        return {}
    archive, digests = folder / file.path, {}
    try:
        with zipfile.ZipFile(archive) as packed:
            for ending, path in file.members:
                names = [name for name in packed.namelist() if f"/{name}".endswith(f"/{ending}")]
                if len(names) != 1:
                    raise DataError(f"{file.url} has {len(names)} files whose names end in {ending}; expected one.")
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                with packed.open(names[0]) as member, atomic_file(folder / path) as out:
                    copyfileobj(member, out)
                digests[path] = sha256(folder / path)
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise DataError(f"{file.url} is not a zip archive, or a damaged one: {error}. Fetch it again.") from None
    finally:
        archive.unlink(missing_ok=True)
    return digests


def _read_checksums(folder: Path) -> dict[str, str]:
    path, remedy = folder / CHECKSUMS, "Delete it; checksums are then recorded anew."
    digests = read_json_object(path, remedy=remedy, default={"sha256": {}}).get("sha256")
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise DataError(f"{path} is damaged: sha256 is {a_json(digests)}; expected an object of texts. {remedy}")
    return digests
