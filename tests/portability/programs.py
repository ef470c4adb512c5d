"""onnxruntime in Node and in a browser: a work folder of models and inputs goes in, outputs come back."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / "node_modules"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16}
SECONDS = 240
"""After which a program is ended; a quiet machine needs a tenth."""
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    # What is not on this machine can't be reached, so nothing can come from a content delivery network.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Job:
    """A model to run.

    Attributes:
        name: of its files.
        model: the ONNX file, with one input and one output.
        x: what it is run on.
        batch: how many rows of ``x`` at a time.
    """

    name: str
    model: bytes
    x: Any
    batch: int = 1 << 30


@dataclass(frozen=True)
class Ran:
    """What a program gave.

    Attributes:
        runtime: what ran, with versions.
        outputs: by name of the job; a string is the error that it ended with.
    """

    runtime: str
    outputs: dict[str, Any]

    def output(self, name: str) -> Any:
        """The job's output; the test fails where it has none."""
        found = self.outputs[name]
        assert not isinstance(found, str), f"{self.runtime} cannot run {name}: {found}"
        return found


def write_jobs(folder: Path, jobs: Sequence[Job]) -> None:
    """Fill a work folder."""
    listed = []
    for job in jobs:
        (folder / f"{job.name}.onnx").write_bytes(job.model)
        (folder / f"{job.name}.input").write_bytes(np.ascontiguousarray(job.x).tobytes())
        listed.append({
            "name": job.name, "model": f"{job.name}.onnx", "input": f"{job.name}.input", "type": str(job.x.dtype),
            "dims": list(job.x.shape), "batch": job.batch,
        })  # fmt: skip
    (folder / "jobs.json").write_text(json.dumps({"jobs": listed}))


def run_in_node(folder: Path) -> Ran:
    """The folder's jobs in onnxruntime-node; skips, or fails where that was asked for, without Node."""
    node = find_node()
    ended = subprocess.run([node, HERE / "run_node.mjs", folder], capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, f"Node ended with {ended.returncode}: {ended.stderr[-4000:]}"
    return _read(folder, "node", f"Node {_version(node)}")


def run_in_browser(folder: Path) -> Ran:
    """The folder's jobs in onnxruntime-web's wasm, in headless Chromium; skips or fails as :func:`run_in_node`."""
    browser, asked = browse(folder, "page.html")
    assert any(path.endswith(".wasm") for path in asked), f"no wasm was fetched from here, only {asked[:20]}"
    return _read(folder, "web", f"wasm, Chromium {_version(browser)}")


def browse(folder: Path, page: str) -> tuple[str, list[str]]:
    """Show a page until it has sent results.json.

    Returns:
        The browser's path, and the paths that it asked for.
    """
    browser = find_browser()
    with _served(folder) as server, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        url, log = f"http://127.0.0.1:{server.server_address[1]}/{page}", Path(profile) / "log.txt"
        with _started([browser, *FLAGS, f"--user-data-dir={profile}", url], log) as process:
            begin = time.monotonic()
            while not server.finished.wait(0.2) and process.poll() is None and time.monotonic() - begin < SECONDS:
                pass
        said = log.read_text(errors="replace")[-4000:]
    failed = folder / "failed.txt"
    assert not failed.exists(), f"the page failed: {failed.read_text()}"
    assert server.finished.is_set(), f"the page did not finish within {SECONDS} s; the browser said: {said}"
    return browser, server.asked


def find_node() -> str:
    """Node's path, where onnxruntime-node is installed too; skips or fails as :func:`run_in_node`."""
    node = shutil.which("node")
    _need(node is not None, "Node is not installed (Debian: apt install nodejs npm)")
    _need_package("onnxruntime-node")
    return str(node)


def find_browser() -> str:
    """Chromium's path, where onnxruntime-web is installed too; skips or fails as :func:`run_in_node`."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    _need(browser is not None, f"none of {', '.join(BROWSERS)} is installed (Debian: apt install chromium)")
    _need_package("onnxruntime-web")
    return str(browser)


def _need(found: bool, reason: str) -> None:
    if not found:
        if os.environ.get("OPAU_REQUIRE_PORTABILITY") == "1":
            pytest.fail(f"OPAU_REQUIRE_PORTABILITY=1, but {reason}")
        pytest.skip(reason)


def _need_package(name: str) -> None:
    _need((PACKAGES / name).is_dir(), f"the npm package {name} is not installed (`make portability` does that)")


def _version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=60).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    return found.group() if found else said.strip()


def _read(folder: Path, package: str, where: str) -> Ran:
    report = json.loads((folder / "results.json").read_text())
    outputs: dict[str, Any] = {}
    for name, found in report["results"].items():
        outputs[name] = found.get("error") or _array(folder, found)
    return Ran(f"onnxruntime-{package} {report['versions'][package]} ({where})", outputs)


def _array(folder: Path, found: dict[str, Any]) -> Any:
    return np.fromfile(folder / found["output"], TYPES[found["type"]]).reshape(found["dims"])


class _Server(ThreadingHTTPServer):
    """The page, the npm packages and the work folder, on this machine only."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.finished = folder, threading.Event()
        self.asked: list[str] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # that is a browser that was ended
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    server: _Server
    extensions_map = MappingProxyType({
        ".mjs": "text/javascript", ".html": "text/html", ".wasm": "application/wasm",
    })  # fmt: skip
    protocol_version = "HTTP/1.1"

    def translate_path(self, path: str) -> str:
        self.server.asked.append(path)
        parts = [part for part in path.split("?")[0].split("/") if part not in ("", ".", "..")]
        root, parts = (self.server.folder, parts[1:]) if parts[:1] == ["work"] else (HERE, parts)
        return str(root.joinpath(*parts))

    def do_POST(self) -> None:
        """A file of the work folder; results.json or failed.txt is the last."""
        name = Path(self.path).name
        (self.server.folder / name).write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        if name in ("results.json", "failed.txt"):
            self.server.finished.set()

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@contextmanager
def _served(folder: Path) -> Iterator[_Server]:
    with _Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def _started(command: Sequence[Any], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program with all that it starts, ended at the end."""
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # it ended by itself
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
