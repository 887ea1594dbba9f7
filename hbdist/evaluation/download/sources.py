"""Published files of the benchmarks: their addresses, checksums and licences, and their paths in a task's folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from hbdist.errors import ConfigError
from hbdist.evaluation.tasks import miracl
from hbdist.utils.json_toml import read_text, read_toml

BEIR = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"
MIRACL_FILE = 500_000
"""Number of passages per file of the corpus."""


@dataclass(frozen=True)
class RemoteFile:
    """A published file."""

    path: str
    """Path in the data set's folder; an archive is deleted from there once it is unpacked."""
    url: str
    sha256: str = ""
    """Checksum in hex; empty if unknown."""
    members: tuple[tuple[str, str], ...] = ()
    """Members to keep of a zip archive: end of the member's name, and its path in the data set's folder."""


@dataclass(frozen=True)
class DataSource:
    """A published data set: its files and its licence."""

    name: str
    licence: str
    files: Callable[[Sequence[str]], list[RemoteFile]]
    """Function from languages to their files; without languages, to all files."""
    languages: tuple[str, ...] = ()
    """Languages to choose from, of which at least one must be named; empty if the data set is fetched whole."""
    by_hand: str = ""
    """Instructions for fetching the data set by hand, if a program cannot."""


def find_source(name: str) -> DataSource:
    """Return the source of a data set.

    Raises:
        ConfigError: no data set has that name.
    """
    if name.startswith("beir:") and name[5:].replace("-", "").replace("_", "").isalnum():
        return _beir(name[5:])
    if name not in SOURCES:
        raise ConfigError(f"{name} cannot be fetched. Give one of {', '.join(SOURCES)}, or beir:NAME.")
    return SOURCES[name]


@cache
def _checksums() -> dict[str, str]:
    """Return data set and path in its folder → SHA-256, in hex, of the file as published."""
    lines = read_text(Path(__file__).with_name("checksums.sha256")).splitlines()
    return {path: digest for digest, path in (line.split() for line in lines)}


def _expand(name: str, groups: Sequence[Mapping[str, Any]], languages: Sequence[str]) -> list[RemoteFile]:
    """Return the files that the paths of `sources.toml` stand for, one language after another."""
    remote_files = []
    for language, group in product(languages, groups):
        members = tuple((f"{group['root']}/{path}", path) for path in group.get("members", ()))
        for pattern in group["paths"]:
            parts = -(-miracl.PASSAGES[language] // MIRACL_FILE) if "{number}" in pattern else 1
            for path in (pattern.format(language=language, number=number) for number in range(parts)):
                checksum = _checksums().get(f"{name}/{path}", "")
                remote_files.append(RemoteFile(path, group["base"] + path, checksum, members))
    return remote_files


def _read_source(name: str, values: Mapping[str, Any]) -> DataSource:
    languages = tuple(miracl.PASSAGES) if values.get("by_language") else ()

    def remote_files(chosen: Sequence[str]) -> list[RemoteFile]:
        return _expand(name, values["files"], chosen or languages or [""])

    return DataSource(name, values["licence"], remote_files, languages, values.get("by_hand", ""))


def _beir(name: str) -> DataSource:
    members = tuple((f"{name}/{path}", path) for path in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"))
    archive = RemoteFile(f"{name}.zip", f"{BEIR}/{name}.zip", members=members)
    return DataSource(f"beir-{name}", "each data set has its own: see github.com/beir-cellar/beir", lambda _: [archive])


_TABLE = read_toml(Path(__file__).with_suffix(".toml"))
SOURCES = {name: _read_source(name, values) for name, values in _TABLE.items()}
