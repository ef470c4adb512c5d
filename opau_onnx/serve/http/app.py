"""The ASGI application: the protocol's addresses, errors as it writes them, the token, the metrics."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import orjson
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from opau_onnx.protocol.errors import ForbiddenError, InvalidRequestError, RequestError, UnauthenticatedError
from opau_onnx.serve import reports
from opau_onnx.serve.http import extensions
from opau_onnx.serve.http.bodies import headers_of, read_body, respond
from opau_onnx.serve.http.infer import Infer
from opau_onnx.serve.http.messages import Failure
from opau_onnx.serve.http.openapi import description
from opau_onnx.serve.request_log import Observer
from opau_onnx.serve.security import Access, Area
from opau_onnx.serve.service import Service

logger = logging.getLogger("opau_onnx.serve")
MODELS, INFER = "/v2/models/", "/infer"
CONTROL, METRICS = "/v2/repository/models/", "/metrics"
READ = (b"host", b"origin", b"sec-fetch-site", b"authorization")
"""Headers that say who asks."""
OPEN = ("/v2/health/live", "/v2/health/ready")
"""Addresses that need no token: whoever restarts servers asks them."""
Endpoint = Callable[[Request], Awaitable[Response]]


def create_app(service: Service, access: Access | None = None, observer: Observer | None = None) -> ASGIApp:
    """The application that serves a service.

    Args:
        service: its models.
        access: who may do what; None: as the service's settings say.
        observer: told of every request for inference.
    """
    infer = Infer(service, observer or Observer())
    router = Router(routes=routes(service, infer), redirect_slashes=False)
    guard = Guard(router, infer, service, access or Access(service.settings.server))
    if not (origins := service.settings.server.cors_origins):
        return guard
    methods, shown = ("GET", "POST"), ("Inference-Header-Content-Length", "Retry-After")
    return CORSMiddleware(guard, origins, methods, allow_headers=("*",), expose_headers=shown)


def routes(service: Service, infer: Infer) -> list[Route]:
    """The protocol's addresses, the most used one first."""
    endpoints = Endpoints(service)
    found = []
    for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        found.append(Route(f"{prefix}/infer", infer, methods=["POST"]))
    for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        for name in ("ready", "config", "stats"):
            found.append(Route(f"{prefix}/{name}", getattr(endpoints, f"model_{name}")))
    return [
        *found,
        Route("/v2/health/live", endpoints.live),
        Route("/v2/health/ready", endpoints.ready),
        Route("/v2", endpoints.server),
        Route("/v2/models/stats", endpoints.stats),
        Route("/v2/models/{model}", endpoints.model),
        Route("/v2/models/{model}/versions/{version}", endpoints.model),
        Route("/v2/repository/index", endpoints.index, methods=["POST"]),
        Route("/v2/repository/models/{model}/load", endpoints.load, methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", endpoints.unload, methods=["POST"]),
        *extensions.routes(),
        Route(METRICS, endpoints.metrics),
        Route("/openapi.json", endpoints.openapi),
    ]


class Endpoints:
    """Routes other than inference."""

    def __init__(self, service: Service) -> None:
        self._service, self._repository = service, service.repository

    async def live(self, request: Request) -> Response:
        return _json({"live": True})

    async def ready(self, request: Request) -> Response:
        ready = self._service.ready
        return _json({"ready": ready}, 200 if ready else 503)

    async def server(self, request: Request) -> Response:
        return _message(reports.server_metadata())

    async def model(self, request: Request) -> Response:
        served = self._repository.get(*_model(request))
        return _json({**reports.as_json(reports.model_metadata(served)), "parameters": served.describe()})

    async def model_ready(self, request: Request) -> Response:
        name, version = _model(request)
        ready = self._repository.is_ready(name, version)
        found: dict[str, Any] = {"name": name, "ready": ready}
        if ready:
            described = self._repository.get(name, version).describe()
            found["parameters"] = {key: described[key] for key in ("provider", "implementation")}
        return _json(found, 200 if ready else 503)

    async def model_config(self, request: Request) -> Response:
        return _message(reports.model_config(self._repository.get(*_model(request))))

    async def model_stats(self, request: Request) -> Response:
        return _message(reports.statistics(self._repository, *_model(request)))

    async def stats(self, request: Request) -> Response:
        return _message(reports.statistics(self._repository))

    async def index(self, request: Request) -> Response:
        asked = await self._control(request)
        return _json(reports.as_json(reports.index(self._repository, ready=bool(asked.get("ready")))).get("models", []))

    async def load(self, request: Request) -> Response:
        if (await self._control(request)).get("parameters"):
            raise InvalidRequestError("a model is loaded from the file that the server was started with; send no parameters")
        await self._repository.load(request.path_params["model"])
        return Response()

    async def unload(self, request: Request) -> Response:
        await self._control(request)
        await self._repository.unload(request.path_params["model"])
        return Response()

    async def metrics(self, request: Request) -> Response:
        from opau_onnx.serve.metrics import exposition

        content, kind = exposition(self._service, request.headers.get("accept", ""))
        return Response(content, headers={"content-type": kind})

    async def openapi(self, request: Request) -> Response:
        return _json(description())

    async def _control(self, request: Request) -> dict[str, Any]:
        """The JSON object of a request to the repository; nothing is an empty one."""
        headers = headers_of(request.scope)
        with self._service.held() as held:
            body = await read_body(request.receive, headers, self._service, held, json=True)
        try:
            found = orjson.loads(body) if body.strip() else {}
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError(f"the request is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise InvalidRequestError("the request is not a JSON object")
        return found


class Guard:
    """Around the application: the token, errors in the protocol's form, and connections that end with the server."""

    def __init__(self, app: ASGIApp, infer: Infer, service: Service, access: Access) -> None:
        self._app, self._infer, self._service, self._access = app, infer, service, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._service.draining:
            send = _closing(send)
        try:
            self._let_in(scope)
            model = _inferred(scope)
            if model is not None:
                scope["path_params"] = {"model": model}
                await self._infer(scope, receive, send)
            else:
                # With an "app" in its scope, Starlette raises what it would otherwise answer as plain text.
                await self._app({**scope, "app": self._app}, receive, send)
        except RequestError as error:
            # uvicorn reads and drops what is left of a refused body, so that the client sees the response and not a reset.
            await _fail(send, error.http, str(error))
        except HTTPException as error:
            await _fail(send, error.status_code, error.detail)
        except Exception as error:
            logger.exception("a request failed", extra={"fields": {"path": scope["path"]}})
            await _fail(send, 500, f"the server failed: {type(error).__name__}")

    def _let_in(self, scope: Scope) -> None:
        path: str = scope["path"]
        if path in OPEN:
            return
        started = time.perf_counter_ns()
        changes = CONTROL in path and scope["method"] == "POST"
        headers = {name: value.decode("latin-1") for name, value in headers_of(scope).items() if name in READ}
        try:
            if changes:
                self._access.check_origin(headers.get(b"host", ""), headers.get(b"origin"), headers.get(b"sec-fetch-site"))
            area: Area = "admin" if changes else "metrics" if path == METRICS else "inference"
            self._access.check(area, headers.get(b"authorization"))
        except (UnauthenticatedError, ForbiddenError) as error:
            self._service.refuse("", error.kind, started)
            raise


def _inferred(scope: Scope) -> str | None:
    """The model of the address that nearly all requests have; None for others. The router would take a tenth of their time."""
    path: str = scope["path"]
    if scope["method"] != "POST" or not path.startswith(MODELS) or not path.endswith(INFER):
        return None
    model = path[len(MODELS) : -len(INFER)]
    return model if model and "/" not in model else None


def _closing(send: Send) -> Send:
    """Tell the client that its connection ends after this response."""

    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return wrapped


async def _fail(send: Send, status: int, reason: str) -> None:
    extra = [(b"www-authenticate", b"Bearer")] if status == 401 else [(b"retry-after", b"1")] if status in (429, 503) else []
    await respond(send, status, b"application/json", msgspec.json.encode(Failure(reason)), *extra)


def _model(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def _message(message: Any) -> Response:
    return _json(reports.as_json(message))
