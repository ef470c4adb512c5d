"""Traces: what a collector gets of a request, and that no collector can hold a request up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from opau_onnx.errors import LoadError
from opau_onnx.protocol import errors
from opau_onnx.serve import tracing
from opau_onnx.serve.config import check
from opau_onnx.serve.service import Request, Response, Service
from tests.serve import nets

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
PARTS = ["queue", "compute_input", "compute_infer", "compute_output"]


def answered(folder: Path, rows: int = 3) -> tuple[Response, int]:
    """(a response of a real service, when it was asked)."""

    async def ask() -> tuple[Response, int]:
        service = Service(check({"models": {"m": {"path": str(nets.linear(folder / "m.onnx")), "instances": 1}}}))
        await service.repository.load_all()
        started = time.perf_counter_ns()
        answer = await service.infer(Request("m", "", {"x": np.ones((rows, 4), np.float32)}, None, None, started))
        await service.shut_down()
        return answer, started

    return asyncio.run(ask())


def recorded(
    outcome: Response | errors.RequestError,
    started: int = 0,
    *,
    protocol: Any = "http",
    headers: Mapping[Any, Any] | None = None,
    model: str = "m",
    version: str = "",
) -> tuple[ReadableSpan, ...]:
    """The spans of one request; the request's own is the last."""
    exporter = InMemorySpanExporter()
    tracer = tracing.Tracer(exporter)
    tracer.record(protocol, headers or {}, model, version, started or time.perf_counter_ns(), outcome)
    tracer.close()
    return exporter.get_finished_spans()


def test_an_answer_is_a_span_with_its_parts(tmp_path: Path) -> None:
    before = time.time_ns()
    answer, started = answered(tmp_path)
    *parts, request = recorded(answer, started)
    after = time.time_ns()
    assert [part.name for part in parts] == PARTS
    assert request.kind == SpanKind.SERVER
    assert request.parent is None
    assert {part.parent.span_id for part in parts if part.parent} == {request.context.span_id}
    assert {part.context.trace_id for part in parts} == {request.context.trace_id}
    # In order, without a gap, within the request, at the time of day.
    assert before - 10**9 <= request.start_time <= parts[0].start_time
    for earlier, later in pairwise(parts):
        assert earlier.start_time <= earlier.end_time == later.start_time
    assert parts[-1].end_time <= request.end_time <= after + 10**9
    assert answer.pending.times is not None
    assert parts[2].end_time - parts[2].start_time == answer.pending.times.ran - answer.pending.times.merged


def test_attributes_of_an_answer_over_http(tmp_path: Path) -> None:
    *_, span = recorded(*answered(tmp_path))
    assert span.name == "POST /v2/models/{model}/infer"
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "http.response.status_code": 200,
        "opau.model.name": "m",
        "opau.model.version": "1",
        "opau.provider": "CPUExecutionProvider",
        "opau.implementation": "none",
        "opau.rows": 3,
        "opau.batches": 1,
        "opau.batch.rows": 3,
    }
    assert span.status.status_code == StatusCode.UNSET


def test_attributes_of_an_answer_over_grpc(tmp_path: Path) -> None:
    *_, span = recorded(*answered(tmp_path, 40), protocol="grpc", version="1")
    assert span.name == "inference.GRPCInferenceService/ModelInfer"
    assert dict(span.attributes or {}) == {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": "OK",
        "opau.model.name": "m",
        "opau.model.version": "1",
        "opau.provider": "CPUExecutionProvider",
        "opau.implementation": "none",
        "opau.rows": 40,
        "opau.batches": 2,
        "opau.batch.rows": 8,
    }


def test_the_gRPC_method_is_the_protocols() -> None:
    from tritonclient.grpc import service_pb2

    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert f"{service.full_name}/{service.methods_by_name['ModelInfer'].name}" == tracing.GRPC_METHOD


ERRORS = (
    errors.InvalidRequestError,
    errors.UnauthenticatedError,
    errors.UnknownModelError,
    errors.TooLargeError,
    errors.QueueFullError,
    errors.CancelledError,
    errors.RunError,
    errors.UnavailableError,
    errors.DeadlineError,
    errors.RequestError,
)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_error_is_one_span(error: type[errors.RequestError], protocol: str) -> None:
    (span,) = recorded(error("because"), protocol=protocol, version="2")
    attributes = dict(span.attributes or {})
    assert attributes["opau.error.kind"] == error.kind
    assert (attributes["opau.model.name"], attributes["opau.model.version"]) == ("m", "2")
    if protocol == "http":
        assert span.name == "POST /v2/models/{model}/versions/{version}/infer"
        assert attributes["http.response.status_code"] == error.http
    else:
        assert attributes["rpc.response.status_code"] == error.grpc
    ours = error.kind in ("run", "unavailable", "deadline", "internal")
    assert span.status.status_code == (StatusCode.ERROR if ours else StatusCode.UNSET)
    assert span.status.description == ("because" if ours else None)
    assert attributes.get("error.type") == (error.kind if ours else None)


@pytest.mark.parametrize(
    "headers",
    [
        {"traceparent": TRACEPARENT, "tracestate": "vendor=1"},
        {b"traceparent": TRACEPARENT.encode(), b"tracestate": b"vendor=1", b"host": b"x"},
    ],
    ids=["text", "bytes"],
)
def test_the_clients_trace_goes_on(tmp_path: Path, headers: Mapping[Any, Any]) -> None:
    *parts, request = recorded(*answered(tmp_path), headers=headers)
    assert request.parent is not None
    assert request.parent.is_remote
    assert f"{request.parent.span_id:016x}" == PARENT
    assert {f"{span.context.trace_id:032x}" for span in (*parts, request)} == {TRACE}
    assert request.context.trace_state.get("vendor") == "1"


