"""One load test, from a server's address to the result."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opau_onnx.loadtest.answers import BadAnswerError, Model, StatusError, Tensor
from opau_onnx.loadtest.connection import Client, UnreachableError
from opau_onnx.loadtest.describe import describe
from opau_onnx.loadtest.engine import Engine, Progress
from opau_onnx.loadtest.expected import local_answers
from opau_onnx.loadtest.inputs import Pool, make_pool
from opau_onnx.loadtest.response_checker import Request, expectations, lookalikes
from opau_onnx.loadtest.result import LoadResult, Prepared
from opau_onnx.loadtest.settings import LoadTestError, Settings, Target, target
from opau_onnx.loadtest.tolerance import Tolerance

OWN_ANSWERS = "the server's own answers to single requests before the load: what it always gets wrong is not seen"


def run(
    url: str,
    model: str | None = None,
    settings: Settings | None = None,
    *,
    progress: Progress | None = None,
    interruptible: bool = False,
) -> LoadResult:
    """Load a server of the Open Inference Protocol and check every answer.

    Args:
        url: http://, https://, grpc:// or grpcs://, host and port.
        model: its name on the server; None: the only one there is.
        settings: how; None: 16 clients for 10 seconds.
        progress: called with what happens now, in words.
        interruptible: SIGINT ends the load, and the result says so; only in the main thread.

    Raises:
        LoadTestError: the server does not answer, the model is unknown or not ready, or the settings don't fit it.
        OpauError: a file that the settings name cannot be used.
    """
    where = target(url, ca=(settings or Settings()).ca)
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
    settings: Settings | None = None,
    *,
    progress: Progress | None = None,
    interruptible: bool = False,
) -> LoadResult:
    """:func:`run` on the running event loop."""
    settings = settings or Settings()
    say = progress or (lambda _: None)
    where = target(url, ca=settings.ca)
    client = _client(where, settings)
    try:
        say(f"asking {url}")
        served = await describe(client, url, model, settings.model_version, settings.wait_s)
        questions = make_pool(served, settings)
        say("finding out what is right")
        prepared = await _prepare(client, served, questions, settings)
        engine = Engine(client, prepared.requests, settings, say)
        with _interrupting(engine, interruptible):
            await engine.run()
        return LoadResult.of(where, served, settings, prepared, engine)
    finally:
        await client.close()


def _client(where: Target, settings: Settings) -> Client:
    if where.protocol == "grpc":
        from opau_onnx.loadtest.rpc import GrpcClient

        return GrpcClient(where, settings)
    from opau_onnx.loadtest.http import HttpClient

    return HttpClient(where, settings)


async def _prepare(client: Client, model: Model, pool: Pool, settings: Settings) -> Prepared:
    messages = [client.message(model, question) for question in pool.questions]
    if settings.expect is None:
        answers, expected = await _own_answers(client, model, messages), OWN_ANSWERS
    else:
        answers, expected = local_answers(settings.expect, model, pool.questions), f"{settings.expect}, run in onnxruntime here"
    tolerance = Tolerance(settings.rtol, settings.atol)
    requests = tuple(
        Request(question.number, question.id, question.rows, message, wanted)
        for question, message, wanted in zip(pool.questions, messages, expectations(answers, tolerance), strict=True)
    )
    return Prepared(requests, pool.source, expected, str(tolerance), lookalikes(requests))


async def _own_answers(client: Client, model: Model, messages: Sequence[bytes]) -> list[dict[str, Tensor]]:
    found = []
    for message in messages:
        try:
            outputs = client.read(await client.ask(message)).outputs
            found.append({spec.name: _checked(outputs[spec.name], spec.datatype) for spec in model.outputs})
        except KeyError as error:
            raise LoadTestError(f"the server does not give the output {error} of {model.name!r}") from None
        except (StatusError, UnreachableError, BadAnswerError) as error:
            raise LoadTestError(f"the server does not answer a single request before the load: {error}") from None
    return found


def _checked(tensor: Tensor, datatype: str) -> Tensor:
    tensor.array()
    if tensor.datatype != datatype:
        raise BadAnswerError(f"an output is {tensor.datatype}; the model's metadata say {datatype}")
    return tensor


@contextmanager
def _interrupting(engine: Engine, wanted: bool) -> Iterator[None]:
    """SIGINT stops the engine."""
    if not wanted:
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, engine.stop, "interrupted")
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
