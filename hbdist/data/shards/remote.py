"""Files that lie elsewhere (`s3://`, `gs://`, `https://`), fetched whole through fsspec.

Settings of a store (endpoint, proxy, profile) are fsspec's and the store's own: its environment variables and files.
"""

import importlib.util
import random
import time
from dataclasses import dataclass
from pathlib import Path

from hbdist.errors import ConfigError, DataError

PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
"""Protocol → the package that fsspec needs for it."""
ATTEMPTS = 5
FIRST_WAIT = 0.5
"""Seconds before the second attempt; twice as long before each further one."""
TIMEOUT, SLOWEST = 30.0, 200_000
"""One attempt may take so many seconds, and one more for every so many bytes."""
UNKNOWN_SIZE = 16 << 20
"""Bytes that are allowed for where a size is not known before."""
PASSING = {408, 425, 429}
"""HTTP statuses below 500 that another attempt may cure."""


class StoreError(DataError):
    """A store does not answer or does not let us in: nothing is known about the data, so it cannot be called damaged."""


@dataclass(frozen=True)
class Remote:
    """The address of a remote file or folder; `/` goes below it, as with a Path."""

    url: str

    def __truediv__(self, path: str) -> "Remote":
        return Remote(f"{self.url}/{path}")

    def __str__(self) -> str:
        return self.url

    def read_bytes(self, *, size: int | None = None) -> bytes:
        """All of the file. What may pass (a time-out, a reset connection, a status of 5xx, a body that is cut) is tried
        again, with exponential back-off.

        Args:
            size: how many bytes it must have; unset: any.

        Raises:
            StoreError: the store did not answer or refused the request.
            DataError: the file is not there, or not as long as it should be.
        """
        seconds = TIMEOUT + (UNKNOWN_SIZE if size is None else size) / SLOWEST
        for attempt in range(ATTEMPTS):
            if attempt:
                # From the system's own randomness: ranks that failed together must not come back together.
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1) * random.SystemRandom().uniform(0.5, 1.5))
            try:
                content = _get(self.url, seconds=seconds)
            except Exception as error:  # each protocol's package has its own
                if lasting := self._lasting(error):
                    raise lasting from None
                failure: DataError = StoreError(
                    f"{self} could not be fetched in {ATTEMPTS} attempts ({_cause(error, seconds)}). Start again when the"
                    " store can be reached."
                )
                continue
            if size is None or len(content) == size:
                return content
            failure = DataError(
                f"{self} has {len(content)} bytes, the manifest says {size} (in {ATTEMPTS} attempts). {_COPY_AGAIN}"
            )
        raise failure

    def _lasting(self, error: Exception) -> DataError | None:
        """What to raise if the same request would fail again."""
        status = _status(error)
        if status in (404, 410):
            return DataError(f"{self} was not found (status {status}). Correct the address. {_COPY_AGAIN}")
        if status in (401, 403):
            return StoreError(
                f"{self} may not be read (status {status}; some stores say so of files that are not there). Correct the"
                " credentials or the address."
            )
        if status and 400 <= status < 500 and status not in PASSING:
            return StoreError(f"{self} is refused ({_cause(error, 0)}). Correct the address.")
        return None


_COPY_AGAIN = "If it is right, copy the whole folder of shards there again."


def locate(where: str | Path | Remote) -> Path | Remote:
    """`where` as a folder of this machine, or as an address elsewhere if it begins with a protocol.

    Raises:
        ConfigError: the protocol is unknown, or the package for it is not installed.
    """
    if not isinstance(where, str) or "://" not in where:
        return Path(where) if isinstance(where, str) else where
    protocol, _, rest = where.partition("://")
    if protocol not in PACKAGES:
        raise ConfigError(
            f"{where} begins with {protocol}://; expected a folder or one of {', '.join(f'{name}://' for name in PACKAGES)}."
        )
    if not rest.strip("/") or "?" in rest or "#" in rest:
        raise ConfigError(f"{where} is no folder's address; expected {protocol}:// and a path without ? and #.")
    for package in ("fsspec", PACKAGES[protocol]):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{where} needs the package {package}. Install it with `pip install {package}`.")
    return Remote(where.rstrip("/"))


def _get(url: str, *, seconds: float) -> bytes:
    # Not at the top: a third of a second, which local shards do without.
    from fsspec.asyn import sync
    from fsspec.core import url_to_fs

    # Asked for each time: fsspec keeps one a process, and after a fork makes a new one.
    system, path = url_to_fs(url)
    return sync(system.loop, system._cat_file, path, timeout=seconds)


def _status(error: Exception) -> int | None:
    """The HTTP status behind an error of any of the packages; None if there is none."""
    if isinstance(error, FileNotFoundError):
        return 404
    if isinstance(error, PermissionError):
        return 403
    status = getattr(error, "status", getattr(error, "code", None))
    return status if isinstance(status, int) else None


def _cause(error: Exception, seconds: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {seconds:.0f} s"
    status = _status(error)
    text = f"status {status} {getattr(error, 'message', '')}" if status else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:300]
