"""A model that is no folder is looked for at the hub, once."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LOAD = """
import sys
from kto_data.errors import ModelError
from kto_data.processor import load_processor
for model in sys.argv[1:]:
    try:
        load_processor(model)
    except ModelError as error:
        print(error.what)
"""


def said_of(models: list[str], endpoint: str, home: Path) -> list[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": endpoint, "HF_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *models], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "Retrying" not in done.stderr
    return done.stdout.splitlines()


@contextmanager
def hub_without_models() -> Iterator[tuple[str, list[str]]]:
    """Its address, and the paths that it was asked for."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_a_hub_that_does_not_answer_is_asked_once(tmp_path: Path) -> None:
    with socket.socket() as taken:  # and nobody listens there
        taken.bind(("127.0.0.1", 0))
        (said,) = said_of(["models/mistyped"], f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path)
    assert said.startswith("models/mistyped is not a folder, and the hub cannot be asked: ")


def test_a_model_that_the_hub_has_not_is_asked_for_once(tmp_path: Path) -> None:
    with hub_without_models() as (endpoint, asked):
        said = said_of(["models/mistyped"], endpoint, tmp_path)
    assert said == ["models/mistyped is not a folder, and the hub has no such model for you"]
    assert asked == ["/api/models/models/mistyped"]


def test_what_cannot_be_the_id_of_a_model_is_asked_of_nobody(tmp_path: Path) -> None:
    models = ["a/b/c", "a b", "models/.."]
    with hub_without_models() as (endpoint, asked):
        said = said_of(models, endpoint, tmp_path)
    assert said == [f"{model!r} is not a folder, nor can it be the id of a model" for model in models]
    assert asked == []
