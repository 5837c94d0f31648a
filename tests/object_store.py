"""A real S3 server on this machine, for tests."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import BytesIO
from typing import Any, Literal, NamedTuple

os.environ["S3_UPLOAD_PART_MIN_SIZE"] = "1024"  # that files of tests may come in parts: moto reads it at its import

import fsspec
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "s3://bucket"
"""The URL of the bucket that `Store.empty_bucket` gives."""

Fault = Literal["", "busy", "cut", "late", "too late"]
"""What becomes of a request: it is answered; refused with 503; not answered; done at once, but answered when nobody
listens any more; done only then."""


class _Handler(WSGIRequestHandler):
    """Tells a client to go on once. Twice, as its bases would together, makes aiohttp forget when to give up."""

    def handle_expect_100(self) -> bool:
        return True


class Request(NamedTuple):
    """What was asked of the server, and what it gave."""

    method: str
    path: str
    query: str
    range: str  # the header; empty where all was asked for
    num_bytes: int  # of the answer


class Store:
    """An S3 server whose answers a test may spoil: `spoil` sees each request first, by its method and path."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.spoil: Callable[[str, str], Fault] = lambda method, path: ""
        self.requests: list[Request] = []  # those that were answered
        self.most_at_once = 0  # of requests under way
        self._under_way = 0
        self._lock = threading.Lock()
        self._one_by_one = threading.Lock()  # moto takes harm where two put the same object at the same time
        self._port = 0
        self.start()
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self._port, self, threaded=True, request_handler=_Handler)
        self._port = self._server.port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What leads the tools of AWS here. They try once what they would try five times: s3fs tries five times too,
        but for what was cut while it was sent, and for internal errors of the server."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }

    def empty_bucket(self) -> Any:
        """The file system, where the environment is set, with a bucket called so in which nothing is."""
        system = fsspec.filesystem("s3", use_listings_cache=False)
        system.clear_instance_cache()  # it keeps the address it was made with
        system = fsspec.filesystem("s3", use_listings_cache=False)
        if system.exists("bucket"):
            system.rm("bucket", recursive=True)
        system.mkdir("bucket")
        self.requests.clear()
        self.most_at_once = 0
        return system

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            return self._answer(environ, start_response)
        finally:
            with self._lock:
                self._under_way -= 1

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        fault = self.spoil(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        connection = environ["werkzeug.socket"]
        if fault == "busy":
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        if fault == "cut":
            connection.shutdown(socket.SHUT_RDWR)
            return []
        if fault == "too late":
            environ["wsgi.input"] = BytesIO(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
            _wait_until_closed(connection)
        with self._one_by_one:
            content = b"".join(self._app(environ, start_response))
        if fault == "late":
            _wait_until_closed(connection)
        request = Request(
            environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], environ.get("HTTP_RANGE", ""),
            len(content),
        )  # fmt: skip
        self.requests.append(request)
        return [content]


def _wait_until_closed(connection: socket.socket) -> None:
    """Wait until the other side has given up: it says nothing more before."""
    with suppress(ConnectionError):
        connection.recv(1, socket.MSG_PEEK)


def objects(system: Any, folder: str) -> dict[str, bytes]:
    """What lies in a folder of the bucket, by the paths in it, but for what is different in every run."""
    start = len(f"bucket/{folder}/")
    found = system.find(f"bucket/{folder}")
    return {path[start:]: system.cat_file(path) for path in found if not path.endswith("run.json")}
