"""Triton's addresses for what this server does not have: shared memory, trace and log settings.

They answer as a server without the extension: nothing is registered, and what would change that is refused by name.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from opau_onnx.protocol.errors import UnknownModelError, UnsupportedError

SHARED_MEMORY = "tensors are not read from shared memory; send them in the request"
KINDS = ("system", "cuda")
"""Of shared memory."""


def routes() -> list[Route]:
    """The addresses."""
    found = []
    for kind in KINDS:
        prefix = f"/v2/{kind}sharedmemory"
        found += [
            Route(f"{prefix}/status", _regions),
            Route(f"{prefix}/region/{{region}}/status", _region),
            Route(f"{prefix}/region/{{region}}/register", _register, methods=["POST"]),
            Route(f"{prefix}/region/{{region}}/unregister", _unregister, methods=["POST"]),
            Route(f"{prefix}/unregister", _unregister, methods=["POST"]),
        ]
    for path in ("/v2/trace/setting", "/v2/models/{model}/trace/setting"):
        found.append(Route(path, _trace, methods=["GET", "POST"]))
    return [*found, Route("/v2/logging", _logging, methods=["GET", "POST"])]


async def _regions(request: Request) -> Response:
    return Response(b"[]", media_type="application/json")


async def _region(request: Request) -> Response:
    raise UnknownModelError(f"unknown shared memory region {request.path_params['region']!r}: {SHARED_MEMORY}")


async def _register(request: Request) -> Response:
    raise UnsupportedError(f"shared memory is not supported: {SHARED_MEMORY}")


async def _unregister(request: Request) -> Response:
    return Response()  # what is not registered is unregistered, as Triton answers


async def _trace(request: Request) -> Response:
    raise UnsupportedError("trace settings are not supported: traces are set when the server is started, not by clients")


async def _logging(request: Request) -> Response:
    raise UnsupportedError("log settings are not supported: logs are set when the server is started, not by clients")
