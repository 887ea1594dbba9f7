"""Store on the loopback interface that serves a folder over HTTP, with faults on request."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from hbdist.data.shards.manifest import FILE, Manifest
from hbdist.data.shards.remote import locate

Fault = str | int
"""Answer instead of the file: a status, or "cut", "slow", "reset"."""
SLOW = 3.0
"""Seconds before a slow answer."""


@dataclass
class Store:
    """A folder that is served over HTTP. `faults[path]` are the answers to the next requests for a path, one each; if the
    last one is "…", the one before it is repeated for ever."""

    folder: Path
    url: str = ""
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    """Number of requests by path."""

    def next_fault(self, path: str) -> Fault | None:
        self.requests[path] += 1
        faults = self.faults.get(path, [])
        if faults[1:] == ["…"]:
            return faults[0]
        return faults.pop(0) if faults else None

    def manifest(self) -> Manifest:
        root = locate(self.url)
        return Manifest.parse((root / FILE).read_bytes(), root)


@contextmanager
def serving(folder: Path) -> Iterator[Store]:
    store = Store(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0].strip("/")
            fault, file = store.next_fault(path), store.folder / path
            if isinstance(fault, int) or not file.is_file():
                return self.answer(fault if isinstance(fault, int) else 404, b"")
            if fault == "slow":
                time.sleep(SLOW)
            if fault == "reset":
                self.close_connection = True
                return None
            content = file.read_bytes()
            return self.answer(200, content, sent=content[: len(content) // 2] if fault == "cut" else content)

        def do_HEAD(self) -> None:
            file = store.folder / self.path.split("?")[0].strip("/")
            self.send_response(200 if file.is_file() else 404)
            self.send_header("Content-Length", str(file.stat().st_size) if file.is_file() else "0")
            self.end_headers()

        def answer(self, status: int, content: bytes, sent: bytes | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content if sent is None else sent)
            self.close_connection = sent is not None and sent != content

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, address: object) -> None:
            """Print nothing: a client that gave up is no error of the store."""

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        store.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield store
        finally:
            server.shutdown()
            thread.join()
