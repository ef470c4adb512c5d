"""Prometheus metrics: read off the service at the moment of the scrape, so that no request pays for it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import exposition as text_format
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from opau_onnx._version import __version__
from opau_onnx.protocol.errors import KINDS
from opau_onnx.serve.repository import Entry
from opau_onnx.serve.service import Service
from opau_onnx.serve.statistics import BatchSize, Duration, Histogram

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text"
PHASES = ("input", "infer", "output")
"""Of a batch: its inputs are put together, the model runs, its outputs are taken apart."""
NO_MODEL = ""
"""The label of requests for models that are not there, which no client can make a series of."""
_PROCESS = ProcessCollector(registry=None)
_openmetrics: Callable[[Collector], bytes] = openmetrics.generate_latest


@dataclass(frozen=True)
class Plain:
    """A metric with one value a model.

    Attributes:
        kind: the class of its family.
        name, help: as they are shown; a counter's ``_total`` is added.
        value: of one entry of the repository.
    """

    kind: type[CounterMetricFamily] | type[GaugeMetricFamily]
    name: str
    help: str
    value: Callable[[Entry], float]


PLAIN = (
    Plain(CounterMetricFamily, "opau_rows", "Rows of the requests that were answered", lambda e: e.statistics.rows),
    Plain(CounterMetricFamily, "opau_executions", "Batches that ran", lambda e: e.statistics.executions),
    Plain(GaugeMetricFamily, "opau_model_ready", "1 where the model answers, else 0", lambda e: e.served is not None),
    Plain(GaugeMetricFamily, "opau_workers", "Batches that can run at once", lambda e: _workers(e)),
    Plain(GaugeMetricFamily, "opau_requests_waiting", "Requests that wait, or of which a part does", lambda e: _waiting(e)),
    Plain(GaugeMetricFamily, "opau_queue_limit", "Requests that the queue holds", lambda e: e.settings.max_queue),
    Plain(GaugeMetricFamily, "opau_requests_in_flight", "Requests that wait or run", lambda e: _in_flight(e)),
)
"""In the order in which they are shown."""


def exposition(service: Service, accept: str) -> tuple[bytes, str]:
    """All metrics. To be called in the event loop's thread, which writes what is read here.

    Args:
        service: what is served.
        accept: the client's Accept header; "" is any.

    Returns:
        (content, its type): OpenMetrics 1.0 where the client prefers it, else Prometheus' text format 0.0.4.
    """
    collector = ServiceCollector(service)
    if _wants_openmetrics(accept):
        return _openmetrics(collector), openmetrics.CONTENT_TYPE_LATEST
    return text_format.generate_latest(collector), TEXT


def _wants_openmetrics(accept: str) -> bool:
    """Versions are not looked at: 1.0 is what all that know the format read."""
    weights: dict[str, float] = {}
    for offer in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in offer.split(";"))
        weights[kind] = max(weights.get(kind, 0.0), _weight(parameters))
    return weights.get(OPENMETRICS, 0.0) > 0.0 and weights[OPENMETRICS] >= weights.get("text/plain", 0.0)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


class ServiceCollector(Collector):
    """The metrics of a service, its devices and its process."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        about = self._service.about
        for family in self._families():
            family.samples = [sample._replace(labels={**sample.labels, **about}) for sample in family.samples]
            yield family

    def _families(self) -> Iterator[Metric]:
        entries = list(self._service.repository)
        yield _build()
        yield from _server(self._service)
        yield _models(entries)
        yield _requests(self._service, entries)
        yield _errors(self._service, entries)
        yield from (_plain(metric, entries) for metric in PLAIN)
        yield from _histograms(entries)
        yield from _durations(entries)
        yield from _devices()
        yield from _PROCESS.collect()


def _build() -> Metric:
    import onnxruntime

    labels = {"version": __version__, "onnxruntime": onnxruntime.__version__, "python": platform.python_version()}
    return InfoMetricFamily("opau_build", "Versions of the server and of what it runs on", labels)


def _server(service: Service) -> Iterator[Metric]:
    limit = service.settings.server.max_pending_bytes
    yield GaugeMetricFamily("opau_server_ready", "1 where load balancers should send requests, else 0", service.ready)
    yield GaugeMetricFamily("opau_pending_bytes", "Of the requests that are read or wait", service.pending_bytes, unit="bytes")
    yield GaugeMetricFamily("opau_pending_limit_bytes", "What opau_pending_bytes may reach", limit, unit="bytes")


