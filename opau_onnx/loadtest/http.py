"""Reaching a server over HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

from opau_onnx.loadtest import wire
from opau_onnx.loadtest.answers import Answer, BadAnswerError, Model, Question, StatusError
from opau_onnx.loadtest.connection import Check, Client, Connection, Finished, UnreachableError
from opau_onnx.loadtest.http_connection import Address, HttpConnection, Response, unreachable
from opau_onnx.loadtest.recorder import LOST, REFUSED, TIMED_OUT, UNREACHABLE, WRONG
from opau_onnx.loadtest.response_checker import Request
from opau_onnx.loadtest.settings import Settings, Target


class HttpLane(Connection):
    """One keep-alive connection, made anew when it ended."""

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

    def send(self, request: Request, timeout_s: float) -> None:
        self.request = request
        if self._connection is not None and self._connection.usable:
            self._connection.send(request.message)
            return
        self._drop()
        self._connecting = asyncio.get_running_loop().create_task(self._connect_and_send(request))

    async def _connect_and_send(self, request: Request) -> None:
        try:
            self._connection = await self._address.connect(self)
        except OSError as error:
            self._finish(UNREACHABLE, unreachable(error), time.perf_counter())
            return
        self._connection.send(request.message)

    def expire(self) -> None:
        self._drop()
        self._finish(TIMED_OUT, "no answer", time.perf_counter())

    def abandon(self) -> None:
        self._drop()
        self.request = None

    def _drop(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connection is not None:
            self._connection.close()
        self._connection = self._connecting = None

    def _finish(self, kind: str, reason: str, now: float, received: int = 0) -> None:
        if self.request is not None:
            self.finished(self, kind, reason, now, received)

    # What the connection calls.

    def answered(self, response: Response) -> None:
        if self.request is None:  # nobody asked
            self._drop()
            return
        status, content, arrived = response
        if status == 200:
            kind, reason = self.check(self.request, content)
        else:
            kind, reason = REFUSED if status == 429 else f"HTTP {status}", wire.reason(content.body)
        self._finish(kind, reason, arrived, len(content.body))

    def malformed(self, reason: str) -> None:
        self._connection = None
        self._finish(WRONG, reason, time.perf_counter())

    def lost(self, reason: str) -> None:
        self._connection = None
        self._finish(LOST, reason, time.perf_counter())


class _Once:
    """The owner of a connection for one request."""

    def __init__(self) -> None:
        self.response: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

    def answered(self, response: Response) -> None:
        if not self.response.done():
            self.response.set_result(response)

    def malformed(self, reason: str) -> None:
        self.lost(reason)

    def lost(self, reason: str) -> None:
        if not self.response.done():
            self.response.set_exception(UnreachableError(reason))


class HttpClient(Client):
    """See :class:`opau_onnx.loadtest.connection.Client`."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self._target, self._settings = target, settings
        self._address = Address(target, settings)

    def message(self, model: Model, question: Question) -> bytes:
        return wire.message(self._target, model, question, self._settings.token)

    def read(self, content: Any) -> Answer:
        return wire.read(content)

    def connection(self, finished: Finished, check: Check) -> Connection:
        return HttpLane(self._address, finished, check)

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
            raise BadAnswerError("the repository index is no list of models") from None

    async def ask(self, message: bytes) -> Any:
        return await self._exchange(message)

    async def _get(self, path: str) -> wire.Content:
        return await self._request("GET", path, b"")

    async def _request(self, method: str, path: str, body: bytes) -> wire.Content:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))} if body else {}
        return await self._exchange(wire.head(self._target, method, path, self._settings.token, headers) + body)

    async def _exchange(self, message: bytes) -> wire.Content:
        """One request on a connection of its own."""
        owner = _Once()
        connection = None
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                connection = await self._address.connect(owner)
                connection.send(message)
                status, content, _ = await owner.response
        except TimeoutError:
            raise UnreachableError(f"no answer within {self._settings.timeout_s:g} s") from None
        except OSError as error:
            raise UnreachableError(unreachable(error)) from None
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
        raise BadAnswerError("the answer is not a JSON object of the Open Inference Protocol")
    return found
