"""One process that serves HTTP and gRPC, from the start of its models to the last response after SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import uvicorn

from opau_onnx.protocol.errors import UnavailableError
from opau_onnx.serve import rpc, security, tls, tracing
from opau_onnx.serve.config import Settings
from opau_onnx.serve.http.app import create_app
from opau_onnx.serve.http.protocol import Limits, Protocol
from opau_onnx.serve.request_log import Observer
from opau_onnx.serve.service import Service
from opau_onnx.serve.sockets import connections, listening

logger = logging.getLogger("opau_onnx.serve")
KEEP_ALIVE_SECONDS = 75
"""For which an idle connection is kept: longer than most clients and proxies keep theirs, so that they close first."""
LINGER_SECONDS = 1.0
"""After SIGTERM, for which idle connections are kept: a request that is on its way on one of them is answered still."""
SWITCH_INTERVAL = 0.0005
"""Seconds after which a worker that comes out of onnxruntime gets Python's lock from the event loop; Python's own is 5 ms."""


class Server:
    """A server. Its methods belong to one event loop.

    Attributes:
        service: what it serves.
        http_port, grpc_port: that it listens on; None where it does not.
        http_limits: of HTTP connections.
    """

    def __init__(self, settings: Settings) -> None:
        self.service = Service(settings)
        self.http_port: int | None = None
        self.grpc_port: int | None = None
        self.http_limits: Limits | None = None
        self._settings = settings.server
        self._http: _Uvicorn | None = None
        self._http_task: asyncio.Task[None] | None = None
        self._rpc: rpc.RpcServer | None = None
        self._tracer: tracing.Tracer | None = None
        self._tls: tls.Files | None = None

    async def start(self) -> None:
        """Listen, then load the models; the server is live at once and ready at the end.

        Raises:
            LoadError: a port is taken, a file cannot be read, or a model cannot be loaded.
            OpauError: a model cannot run as asked.
        """
        sys.setswitchinterval(SWITCH_INTERVAL)
        access = security.Access(self._settings)
        self._tls = tls.Files.of(self._settings)
        self._tracer = tracing.start(self._settings.otlp_endpoint)
        try:
            if self._settings.http_port >= 0:
                await self._start_http(access)
            if self._settings.grpc_port >= 0:
                await self._start_rpc()
            await self.service.repository.load_all()
            # What was loaded stays: without this, every full collection looks through all of it, for tens of milliseconds.
            gc.collect()
            gc.freeze()
        except BaseException:
            await self.stop(linger=0.0)
            raise

    async def stop(self, linger: float = LINGER_SECONDS) -> None:
        """Refuse new work, answer what was accepted, end; all of it within ``drain_timeout_s``.

        Args:
            linger: seconds for which idle HTTP connections are kept.
        """
        self.service.draining = True
        until = time.monotonic() + self._settings.drain_timeout_s
        rpc_end = asyncio.create_task(self._stop_rpc())
        if self._http is not None:
            await self._http.drain(linger, until)
        await rpc_end
        try:
            await self.service.shut_down(until - time.monotonic())
        except UnavailableError as error:
            logger.warning("%s", error)
        if self._http is not None and self._http_task is not None:
            self._http.end()
            await self._http_task
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)

    async def _start_http(self, access: security.Access) -> None:
        listener = listening(self._settings.host, self._settings.http_port, "--http-port")
        seconds = self._settings.request_timeout_s + 1.0  # the application has refused a late body by then
        self.http_limits = Limits(connections(self._settings.max_connections), body_seconds=seconds, send_seconds=seconds)
        self.http_port = listener.getsockname()[1]
        config = uvicorn.Config(
            create_app(self.service, access, Observer(self._tracer)),
            http=partial(Protocol, self.http_limits),  # type: ignore[arg-type]
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,  # what was accepted has been answered by then
            **({} if self._tls is None else self._tls.uvicorn()),
        )
        config.load()
        if self._tls is not None and config.ssl is not None:
            self._tls.follow(config.ssl)
        self._http = _Uvicorn(config)
        self._http_task = asyncio.create_task(self._http.serve(sockets=[listener]))
        while not self._http.started and not self._http_task.done():
            await asyncio.sleep(0.005)
        if self._http_task.done():
            self._http_task.result()

    async def _start_rpc(self) -> None:
        self._rpc = await rpc.start(self.service, self._settings, self._tls, self._tracer)
        self.grpc_port = self._rpc.port

    async def _stop_rpc(self) -> None:
        if self._rpc is not None:
            await self._rpc.stop(self._settings.drain_timeout_s)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers, and with a way to stop that loses no request."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def drain(self, linger: float, until: float) -> None:
        """Accept no connection, keep those there are until they had time to be used once more and have sent their responses.

        uvicorn's own shutdown closes idle connections at once, and with them requests that are on their way.

        Args:
            linger: seconds for which idle connections are kept.
            until: of the monotonic clock, after which nothing is waited for.
        """
        for server in self.servers:
            server.close()
        idle = time.monotonic() + linger
        while self.server_state.connections and (now := time.monotonic()) < until:
            if now >= idle and not self._busy():
                break
            await asyncio.sleep(0.02)
        if self._busy():
            fields = {"requests": len(self.server_state.tasks), "connections": len(self.server_state.connections)}
            logger.warning("connections were given up: they took longer than drain_timeout_s", extra={"fields": fields})

    def end(self) -> None:
        """End all connections; those that are still busy were given up."""
        for connection in list(self.server_state.connections):
            transport: Any = connection.transport
            transport.abort() if transport.unsent else transport.close()  # what the kernel has is sent after a close
        self.should_exit = True

    def _busy(self) -> bool:
        """True while requests are being answered, or answers are on their way to clients."""
        unsent = (getattr(c.transport, "unsent", 0) for c in self.server_state.connections)
        return bool(self.server_state.tasks) or any(unsent)


async def run(settings: Settings, on_ready: Callable[[Server], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends at once.

    Args:
        settings: of the server and its models.
        on_ready: called once every model answers.

    Raises:
        OpauError: the server cannot start.
    """
    stop = asyncio.Event()
    server = Server(settings)
    loop = asyncio.get_running_loop()
    starting = asyncio.create_task(server.start())
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _signalled, stop, starting)
    try:
        await starting
    except asyncio.CancelledError:
        logger.info("stopped before the models were loaded")
        return
    for sort in ("http", "grpc"):
        port = getattr(server, f"{sort}_port")
        if port is not None:
            logger.info("listening", extra={"fields": {"protocol": sort, "host": settings.server.host, "port": port}})
    if on_ready is not None:
        on_ready(server)
    await stop.wait()
    logger.info("draining: accepted requests are answered, new ones refused")
    await server.stop()
    logger.info("stopped")


def _signalled(stop: asyncio.Event, starting: asyncio.Task[None]) -> None:
    if stop.is_set():
        sys.exit(130)
    stop.set()
    if not starting.done():
        starting.cancel()


def run_server(settings: Settings, on_ready: Callable[[Server], None] | None = None) -> None:
    """:func:`run` in an event loop of its own: uvloop's where it is installed.

    Raises:
        OpauError: the server cannot start.
    """
    with asyncio.Runner(loop_factory=event_loop()) as runner:
        runner.run(run(settings, on_ready))


def event_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """Factory of the fastest event loop available."""
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop
