"""A server in the test's own process, its event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from opau_onnx.serve.config import check
from opau_onnx.serve.server import Server, event_loop
from tests.serve.rpc_server import models, stub

Running = Callable[..., "Run"]


class Run:
    """A running server; coroutines run in its event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server) -> None:
        self.loop, self.server, self.service = loop, server, server.service
        self.http_port, self.grpc_port = server.http_port, server.grpc_port
        self.http, self.grpc = f"127.0.0.1:{server.http_port}", f"127.0.0.1:{server.grpc_port}"
        self.stopped = False

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.begin(coroutine).result(60)

    def stop(self, linger: float = 0.0) -> None:
        if not self.stopped:
            self.stopped = True
            self.do(self.server.stop(linger))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of the models that the tests of the gRPC side serve, by name."""
    return models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def folder(tables: dict[str, Any]) -> Path:
    """Where they lie."""
    return tables["linear"].parent


@pytest.fixture(scope="module")
def call(server: Run) -> Iterator[Any]:
    """Calls of the gRPC server that the module's own fixture ``server`` started."""
    with stub(server) as made:
        yield made


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """``running(models, **server)`` starts a server on free ports; models are paths or tables of settings, by name."""
    runs: list[Run] = []
    loop = event_loop()()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def start(models: dict[str, Path | dict[str, Any]], **server: Any) -> Run:
        tables = {n: {**m, "path": str(m["path"])} if isinstance(m, dict) else {"path": str(m)} for n, m in models.items()}
        settings = check({"server": {"http_port": 0, "grpc_port": 0, "model_control": True, **server}, "models": tables})

        async def make() -> Server:
            made = Server(settings)
            await made.start()
            return made

        runs.append(Run(loop, asyncio.run_coroutine_threadsafe(make(), loop).result(120)))
        return runs[-1]

    yield start
    for run in runs:
        run.stop()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
