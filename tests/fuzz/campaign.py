"""Campaign: thousands of mutated inputs for each target, and a table of what became of them.

An input is accepted, or refused with one of our three exceptions (or with a sentence in the page made of it); any other
exception is a finding, and so is an input that takes longer than TIMEOUT or more memory than a process may have.
"""

import resource
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import FrameType

from fuzz.mutate import Mutator
from hbdist.errors import HbdistError

TIMEOUT = 20
"""Seconds that an input may take on a busy machine."""
MEMORY = 12 << 30
"""Bytes of address space that the process may have: a number in a file must not be a number of bytes to allocate."""
PACKAGE = "hbdist"
MEMORY_DISK = Path("/dev/shm")
"""Folder in memory: most of the time is spent on files that are read once."""


@dataclass(frozen=True)
class Target:
    """Something that reads files of others: the files as they should be, and what reads them."""

    name: str
    make: Callable[[Path], object]
    """Write the valid files into a folder."""
    read: Callable[[Path], object]
    """Read them all."""
    mutable: tuple[str, ...]
    """Files to mutate, one at a time, as patterns."""
    share: float = 1.0
    """Share of the inputs that it gets, if one takes long."""


@dataclass
class Tally:
    """What became of the inputs of a target."""

    name: str
    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    findings: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    """Exception and place → the inputs that bring it out: file and content."""

    @property
    def foreign(self) -> int:
        """Number of inputs that were neither accepted nor refused."""
        return self.inputs - self.accepted - self.refused

    def row(self) -> str:
        """Return the line of the table."""
        return f"| {self.name} | {self.inputs:,} | {self.accepted:,} | {self.refused:,} | {self.foreign:,} |"

    def details(self, keep: Path | None) -> Iterator[str]:
        """Yield a line for each kind of finding with its smallest input, which is also written into the folder `keep`."""
        for number, (kind, inputs) in enumerate(sorted(self.findings.items(), key=lambda one: -len(one[1]))):
            file, content = min(inputs, key=lambda one: len(one[1]))
            where = ""
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                path = keep / f"{self.name}-{number}-{Path(file).name}"
                path.write_bytes(content)
                where = f" ({path})"
            yield f"  {self.name}: {len(inputs)} x {kind}: {file} = {content[:120]!r}{where}"


HEAD = "| target | inputs | accepted | refused with a sentence | other exception |\n|---|---|---|---|---|"


class TookTooLongError(Exception):
    """Input that takes longer than TIMEOUT."""


def run(target: Target, inputs: int, *, seed: int = 0) -> Tally:
    """Give a target mutated inputs, and return what became of them."""
    tally = Tally(target.name)
    with tempfile.TemporaryDirectory(
        prefix="hbdist-fuzz-", dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None
    ) as scratch:
        folder, valid = Path(scratch, "here"), Path(scratch, "valid")
        valid.mkdir()
        target.make(valid)
        files = {path.relative_to(valid).as_posix(): path.read_bytes() for path in valid.rglob("*") if path.is_file()}
        mutable = sorted(name for name in files if any(Path(name).match(pattern) for pattern in target.mutable))
        shutil.copytree(valid, folder)
        target.read(folder)  # the valid files are accepted
        for number in range(max(1, int(inputs * target.share))):
            mutator = Mutator(f"{target.name} {seed} {number}")
            name = mutable[number % len(mutable)]
            content = mutator.mutate(name, files[name])
            _restore(folder, files)
            (folder / name).write_bytes(content)
            reason = outcome(target, folder)
            tally.inputs += 1
            tally.accepted += reason == "accepted"
            tally.refused += reason == "refused"
            if reason not in ("accepted", "refused"):
                tally.findings.setdefault(reason, []).append((name, content))
    return tally


def outcome(target: Target, folder: Path) -> str:
    """Return "accepted", "refused", or which exception came out of where."""
    try:
        with _limited(), redirect_stdout(StringIO()):
            target.read(folder)
        return "accepted"
    except HbdistError as error:
        str(error).encode()
        return "refused"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if f"/{PACKAGE}/" in frame.filename] or frames
        place = f"{own[-1].filename.rpartition(f'/{PACKAGE}/')[2]}:{own[-1].lineno} ({own[-1].name})"
        return f"{type(error).__name__} at {place}: {str(error)[:100]!a}".replace(str(folder), "FOLDER")


def _restore(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make the folder as it was, without writing what is still the same."""
    for path in sorted(folder.rglob("*"), reverse=True):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()  # if it is empty
        elif name not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != len(content) or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


@contextmanager
def _limited() -> Iterator[None]:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TookTooLongError(f"more than {TIMEOUT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIMEOUT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def limit_memory() -> None:
    """Limit the memory of this process, so that an input that asks for too much is a finding and not the end of a machine."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