def _models(entries: Iterable[Entry]) -> Metric:
    family = InfoMetricFamily("opau_model", "What serves the model", labels=["model"])
    for entry in entries:
        if entry.served is not None:
            opened = entry.served.prepared.opened
            family.add_metric(
                [entry.name],
                {
                    "version": entry.served.version,
                    "provider": opened.provider,
                    "implementation": opened.implementation,
                    "sha256": opened.sha256,
                },
            )
    return family


def _requests(service: Service, entries: Iterable[Entry]) -> Metric:
    family = CounterMetricFamily("opau_requests", "Inference requests that ended", labels=["model", "result"])
    for entry in entries:
        family.add_metric([entry.name, "success"], entry.statistics.success.count)
        family.add_metric([entry.name, "failure"], entry.statistics.fail.count)
    family.add_metric([NO_MODEL, "failure"], sum(service.refused.values()))
    return family


def _errors(service: Service, entries: Iterable[Entry]) -> Metric:
    """Every kind from the start: a rate over a series that begins with 1 would miss its first error."""
    family = CounterMetricFamily("opau_errors", "Inference requests that were not answered", labels=["model", "kind"])
    counts = {**{entry.name: dict(entry.statistics.errors) for entry in entries}, NO_MODEL: service.refused}
    for name, errors in counts.items():
        for kind in KINDS:
            family.add_metric([name, kind], errors.get(kind, 0))
    return family


def _plain(metric: Plain, entries: Iterable[Entry]) -> Metric:
    family = metric.kind(metric.name, metric.help, labels=["model"])
    for entry in entries:
        family.add_metric([entry.name], metric.value(entry))
    return family


def _workers(entry: Entry) -> int:
    return len(entry.served.prepared.runners) if entry.served is not None else 0


def _waiting(entry: Entry) -> int:
    return entry.served.batcher.waiting if entry.served is not None else 0


def _in_flight(entry: Entry) -> int:
    return entry.served.batcher.in_flight if entry.served is not None else 0


def _histograms(entries: Iterable[Entry]) -> Iterator[Metric]:
    latency = HistogramMetricFamily(
        "opau_request_duration_seconds", "From the acceptance of a request to its response", labels=["model"], unit="seconds"
    )
    rows = HistogramMetricFamily("opau_batch_rows", "Rows of a batch", labels=["model"])
    for entry in entries:
        _add(latency, entry.name, entry.statistics.latency)
        _add(rows, entry.name, entry.statistics.batch_rows)
    yield latency
    yield rows


def _add(family: HistogramMetricFamily, name: str, histogram: Histogram) -> None:
    bounds = (*map(str, histogram.bounds), "+Inf")
    family.add_metric([name], list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.total)


def _durations(entries: Iterable[Entry]) -> Iterator[Metric]:
    queue = SummaryMetricFamily(
        "opau_queue_seconds",
        "What a request waited for its batch; each chunk of a large one counts",
        labels=["model"],
        unit="seconds",
    )
    compute = SummaryMetricFamily(
        "opau_compute_seconds", "What the batch of a request took, by phase", labels=["model", "phase"], unit="seconds"
    )
    execution = SummaryMetricFamily(
        "opau_execution_seconds", "What a batch took, by phase", labels=["model", "phase"], unit="seconds"
    )
    for entry in entries:
        queued = entry.statistics.queue
        queue.add_metric([entry.name], queued.count, queued.ns / 1e9)
        for phase in PHASES:
            _add_phase(compute, entry.name, phase, [entry.statistics.compute])
            _add_phase(execution, entry.name, phase, list(entry.statistics.batches.values()))
    yield from (queue, compute, execution)


def _add_phase(family: SummaryMetricFamily, name: str, phase: str, sizes: list[BatchSize]) -> None:
    durations: list[Duration] = [getattr(size, f"compute_{phase}") for size in sizes]
    family.add_metric([name, phase], sum(d.count for d in durations), sum(d.ns for d in durations) / 1e9)


def _devices() -> Iterator[Metric]:
    """Of GPUs; both families are empty where there is none."""
    from opau_onnx.serve.devices import device_memory

    labels = ["device"]
    used = GaugeMetricFamily("opau_device_memory_used_bytes", "GPU memory in use, by all processes", None, labels, "bytes")
    total = GaugeMetricFamily("opau_device_memory_total_bytes", "GPU memory that there is", None, labels, "bytes")
    for index, in_use, size in device_memory():
        used.add_metric([str(index)], in_use)
        total.add_metric([str(index)], size)
    yield from (used, total)
