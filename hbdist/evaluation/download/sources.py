"""Published files of the benchmarks: their addresses, checksums and licences, and their paths in a task's folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from hbdist.errors import ConfigError
from hbdist.evaluation.tasks import miracl, mlqa_r, tydiqa, xquad_r

GITHUB = "https://raw.githubusercontent.com"
LAREQA = f"{GITHUB}/google-research-datasets/lareqa/9bc8c7fb6dd8d01d72a05a93c2cb96882b0d299c"
ANSERINI = f"{GITHUB}/castorini/anserini-tools/5b819c1a45c8a0a3ec9426f476694f44a29dfaf3"
MIRACL_CORPUS = "https://huggingface.co/datasets/miracl/miracl-corpus/resolve/main"
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
    """Languages that can be chosen; empty if the data set is fetched whole."""
    must_choose: bool = False
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
        raise ConfigError(f"{name} is no data set that can be fetched. Give one of {', '.join(SOURCES)}, or beir:NAME.")
    return SOURCES[name]


@cache
def _checksums() -> dict[str, str]:
    """Return data set and path in its folder → SHA-256, in hex, of the file as published."""
    lines = files("hbdist.evaluation.download").joinpath("checksums.sha256").read_text(encoding="utf-8").splitlines()
    return {path: digest for digest, path in (line.split() for line in lines)}


def _with_checksum(name: str, path: str, url: str) -> RemoteFile:
    return RemoteFile(path, url, _checksums()[f"{name}/{path}"])


def _xquad_r(_: Sequence[str]) -> list[RemoteFile]:
    names = [f"{language}.json" for language in xquad_r.CANDIDATES]
    return [_with_checksum("xquad-r", name, f"{LAREQA}/xquad-r/{name}") for name in names]


def _mlqa(_: Sequence[str]) -> list[RemoteFile]:
    names = [f"dev-context-{language}-question-{language}.json" for language in mlqa_r.QUESTIONS]
    members = tuple((f"dev/{name}", name) for name in names)
    return [RemoteFile("MLQA_V1.zip", "https://dl.fbaipublicfiles.com/MLQA/MLQA_V1.zip", members=members)]


def _miracl(languages: Sequence[str]) -> list[RemoteFile]:
    remote_files = []
    for language in languages or miracl.PASSAGES:
        for kind in ("topics", "qrels"):
            path = f"{kind}/{kind}.miracl-v1.0-{language}-dev.tsv"
            remote_files.append(_with_checksum("miracl", path, f"{ANSERINI}/{path}"))
        for number in range(-(-miracl.PASSAGES[language] // MIRACL_FILE)):
            path = f"miracl-corpus-v1.0-{language}/docs-{number}.jsonl.gz"
            remote_files.append(RemoteFile(path, f"{MIRACL_CORPUS}/{path}"))
    return remote_files


def _tydiqa(_: Sequence[str]) -> list[RemoteFile]:
    return [RemoteFile(tydiqa.FILE, f"https://storage.googleapis.com/tydiqa/v1.1/{tydiqa.FILE}")]


def _beir(name: str) -> DataSource:
    members = tuple((f"{name}/{path}", path) for path in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"))
    archive = RemoteFile(f"{name}.zip", f"{BEIR}/{name}.zip", members=members)
    return DataSource(f"beir-{name}", "each data set has its own: see github.com/beir-cellar/beir", lambda _: [archive])


SOURCES = {
    source.name: source
    for source in (
        DataSource("xquad-r", "CC BY-SA 4.0", _xquad_r),
        DataSource("mlqa-r", "CC BY-SA 3.0 (MLQA)", _mlqa),
        DataSource("miracl", "Apache-2.0; passages of Wikipedia", _miracl, tuple(miracl.PASSAGES), must_choose=True),
        DataSource("tydiqa", "Apache-2.0; passages of Wikipedia, CC BY-SA 3.0", _tydiqa),
        DataSource(
            "wikihop",
            "CC BY-SA 3.0",
            lambda _: [],
            by_hand=(
                "WikiHop is in a store that only a browser can open. Fetch qangaroo_v1.1.zip by the link on"
                " qangaroo.cs.ucl.ac.uk and put its wikihop/dev.json into {folder}."
            ),
        ),
    )
}
