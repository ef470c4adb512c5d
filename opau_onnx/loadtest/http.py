"""Client over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

from opau_onnx.loadtest import wire
from opau_onnx.loadtest.config import LoadTestConfig, Target
from opau_onnx.loadtest.connection import Check, Client, Connection, Finished, UnreachableError
from opau_onnx.loadtest.http_connection import Address, HttpConnection, HttpResponse, connection_error
from opau_onnx.loadtest.recorder import CONNECTION_FAILED, CONNECTION_LOST, INCORRECT, REJECTED, TIMED_OUT
from opau_onnx.loadtest.response_checker import PreparedRequest
from opau_onnx.loadtest.responses import InferRequest, InferResponse, InvalidResponseError, ServedModel, StatusError


class HttpClientConnection(Connection):
    """One keep-alive connection, reopened after it has ended."""

    def __init__(self, address: Address, finished: Finished, check: Check) -> None:
        super().__init__(finished, check)
        self._address = address
        self._connection: HttpConnection | None = None
        self._connecting: asyncio.Task[None] | None = None

    async def open(self) -> None:
        try:
            self._connection = await self._address.connect(self)
        except OSError:
            self._connection = None

    def send(self, request: PreparedRequest, timeout_s: float) -> None:
        self.request = request
        if self._connection is not None and self._connection.usable:
            self._connection.send(request.message)
            return
        self._drop()
        self._connecting = asyncio.get_running_loop().create_task(self._connect_and_send(request))

    async def _connect_and_send(self, request: PreparedRequest) -> None:
        try:
            self._connection = await self._address.connect(self)
        except OSError as error:
            self._finish(CONNECTION_FAILED, connection_error(error), time.perf_counter())
            return
        self._connection.send(request.message)

    def expire(self) -> None:
        self._drop()
        self._finish(TIMED_OUT, "no response", time.perf_counter())

    def abandon(self) -> None:
        self._drop()
        self.request = None

    def _drop(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()
        self._connection = self._connecting = None

    def _finish(self, outcome: str, reason: str, now: float, received: int = 0) -> None:
        if self.request is not None:
            self.finished(self, outcome, reason, now, received)

    # Listener of the connection.

    def on_response(self, response: HttpResponse) -> None:
        if self.request is None:  # no request in flight
            self._drop()
            return
        status, content, arrived = response
        if status == 200:
            outcome, reason = self.check(self.request, content)
        else:
            outcome, reason = REJECTED if status == 429 else f"HTTP {status}", wire.reason(content.body)
        self._finish(outcome, reason, arrived, len(content.body))

    def on_malformed(self, reason: str) -> None:
        self._connection = None
        self._finish(INCORRECT, reason, time.perf_counter())

    def on_lost(self, reason: str) -> None:
        self._connection = None
        self._finish(CONNECTION_LOST, reason, time.perf_counter())


class _SingleExchange:
    """Listener of a connection for one request."""

    def __init__(self) -> None:
        self.response: asyncio.Future[HttpResponse] = asyncio.get_running_loop().create_future()

    def on_response(self, response: HttpResponse) -> None:
        if not self.response.done():
            self.response.set_result(response)

    def on_malformed(self, reason: str) -> None:
        self.on_lost(reason)

    def on_lost(self, reason: str) -> None:
        if not self.response.done():
            self.response.set_exception(UnreachableError(reason))


class HttpClient(Client):
    """See :class:`opau_onnx.loadtest.connection.Client`."""

    def __init__(self, target: Target, settings: LoadTestConfig) -> None:
        self._target, self._settings = target, settings
        self._address = Address(target, settings)

    def encode(self, model: ServedModel, request: InferRequest) -> bytes:
        return wire.encode(self._target, model, request, self._settings.token)

    def parse(self, content: Any) -> InferResponse:
        return wire.parse(content)

    def connection(self, finished: Finished, check: Check) -> Connection:
        return HttpClientConnection(self._address, finished, check)

    async def server(self) -> Mapping[str, Any]:
        return _object(await self._get(f"{self._target.prefix}/v2"))

    async def describe(self, name: str, version: str | None) -> Mapping[str, Any]:
        return _object(await self._get(self._target.model_path(name, version)))

    async def ready(self, name: str, version: str | None) -> bool:
        try:
            await self._get(f"{self._target.model_path(name, version)}/ready")
        except StatusError:
            return False
        return True

    async def index(self) -> list[tuple[str, bool]]:
        body = (await self._request("POST", f"{self._target.prefix}/v2/repository/index", b"{}")).body
        try:
            return [(str(one["name"]), one.get("state", "READY") == "READY") for one in json.loads(body)]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise InvalidResponseError("the repository index is not a list of models") from None

    async def infer(self, message: bytes) -> Any:
        return await self._exchange(message)

    async def _get(self, path: str) -> wire.Content:
        return await self._request("GET", path, b"")

    async def _request(self, method: str, path: str, body: bytes) -> wire.Content:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} if body else {}
        return await self._exchange(wire.head(self._target, method, path, self._settings.token, headers) + body)

    async def _exchange(self, message: bytes) -> wire.Content:
        """Send one request on its own connection."""
        listener = _SingleExchange()
        connection = None
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                connection = await self._address.connect(listener)
                connection.send(message)
                status, content, _ = await listener.response
        except TimeoutError:
            raise UnreachableError(f"deadline exceeded: no response within {self._settings.timeout_s:g} s") from None
        except OSError as error:
            raise UnreachableError(connection_error(error)) from None
        finally:
            if connection is not None:
                connection.close()
        if status != 200:
            raise StatusError(f"HTTP {status}", wire.reason(content.body))
        return content


def _object(content: wire.Content) -> Mapping[str, Any]:
    try:
        found = json.loads(content.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidResponseError("the response is not a JSON object of the Open Inference Protocol")
    return found
