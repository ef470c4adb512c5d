"""One load test, from a server's address to the result."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from opau_onnx.loadtest.config import LoadTestConfig, Target, target
from opau_onnx.loadtest.connection import Client
from opau_onnx.loadtest.describe import describe
from opau_onnx.loadtest.expected import FileReference, Reference, ServerReference
from opau_onnx.loadtest.inputs import RequestPool, make_request_pool
from opau_onnx.loadtest.load_generator import LoadGenerator, Progress
from opau_onnx.loadtest.response_checker import PreparedRequest, expectations, indistinguishable
from opau_onnx.loadtest.responses import ServedModel
from opau_onnx.loadtest.result import LoadResult, Prepared
from opau_onnx.loadtest.tolerance import GivenTolerance, MeasuredTolerance, Tolerance, can_nudge, measured_tolerance


def run(
    url: str,
    model: str | None = None,
    settings: LoadTestConfig | None = None,
    *,
    progress: Progress | None = None,
    interruptible: bool = False,
) -> LoadResult:
    """Load a server of the Open Inference Protocol and check every response.

    Args:
        url: http://, https://, grpc:// or grpcs://, host and port.
        model: its name on the server; None: the only one there is.
        settings: of the load; None: 16 clients for 10 seconds.
        progress: called with a short text before each step and once a second.
        interruptible: SIGINT ends the load, and :attr:`LoadResult.stopped` is set; only in the main thread.

    Raises:
        LoadTestError: the server cannot be reached, the model is unknown or not ready, or the settings don't fit it.
        OpauError: a file that the settings name cannot be used.
    """
    where = target(url, ca=(settings or LoadTestConfig()).ca)
    return _in_new_loop(where, run_async(url, model, settings, progress=progress, interruptible=interruptible))


def _in_new_loop(where: Target, work: Coroutine[Any, Any, LoadResult]) -> LoadResult:
    """uvloop is faster with sockets; grpc.aio brings its own, and is faster without."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if where.protocol == "http":
        try:
            import uvloop

            factory = uvloop.new_event_loop
        except ModuleNotFoundError:  # not on every platform
            pass
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


async def run_async(
    url: str,
    model: str | None = None,
    settings: LoadTestConfig | None = None,
    *,
    progress: Progress | None = None,
    interruptible: bool = False,
) -> LoadResult:
    """:func:`run` on the running event loop."""
    settings = settings or LoadTestConfig()
    report = progress or (lambda _: None)
    where = target(url, ca=settings.ca)
    client = _client(where, settings)
    try:
        report(f"reading the metadata of {url}")
        model_metadata = await describe(client, url, model, settings.model_version, settings.wait_s)
        pool = make_request_pool(model_metadata, settings)
        report("computing the expected responses")
        prepared = await _prepare(client, model_metadata, pool, settings)
        generator = LoadGenerator(client, prepared.requests, settings, report)
        with _interrupting(generator, interruptible):
            await generator.run()
        return LoadResult.of(where, model_metadata, settings, prepared, generator)
    finally:
        await client.close()


def _client(where: Target, settings: LoadTestConfig) -> Client:
    if where.protocol == "grpc":
        from opau_onnx.loadtest.rpc import GrpcClient

        return GrpcClient(where, settings)
    from opau_onnx.loadtest.http import HttpClient

    return HttpClient(where, settings)


async def _prepare(client: Client, model: ServedModel, pool: RequestPool, settings: LoadTestConfig) -> Prepared:
    own = settings.expect is None
    reference = ServerReference(client, model) if own else FileReference(settings.expect or "", model)
    expected = [await reference.outputs(request, request.inputs) for request in pool.requests]
    tolerance = await _tolerance(reference, model, pool, settings)
    requests = tuple(
        PreparedRequest(request.number, request.id, request.rows, client.encode(model, request), wanted)
        for request, wanted in zip(pool.requests, expectations(expected, tolerance), strict=True)
    )
    return Prepared(requests, pool.source, reference.description, str(tolerance), indistinguishable(requests))


async def _tolerance(reference: Reference, model: ServedModel, pool: RequestPool, settings: LoadTestConfig) -> Tolerance:
    """The user's tolerance, else a measured one."""
    if settings.rtol is not None or settings.atol is not None:
        return GivenTolerance(settings.rtol or 0.0, settings.atol or 0.0)
    if not can_nudge(model.inputs, model.outputs):
        return MeasuredTolerance(())
    return await measured_tolerance(reference.outputs, pool.requests, settings.seed)


@contextmanager
def _interrupting(generator: LoadGenerator, wanted: bool) -> Iterator[None]:
    """SIGINT stops the generator."""
    if not wanted:
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, generator.stop, "interrupted")
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
