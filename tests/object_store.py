"""A real S3 server on this machine, for tests."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal

import fsspec
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server


class Store:
    """An S3 server whose answers a test may spoil: `spoil` sees each request first."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self.spoil: Callable[[str, str], Literal["", "busy", "cut"]] = lambda method, path: ""
        self._port = 0
        self.start()
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._server = make_server("127.0.0.1", self._port, self, threaded=True)
        self._port = self._server.port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What leads the tools of AWS here."""
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
        return system

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        fault = self.spoil(environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if fault == "busy":
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        if fault == "cut":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        return self._app(environ, start_response)
