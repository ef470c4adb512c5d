"""OpenTelemetry traces: one span for each request, made once it has ended, from the marks that the core takes anyway.

Where the spans go, besides the endpoint, is said by OpenTelemetry's own environment variables: OTEL_TRACES_SAMPLER,
OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_EXPORTER_OTLP_HEADERS, OTEL_BSP_MAX_QUEUE_SIZE and their kin.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from opau_onnx._version import __version__
from opau_onnx.errors import LoadError
from opau_onnx.protocol.errors import RequestError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from opau_onnx.serve.service import Response

logger = logging.getLogger("opau_onnx.serve")
Protocol = Literal["http", "grpc"]
SERVICE_NAME = "opau-serve"
PATH = "/v1/traces"
"""Where an OTLP/HTTP collector takes traces."""
GRPC_METHOD = "inference.GRPCInferenceService/ModelInfer"
GRPC_SERVER_ERRORS = ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
"""Statuses that are the server's fault, by the semantic conventions; others are the client's."""
LONGEST_NAME = 256
"""Characters of a model's name or version that a client made up."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A part of a request: name of its span, and its ends in nanoseconds of ``time.perf_counter_ns``."""

    name: str
    start: int
    end: int


def start(endpoint: str | None) -> Tracer | None:
    """Tracer, or None where no endpoint is given.

    Args:
        endpoint: a collector that takes OTLP over HTTP, e.g. ``http://127.0.0.1:4318``.

    Raises:
        LoadError: it is no address, or the packages are missing.
    """
    if endpoint is None:
        return None
    url = _url(endpoint)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        return Tracer(OTLPSpanExporter(endpoint=url))
    except ModuleNotFoundError as error:
        raise LoadError(
            f"otlp_endpoint is set, but {error.name} is not installed; install the extra: pip install 'opau-onnx[otel]'"
        ) from None


def _url(endpoint: str) -> str:
    """Where traces are sent: the endpoint's own path if it ends so, else the standard's below it."""
    try:
        parts = urlsplit(endpoint)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # half an IPv6 address, or a port out of range
        is_address = False
    if not is_address:
        raise LoadError(f"otlp_endpoint is {endpoint!r}; expected an address like http://127.0.0.1:4318")
    path = parts.path if parts.path.endswith(PATH) else parts.path.rstrip("/") + PATH
    return parts._replace(path=path).geturl()


class Tracer:
    """Makes spans and hands them to an exporter, which sends them from a thread of its own.

    Args:
        exporter: where they go; what fails there is logged and reaches no request.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        ours = {"service.name": SERVICE_NAME, "service.version": __version__}
        resource = Resource.create({**ours, **OTELResourceDetector().detect().attributes})
        self._api, self._exporter = trace, exporter
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("opau_onnx.serve", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def record(
        self,
        protocol: Protocol,
        headers: Mapping[Any, Any],
        model: str,
        version: str,
        started: int,
        outcome: Response | RequestError,
    ) -> None:
        """The span of a request that ends now, within the trace of its ``traceparent`` if it has one.

        Args:
            headers: the request's, or its gRPC metadata; names in lower case, as text or bytes.
            model, version: as the client named them.
            started: when the request came, in nanoseconds of ``time.perf_counter_ns``.
            outcome: its response or its error.
        """
        now = time.perf_counter_ns()
        epoch = time.time_ns() - now  # anew for each request: the clock may be set while the server runs
        span = self._tracer.start_span(
            _name(protocol, version),
            self._propagator.extract(_carrier(headers)),
            self._api.SpanKind.SERVER,
            _attributes(protocol, model, version, outcome),
            start_time=epoch + started,
        )
        if isinstance(outcome, RequestError):
            if _is_ours(protocol, outcome):
                span.set_status(self._api.Status(self._api.StatusCode.ERROR, str(outcome)))
        elif span.is_recording():
            inside = self._api.set_span_in_context(span)
            for mark in marks(outcome):
                child = self._tracer.start_span(mark.name, inside, start_time=epoch + mark.start)
                child.end(epoch + mark.end)
        span.end(epoch + now)

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what is left, for as long as that; blocks, so not for the event loop's thread."""
        ending = threading.Thread(target=self._provider.shutdown, name="opau-traces-end", daemon=True)
        ending.start()
        ending.join(timeout_s)
        if ending.is_alive():
            logger.warning("traces were given up: the collector did not take them within %g s", timeout_s)
            self._exporter.shutdown()  # it may be waiting to try again


def marks(response: Response) -> Iterator[Mark]:
    """The parts of an answered request. Of one that ran in several batches, those of its last batch; it waited until that."""
    pending = response.pending
    times = pending.times
    if times is None:
        return
    yield Mark("queue", pending.queued, times.start)
    yield Mark("compute_input", times.start, times.merged)
    yield Mark("compute_infer", times.merged, times.ran)
    yield Mark("compute_output", times.ran, times.end)


def status(protocol: Protocol, outcome: Response | RequestError) -> int | str:
    """The client's status: HTTP's number or gRPC's word."""
    if protocol == "http":
        return outcome.http if isinstance(outcome, RequestError) else 200
    return outcome.grpc if isinstance(outcome, RequestError) else "OK"


def _carrier(headers: Mapping[Any, Any]) -> dict[str, str]:
    """The two headers of W3C's trace context."""
    found = {}
    for name in ("traceparent", "tracestate"):
        value = headers.get(name) or headers.get(name.encode())
        if value:
            found[name] = value if isinstance(value, str) else bytes(value).decode("latin-1")
    return found


def _name(protocol: Protocol, version: str) -> str:
    return GRPC_METHOD if protocol == "grpc" else f"POST {_route(version)}"


def _route(version: str) -> str:
    return "/v2/models/{model}/versions/{version}/infer" if version else "/v2/models/{model}/infer"


def _attributes(protocol: Protocol, model: str, version: str, outcome: Response | RequestError) -> dict[str, str | int]:
    found: dict[str, str | int] = {"opau.model.name": _short(model)}
    if protocol == "grpc":
        found |= {"rpc.system.name": "grpc", "rpc.method": GRPC_METHOD, "rpc.response.status_code": status(protocol, outcome)}
    else:
        found |= {"http.request.method": "POST", "http.route": _route(version)}
        found["http.response.status_code"] = status(protocol, outcome)
    return found | (_of_error(protocol, version, outcome) if isinstance(outcome, RequestError) else _of_response(outcome))


def _of_error(protocol: Protocol, version: str, error: RequestError) -> dict[str, str | int]:
    found: dict[str, str | int] = {"opau.error.kind": error.kind}
    if version:
        found["opau.model.version"] = _short(version)
    if _is_ours(protocol, error):
        found["error.type"] = error.kind
    return found


def _of_response(response: Response) -> dict[str, str | int]:
    opened = response.model.prepared.opened
    return {
        "opau.model.version": response.model.version,
        "opau.provider": opened.provider,
        "opau.implementation": opened.implementation,
        "opau.rows": response.rows,
        "opau.batches": response.pending.batches,
        "opau.batch.rows": response.pending.batch_rows,
    }


def _is_ours(protocol: Protocol, error: RequestError) -> bool:
    """True where the server failed, not the client."""
    return error.grpc in GRPC_SERVER_ERRORS if protocol == "grpc" else error.http >= 500


def _short(name: str) -> str:
    """A client's name as a collector can take it: not endless, and UTF-8."""
    return name[:LONGEST_NAME].encode("utf-8", "replace").decode()
