"""Where benchmark data are published, and how they lie in a folder of `data/` for the tasks to find them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hbdist.errors import ConfigError
from hbdist.evaluation.download.checksums import KNOWN
from hbdist.evaluation.tasks import miracl, mlqa_r, tydiqa, xquad_r

GITHUB = "https://raw.githubusercontent.com"
LAREQA = f"{GITHUB}/google-research-datasets/lareqa/9bc8c7fb6dd8d01d72a05a93c2cb96882b0d299c"
ANSERINI = f"{GITHUB}/castorini/anserini-tools/5b819c1a45c8a0a3ec9426f476694f44a29dfaf3"
MIRACL_CORPUS = "https://huggingface.co/datasets/miracl/miracl-corpus/resolve/main"
BEIR = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets"

MIRACL_FILE = 500_000
"""Passages of one file of the corpus."""


@dataclass(frozen=True)
class RemoteFile:
    """A file at its home."""

    path: str
    """Where it comes to lie in the data set's folder; of an archive, where it is kept."""
    url: str
    sha256: str = ""
    """Empty where it is not known."""
    members: tuple[tuple[str, str], ...] = ()
    """Of a zip archive: the end of a member's name, and where it comes to lie."""


@dataclass(frozen=True)
class Home:
    """A data set: what to fetch, under which licence."""

    name: str
    licence: str
    files: Callable[[Sequence[str]], list[RemoteFile]]
    """The files for these languages; for none, all."""
    languages: tuple[str, ...] = ()
    """Those that can be chosen; none where there is no choice."""
    must_choose: bool = False
    by_hand: str = ""
    """What to fetch, and where to put it, if a program cannot."""


def home_of(name: str) -> Home:
    """The home of a data set.

    Raises:
        ConfigError: it is not known.
    """
    if name.startswith("beir:") and name[5:].replace("-", "").replace("_", "").isalnum():
        return _beir(name[5:])
    if name not in HOMES:
        raise ConfigError(f"{name} is no data set that can be fetched. Give one of {', '.join(HOMES)}, or beir:NAME.")
    return HOMES[name]


def _xquad_r(_: Sequence[str]) -> list[RemoteFile]:
    return [
        _known("xquad-r", f"{language}.json", f"{LAREQA}/xquad-r/{language}.json") for language in xquad_r.CANDIDATES
    ]


def _mlqa(_: Sequence[str]) -> list[RemoteFile]:
    names = [f"dev-context-{language}-question-{language}.json" for language in mlqa_r.QUESTIONS]
    members = tuple((f"dev/{name}", name) for name in names)
    return [RemoteFile("MLQA_V1.zip", "https://dl.fbaipublicfiles.com/MLQA/MLQA_V1.zip", members=members)]


def _miracl(languages: Sequence[str]) -> list[RemoteFile]:
    files = []
    for language in languages or miracl.PASSAGES:
        for kind in ("topics", "qrels"):
            path = f"{kind}/{kind}.miracl-v1.0-{language}-dev.tsv"
            files.append(_known("miracl", path, f"{ANSERINI}/{path}"))
        for number in range(-(-miracl.PASSAGES[language] // MIRACL_FILE)):
            path = f"miracl-corpus-v1.0-{language}/docs-{number}.jsonl.gz"
            files.append(RemoteFile(path, f"{MIRACL_CORPUS}/{path}"))
    return files


def _tydiqa(_: Sequence[str]) -> list[RemoteFile]:
    return [RemoteFile(tydiqa.FILE, f"https://storage.googleapis.com/tydiqa/v1.1/{tydiqa.FILE}")]


def _beir(name: str) -> Home:
    inside = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
    members = tuple((f"{name}/{path}", path) for path in inside)
    archive = RemoteFile(f"{name}.zip", f"{BEIR}/{name}.zip", members=members)
    return Home(f"beir-{name}", "each data set has its own: see github.com/beir-cellar/beir", lambda _: [archive])


def _known(name: str, path: str, url: str) -> RemoteFile:
    return RemoteFile(path, url, KNOWN[f"{name}/{path}"])


HOMES = {
    home.name: home
    for home in (
        Home("xquad-r", "CC BY-SA 4.0", _xquad_r),
        Home("mlqa-r", "CC BY-SA 3.0 (MLQA)", _mlqa),
        Home("miracl", "Apache-2.0; passages of Wikipedia", _miracl, tuple(miracl.PASSAGES), must_choose=True),
        Home("tydiqa", "Apache-2.0; passages of Wikipedia, CC BY-SA 3.0", _tydiqa),
        Home(
            "wikihop",
            "CC BY-SA 3.0",
            lambda _: [],
            by_hand=(
                "WikiHop lies in a store that only a browser can use. Fetch qangaroo_v1.1.zip by the link on"
                " qangaroo.cs.ucl.ac.uk and put its wikihop/dev.json into {folder}."
            ),
        ),
    )
}