def test_a_client_that_samples_nothing_is_heeded(tmp_path: Path) -> None:
    assert recorded(*answered(tmp_path), headers={"traceparent": TRACEPARENT[:-2] + "00"}) == ()


@pytest.mark.parametrize(
    "traceparent",
    [b"", b"nonsense", TRACEPARENT.encode()[:-1], b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"\xff\0" * 9, b"00-" * 9999],
)
def test_a_malformed_parent_is_none(traceparent: bytes) -> None:
    (span,) = recorded(errors.RunError("no"), headers={b"traceparent": traceparent, b"tracestate": b"=,=\xff"})
    assert span.parent is None


def test_no_version_is_no_attribute() -> None:
    (span,) = recorded(errors.UnknownModelError("no"))
    assert "opau.model.version" not in (span.attributes or {})


def test_what_a_client_named_fits_a_collector() -> None:
    (span,) = recorded(errors.UnknownModelError("no"), model="x" * 100_000, version="\ud800")
    attributes = dict(span.attributes or {})
    assert attributes["opau.model.name"] == "x" * tracing.LONGEST_NAME
    assert attributes["opau.model.version"] == "?"


def test_the_environment_names_the_service_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    (span,) = recorded(errors.RunError("no"))
    assert span.resource.attributes["service.name"] == "opau-serve"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    (span,) = recorded(errors.RunError("no"))
    assert span.resource.attributes["service.name"] == "mine"
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    assert recorded(errors.RunError("no")) == ()


class Collector:
    """Takes OTLP over HTTP, as a collector would."""

    def __init__(self, status: int = 200) -> None:
        self.paths: list[str] = []
        self.requests: list[ExportTraceServiceRequest] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.paths.append(self.path)
                outer.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


Collecting = Callable[..., Collector]


@pytest.fixture
def collector() -> Iterator[Collecting]:
    started: list[Collector] = []

    def start(status: int = 200) -> Collector:
        started.append(Collector(status))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.mark.parametrize("path", ["", "/", "/v1/traces"])
def test_a_collector_gets_the_spans(tmp_path: Path, collector: Collecting, path: str) -> None:
    there = collector()
    tracer = tracing.start(there.url + path)
    assert tracer is not None
    tracer.record("http", {"traceparent": TRACEPARENT}, "m", "", *reversed(answered(tmp_path)))
    tracer.close()
    assert there.paths == ["/v1/traces"]
    (of_resource,) = there.requests[0].resource_spans
    resource = {a.key: a.value.string_value for a in of_resource.resource.attributes}
    assert resource["service.name"] == "opau-serve"
    spans = {span.name: span for span in of_resource.scope_spans[0].spans}
    assert list(spans) == [*PARTS, "POST /v2/models/{model}/infer"]
    request = spans["POST /v2/models/{model}/infer"]
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    assert {spans[name].parent_span_id for name in PARTS} == {request.span_id}
    assert {a.key: a.value.int_value for a in request.attributes}["opau.rows"] == 3


def ended(tracer: tracing.Tracer, timeout_s: float) -> None:
    """Closed, and no thread of it left."""
    tracer.close(timeout_s)
    for thread in threading.enumerate():
        if thread.name == "opau-traces-end":
            thread.join(20)


def test_a_collector_that_is_not_there_holds_nothing_up(collector: Collecting, caplog: pytest.LogCaptureFixture) -> None:
    gone = collector()
    gone.stop()
    tracer = tracing.start(gone.url)
    assert tracer is not None
    for _ in range(3):
        tracer.record("http", {}, "m", "", time.perf_counter_ns(), errors.RunError("no"))
    ended(tracer, 0.05)
    assert "the collector did not take them within 0.05 s" in caplog.text


def test_a_collector_that_refuses_is_told_in_the_log(collector: Collecting, caplog: pytest.LogCaptureFixture) -> None:
    tracer = tracing.start(collector(400).url)
    assert tracer is not None
    tracer.record("http", {}, "m", "", time.perf_counter_ns(), errors.RunError("no"))
    tracer.close()
    assert "400" in caplog.text
    assert "given up" not in caplog.text


def test_an_exporter_that_raises_reaches_no_request(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            raise RuntimeError("broken exporter")

    tracer = tracing.Tracer(Broken())
    tracer.record("http", {}, "m", "", time.perf_counter_ns(), errors.RunError("no"))
    tracer.close()
    assert "broken exporter" in caplog.text


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:4318", "localhost", "", "ftp://collector", "http://", "http://[::1", "http://a:99999"]
)
def test_an_endpoint_that_is_no_address(endpoint: str) -> None:
    with pytest.raises(LoadError, match=r"otlp_endpoint is .*; expected an address like http://127.0.0.1:4318"):
        tracing.start(endpoint)


@pytest.mark.parametrize("missing", ["opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk.trace"])
def test_the_extra_is_named_where_its_packages_are_missing(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(LoadError, match=r"pip install 'opau-onnx\[otel\]'"):
        tracing.start("http://127.0.0.1:4318")


def test_nothing_is_loaded_without_an_endpoint() -> None:
    program = (
        "import sys\n"
        "from opau_onnx.serve import tracing\n"
        "assert tracing.start(None) is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
