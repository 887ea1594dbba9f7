"""Remote files (`s3://`, `gs://`, `https://`), downloaded as a whole through fsspec.

A store's settings (endpoint, proxy, profile) are those of fsspec and of the store's package: their environment variables
and configuration files.
"""

import asyncio
import importlib.util
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbdist.errors import HIDDEN, ConfigError, DataError

PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
"""Package that fsspec needs, by protocol."""
ATTEMPTS = 5
FIRST_WAIT = 0.5
"""Seconds before the second attempt; the wait doubles before each further one."""
TIMEOUT, SLOWEST = 30.0, 200_000
"""Time limit of an attempt: TIMEOUT seconds, plus the time that the file takes at SLOWEST bytes per second."""
CONCURRENT = 16
"""Number of files whose size is asked for at the same time."""
MISSING = -1
"""Size of a file that does not exist."""
UNKNOWN_SIZE = 16 << 20
"""Bytes assumed for a file of unknown size."""
TRANSIENT = {408, 425, 429}
"""HTTP statuses below 500 after which another attempt may succeed."""
_COPY_AGAIN = "If it is right, copy the whole folder of shards there again."


class StoreError(DataError):
    """A store that does not answer or denies access: nothing is known about the data, so it is not called damaged."""


@dataclass(frozen=True)
class Remote:
    """Address of a remote file or folder; `/` appends to it, as with a Path."""

    url: str

    def __truediv__(self, path: str) -> "Remote":
        return Remote(f"{self.url}/{path}")

    def __str__(self) -> str:
        return self.url

    def read_bytes(self, *, size: int | None = None) -> bytes:
        """Return the content of the file. Transient failures (a time-out, a reset connection, a status of 5xx, a
        truncated body) and, if `size` is given, files of another size are retried with exponential back-off.

        Raises:
            StoreError: the store did not answer or refused the request.
            DataError: the file does not exist, or has another size.
        """
        seconds = TIMEOUT + (UNKNOWN_SIZE if size is None else size) / SLOWEST
        for attempt in range(ATTEMPTS):
            if attempt:
                # From the system's own randomness: ranks that failed together must not retry together.
                time.sleep(FIRST_WAIT * 2 ** (attempt - 1) * random.SystemRandom().uniform(0.5, 1.5))
            try:
                content = _download(self.url, seconds=seconds)
            except Exception as error:  # each protocol's package has its own
                if permanent := self._permanent_error(error):
                    raise permanent from None
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

    def sizes(self, paths: Sequence[str]) -> list[int | None]:
        """Return the size of each file of this folder: −1 if it does not exist, None if the store does not tell. At most
        CONCURRENT requests are under way at a time, one for each file.

        Raises:
            StoreError: the store denies access.
        """
        addresses = [self / path for path in paths]
        found = _infos([address.url for address in addresses])
        sizes: list[int | None] = []
        for address, info in zip(addresses, found, strict=True):
            if isinstance(info, dict):
                sizes.append(info.get("size"))
                continue
            permanent = address._permanent_error(info)
            if isinstance(permanent, StoreError):
                raise permanent
            sizes.append(None if permanent is None else MISSING)
        return sizes

    def _permanent_error(self, error: Exception) -> DataError | None:
        """Return the error to raise if the same request would fail again."""
        status = _status(error)
        if status in (404, 410):
            return DataError(f"{self} was not found (status {status}). Correct the address. {_COPY_AGAIN}")
        if status in (401, 403):
            return StoreError(
                f"{self} may not be read (status {status}; some stores answer so for files that do not exist). Correct the"
                " credentials or the address."
            )
        if status and 400 <= status < 500 and status not in TRANSIENT:
            return StoreError(f"{self} is refused ({_cause(error, 0)}). Correct the address.")
        return None


def locate(where: str | Path | Remote) -> Path | Remote:
    """Return `where` as a remote address if it begins with a protocol, else as a folder of this machine.

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
    if f"{HIDDEN}@" in where:
        raise ConfigError(
            f"{where} has lost its user and password, which are not written into a run's folder. Give the whole address again,"
            " as in data.shards=…, or let the store's own settings (environment variables) have them."
        )
    if not rest.strip("/") or "?" in rest or "#" in rest:
        raise ConfigError(f"{where} is not a folder's address; expected {protocol}:// and a path without ? and #.")
    for package in ("fsspec", PACKAGES[protocol]):
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{where} needs the package {package}. Install it with `pip install {package}`.")
    return Remote(where.rstrip("/"))


def _download(url: str, *, seconds: float) -> bytes:
    # Imported late: it takes a third of a second, and local shards do not need it.
    from fsspec.asyn import sync
    from fsspec.core import url_to_fs

    # Requested each time: fsspec keeps one file system per process, and makes a new one after a fork.
    system, path = url_to_fs(url)
    return sync(system.loop, system._cat_file, path, timeout=seconds)


def _infos(urls: Sequence[str]) -> list[dict[str, Any] | Exception]:
    """Return what the store says about each file without sending it, or why it does not."""
    from fsspec.asyn import sync
    from fsspec.core import url_to_fs

    async def ask_all() -> list[Any]:
        free = asyncio.Semaphore(CONCURRENT)

        async def ask(path: str) -> Any:
            async with free:
                return await asyncio.wait_for(system._info(path), TIMEOUT)

        return await asyncio.gather(*(ask(url_to_fs(url)[1]) for url in urls), return_exceptions=True)

    if not urls:
        return []
    system, _ = url_to_fs(urls[0])
    return list(sync(system.loop, ask_all))


def _status(error: Exception) -> int | None:
    """Return the HTTP status behind an error of any of the packages, or None if there is none."""
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
