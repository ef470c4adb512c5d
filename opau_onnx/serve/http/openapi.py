"""The HTTP addresses as an OpenAPI 3.1 document, from the same types that decode the requests."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from opau_onnx._version import __version__
from opau_onnx.serve.http.messages import Failure, InferenceRequest, InferenceResponse

_MODEL = {"name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_VERSION = {"name": "version", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_HEADER = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of the JSON; the binary tensors follow it.",
    "schema": {"type": "integer", "minimum": 1},
}
_OBJECT = {"type": "object"}


@cache
def description() -> dict[str, Any]:
    """The document."""
    (request, response, failure), components = msgspec.json.schema_components(
        [InferenceRequest, InferenceResponse, Failure], ref_template="#/components/schemas/{name}"
    )
    failed = {"description": "Not answered; the text says why.", "content": _json(failure)}
    paths: dict[str, Any] = {}

    def add(
        method: str, path: str, summary: str, *, body: Any = None, result: Any = _OBJECT, also: tuple[Any, ...] = ()
    ) -> None:
        operation: dict[str, Any] = {
            "summary": summary,
            "parameters": [*([_MODEL] if "{model}" in path else []), *([_VERSION] if "{version}" in path else []), *also],
            "responses": {"200": {"description": "Answered.", **_content(result)}, "default": failed},
        }
        if body is not None:
            operation["requestBody"] = {"content": _json(body)}
        paths.setdefault(path, {})[method] = operation

    add("get", "/v2/health/live", "Whether the server runs.")
    add("get", "/v2/health/ready", "Whether every model answers.")
    add("get", "/v2", "The server's name, version and extensions.")
    for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        add("get", prefix, "A model's inputs and outputs, and what runs it.")
        add("get", f"{prefix}/ready", "Whether a model answers.")
        add("get", f"{prefix}/config", "A model's configuration, as Triton's ModelConfig.")
        add("get", f"{prefix}/stats", "A model's statistics.")
        add("post", f"{prefix}/infer", "Inference.", body=request, result=response, also=(_HEADER,))
    add("get", "/v2/models/stats", "The statistics of all models.")
    add("post", "/v2/repository/index", "The models by name, with their states.", body=_OBJECT, result={"type": "array"})
    control = "/v2/repository/models/{model}"
    add("post", f"{control}/load", "Load a model, or swap it for what its file holds now.", body=_OBJECT, result=None)
    add("post", f"{control}/unload", "Stop serving a model.", body=_OBJECT, result=None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "opau-serve: Open Inference Protocol", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _content(schema: Any) -> dict[str, Any]:
    return {} if schema is None else {"content": _json(schema)}


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
