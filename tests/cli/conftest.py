"""A command line run in this process, and a server that says what a test wants a gateway to say."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from cortex_cli.main import main


class Ran(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cortex(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


class Asked(NamedTuple):
    """One request that the server got."""

    method: str
    path: str
    body: Any


class Server(NamedTuple):
    url: str
    asked: list[Asked]


@pytest.fixture
def answering() -> Callable[..., object]:
    """`with answering(status, body) as server:` it gives this one answer to everything, and notes what it was asked."""

    @contextmanager
    def serve(status: int, body: bytes) -> Iterator[Server]:
        asked: list[Asked] = []

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                length = int(self.headers.get("content-length", 0))
                asked.append(Asked(self.command, self.path, json.loads(self.rfile.read(length) or b"null")))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = answer  # noqa: N815 - the base class' names

            def log_message(self, *_: object) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield Server(f"http://127.0.0.1:{server.server_port}", asked)
            finally:
                server.shutdown()
                thread.join()

    return serve
