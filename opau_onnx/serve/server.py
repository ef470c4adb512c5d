"""One process that serves HTTP and gRPC, from the start of its models to the last answer after SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator

import uvicorn

from opau_onnx.protocol.errors import UnavailableError
from opau_onnx.serve import rpc, security, tracing
from opau_onnx.serve.config import Settings
from opau_onnx.serve.http.app import create_app
from opau_onnx.serve.http.protocol import Protocol
from opau_onnx.serve.request_log import Observer
from opau_onnx.serve.service import Service
from opau_onnx.serve.sockets import listening

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
    """

    def __init__(self, settings: Settings) -> None:
        self.service = Service(settings)
        self.http_port: int | None = None
        self.grpc_port: int | None = None
        self._settings = settings.server
        self._http: _Uvicorn | None = None
        self._http_task: asyncio.Task[None] | None = None
        self._rpc: rpc.RpcServer | None = None
        self._tracer: tracing.Tracer | None = None

    async def start(self) -> None:
        """Listen, then load the models; the server is live at once and ready at the end.

        Raises:
            LoadError: a port is taken, a file cannot be read, or a model cannot be loaded.
            OpauError: a model cannot run as asked.
        """
        sys.setswitchinterval(SWITCH_INTERVAL)
        token = security.token(self._settings)
        self._tracer = tracing.start(self._settings.otlp_endpoint)
        try:
            if self._settings.http_port >= 0:
                await self._start_http(token)
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
        """Refuse new work, answer what was accepted, end.

        Args:
            linger: seconds for which idle HTTP connections are kept.
        """
        self.service.draining = True
        rpc_end = asyncio.create_task(self._stop_rpc())
        if self._http is not None:
            await self._http.drain(linger)
        await rpc_end
        try:
            await self.service.shut_down()
        except UnavailableError as error:
            logger.warning("%s", error)
        if self._http is not None and self._http_task is not None:
            self._http.should_exit = True
            await self._http_task
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)

    async def _start_http(self, token: security.Token | None) -> None:
        listener = listening(self._settings.host, self._settings.http_port, "--http-port")
        self.http_port = listener.getsockname()[1]
        config = uvicorn.Config(
            create_app(self.service, token, Observer(self._tracer)),
            http=Protocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,  # what was accepted has been answered by then
            **security.uvicorn_tls(self._settings),
        )
        self._http = _Uvicorn(config)
        self._http_task = asyncio.create_task(self._http.serve(sockets=[listener]))
        while not self._http.started and not self._http_task.done():
            await asyncio.sleep(0.005)
        if self._http_task.done():
            self._http_task.result()

    async def _start_rpc(self) -> None:
        self._rpc = await rpc.start(self.service, self._settings, self._tracer)
        self.grpc_port = self._rpc.port

    async def _stop_rpc(self) -> None:
        if self._rpc is not None:
            await self._rpc.stop(self._settings.drain_timeout_s)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers, and with a way to stop that loses no request."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def drain(self, linger: float) -> None:
        """Accept no connection, keep those there are until they had the time to be used once more and are idle.

        uvicorn's own shutdown closes idle connections at once, and with them requests that are on their way.
        """
        for server in self.servers:
            server.close()
        until = time.monotonic() + linger
        while self.server_state.connections and (time.monotonic() < until or self.server_state.tasks):
            await asyncio.sleep(0.02)


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
