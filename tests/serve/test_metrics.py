"""What Prometheus reads: the right numbers, in a text that its parsers and its linter accept."""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import Metric, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from opau_onnx.protocol.errors import KINDS, RequestError
from opau_onnx.serve import metrics
from opau_onnx.serve.config import check
from opau_onnx.serve.service import Request, Service
from tests.serve import nets

GPUS = [(0, 1000, 2000), (1, 30, 2000)]
Families = dict[str, Metric]


@pytest.fixture(autouse=True)
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them."""
    monkeypatch.setitem(sys.modules, "opau_onnx.serve.devices", SimpleNamespace(device_memory=lambda: GPUS))


def a_service(folder: Path, **server: object) -> Service:
    tables = {
        "line": {"path": str(nets.linear(folder / "line.onnx")), "max_batch_delay_us": 0},
        "table": {"path": str(nets.gather(folder / "table.onnx"))},
        "idle": {"path": str(nets.linear(folder / "idle.onnx")), "load": False, "max_queue": 7},
    }
    return Service(check({"server": server, "models": tables}))


async def ask(service: Service, model: str, **inputs: np.ndarray) -> str:
    """The kind of its error, or "success"."""
    try:
        await service.infer(Request(model, "", inputs, None, None, time.perf_counter_ns()))
    except RequestError as error:
        return error.kind
    return "success"


async def traffic(service: Service) -> None:
    await service.repository.load_all()
    for rows in (1, 2, 5, 40):  # 40 is more than a batch: two chunks
        assert await ask(service, "line", x=np.ones((rows, 4), np.float32)) == "success"
    assert await ask(service, "line", x=np.ones((1, 3), np.float32)) == "invalid"
    assert await ask(service, "table", i=np.array([9])) == "run"
    assert await ask(service, "no such model\n") == "unknown_model"
    assert await ask(service, "idle") == "unavailable"


def text_families(content: bytes) -> Families:
    return {family.name: family for family in parser.text_string_to_metric_families(content.decode())}


def openmetrics_families(content: bytes) -> Families:
    """By a parser that refuses what the specification forbids."""
    return {family.name: family for family in openmetrics_parser.text_string_to_metric_families(content.decode())}


@pytest.fixture
def scraped(tmp_path: Path) -> Families:
    """After some traffic."""

    async def scrape() -> Families:
        service = a_service(tmp_path)
        await traffic(service)
        content, _ = metrics.exposition(service, metrics.OPENMETRICS)
        await service.shut_down()
        return openmetrics_families(content)

    return asyncio.run(scrape())


def value(families: Families, sample: str, **labels: str) -> float:
    """Of the one sample with this name and these labels."""
    found = [s for family in families.values() for s in family.samples if s.name == sample and s.labels == labels]
    assert len(found) == 1, f"{sample} {labels}: {found}"
    return found[0].value


def test_requests_and_errors_are_counted_by_model_and_kind(scraped: Families) -> None:
    assert value(scraped, "opau_requests_total", model="line", result="success") == 4
    assert value(scraped, "opau_requests_total", model="line", result="failure") == 1
    assert value(scraped, "opau_requests_total", model="table", result="failure") == 1
    assert value(scraped, "opau_requests_total", model="", result="failure") == 2
    assert value(scraped, "opau_errors_total", model="line", kind="invalid") == 1
    assert value(scraped, "opau_errors_total", model="table", kind="run") == 1
    assert value(scraped, "opau_errors_total", model="", kind="unknown_model") == 1
    assert value(scraped, "opau_errors_total", model="", kind="unavailable") == 1


def test_every_kind_of_error_is_there_from_the_start(tmp_path: Path) -> None:
    families = text_families(metrics.exposition(a_service(tmp_path), "")[0])
    samples = families["opau_errors"].samples
    assert {(s.labels["model"], s.labels["kind"]) for s in samples} == {
        (model, kind) for model in ("line", "table", "idle", "") for kind in KINDS
    }
    assert {s.value for s in samples} == {0}


def test_a_name_that_a_client_made_up_is_no_label(scraped: Families) -> None:
    labels = {s.labels["model"] for family in scraped.values() for s in family.samples if "model" in s.labels}
    assert labels == {"line", "table", "idle", ""}


def test_histograms(scraped: Families) -> None:
    assert value(scraped, "opau_request_duration_seconds_count", model="line") == 4
    assert 0 < value(scraped, "opau_request_duration_seconds_sum", model="line") < 60
    samples = scraped["opau_batch_rows"].samples
    bounds = {s.labels["le"]: s.value for s in samples if s.labels["model"] == "line" and "le" in s.labels}
    # Batches of 1, 2, 5, 32 and 8 rows.
    assert bounds == {
        "1.0": 1, "2.0": 2, "4.0": 2, "8.0": 4, "16.0": 4, "32.0": 5, "64.0": 5, "128.0": 5, "256.0": 5, "+Inf": 5,
    }  # fmt: skip
    assert value(scraped, "opau_batch_rows_sum", model="line") == 48
    assert value(scraped, "opau_batch_rows_count", model="line") == 5


def test_buckets_are_cumulative(scraped: Families) -> None:
    for family in (f for f in scraped.values() if f.type == "histogram"):
        for model in ("line", "table", "idle"):
            counts = [s.value for s in family.samples if s.labels.get("model") == model and "le" in s.labels]
            assert counts == sorted(counts)
            assert counts[-1] == value(scraped, f"{family.name}_count", model=model)


def test_rows_executions_and_durations(scraped: Families) -> None:
    assert value(scraped, "opau_rows_total", model="line") == 48
    assert value(scraped, "opau_executions_total", model="line") == 5
    assert value(scraped, "opau_queue_seconds_count", model="line") == 5
    for phase in metrics.PHASES:
        assert value(scraped, "opau_compute_seconds_count", model="line", phase=phase) == 5
        assert value(scraped, "opau_execution_seconds_count", model="line", phase=phase) == 5
    parts = sum(value(scraped, "opau_compute_seconds_sum", model="line", phase=phase) for phase in metrics.PHASES)
    assert 0 < parts < 60


def test_what_serves_a_model(scraped: Families) -> None:
    (info,) = [s.labels for s in scraped["opau_model"].samples if s.labels["model"] == "line"]
    assert info["provider"] == "CPUExecutionProvider"
    assert info["implementation"] == "none"
    assert info["version"] == "1"
    assert re.fullmatch("[0-9a-f]{64}", info["sha256"])
    assert [value(scraped, "opau_model_ready", model=name) for name in ("line", "table", "idle")] == [1, 1, 0]
    assert value(scraped, "opau_workers", model="line") > 0
    assert value(scraped, "opau_workers", model="idle") == 0
    assert value(scraped, "opau_queue_limit", model="idle") == 7
    assert "idle" not in {s.labels["model"] for s in scraped["opau_model"].samples}


def test_devices(scraped: Families) -> None:
    assert value(scraped, "opau_device_memory_used_bytes", device="0") == 1000
    assert value(scraped, "opau_device_memory_used_bytes", device="1") == 30
    assert value(scraped, "opau_device_memory_total_bytes", device="1") == 2000


def test_the_devices_of_this_machine_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    families = text_families(metrics.exposition(a_service(tmp_path), "")[0])
    used, total = families["opau_device_memory_used_bytes"].samples, families["opau_device_memory_total_bytes"].samples
    assert all(u.value <= t.value for u, t in zip(used, total, strict=True))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the process' own metrics need /proc")
def test_the_process(scraped: Families) -> None:
    assert value(scraped, "process_resident_memory_bytes") > 2**20
    assert value(scraped, "process_cpu_seconds_total") > 0


def test_what_waits_and_what_is_held(tmp_path: Path) -> None:
    async def watch() -> tuple[Families, Families]:
        service = a_service(tmp_path, max_pending_bytes=4000)
        service.repository.entry("line").settings = check(
            {"models": {"line": {"path": str(tmp_path / "line.onnx"), "max_batch_delay_us": 60_000_000}}}
        ).models["line"]
        await service.repository.load_all()
        with service.held() as held:
            held.add(123)
            task = asyncio.create_task(ask(service, "line", x=np.ones((1, 4), np.float32)))
            await asyncio.sleep(0)
            during = text_families(metrics.exposition(service, "")[0])
        task.cancel()
        await asyncio.wait([task])
        after = text_families(metrics.exposition(service, "")[0])
        await service.shut_down()
        return during, after

    during, after = asyncio.run(watch())
    assert value(during, "opau_requests_waiting", model="line") == 1
    assert value(during, "opau_requests_in_flight", model="line") == 1
    assert value(during, "opau_pending_bytes") == 123
    assert value(during, "opau_pending_limit_bytes") == 4000
    assert value(during, "opau_server_ready") == 1
    assert value(after, "opau_requests_waiting", model="line") == 0
    assert value(after, "opau_requests_in_flight", model="line") == 0
    assert value(after, "opau_pending_bytes") == 0
    assert value(after, "opau_errors_total", model="line", kind="cancelled") == 1


def test_counters_only_grow(tmp_path: Path) -> None:
    """Also over an unload and a load of the model."""

    async def scrapes() -> list[Families]:
        service, found = a_service(tmp_path), []
        await service.repository.load_all()
        for step in range(4):
            await ask(service, "line", x=np.ones((1, 4), np.float32))
            found.append(text_families(metrics.exposition(service, "")[0]))
            if step == 1:
                await service.repository.unload("line")
            if step == 2:
                await service.repository.load("line")
        await service.shut_down()
        return found

    kinds = {"counter", "histogram", "summary"}
    series = [
        {(s.name, *sorted(s.labels.items())): s.value for f in families.values() if f.type in kinds for s in f.samples}
        for families in asyncio.run(scrapes())
    ]
    for earlier, later in itertools.pairwise(series):
        assert earlier.keys() <= later.keys()
        assert [key for key, number in earlier.items() if later[key] < number] == []
    assert series[-1][("opau_requests_total", ("model", "line"), ("result", "success"))] == 3


def test_both_formats_say_the_same(tmp_path: Path) -> None:
    async def scrape() -> tuple[Families, Families]:
        service = a_service(tmp_path)
        await traffic(service)
        found = [metrics.exposition(service, accept)[0] for accept in ("", metrics.OPENMETRICS)]
        await service.shut_down()
        return text_families(found[0]), openmetrics_families(found[1])

    samples = [
        {(s.name, *sorted(s.labels.items())): s.value for f in families.values() for s in f.samples if s.name[:8] != "process_"}
        for families in asyncio.run(scrape())
    ]
    assert samples[0] == samples[1]


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html, */*;q=0.8", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; version=1.0.0; charset=utf-8", True),
        ("application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;q=0.4,text/plain;q=0.3", True),
        ("application/openmetrics-text;q=0.1, text/plain;q=0.9", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=high", False),
        ("application/openmetrics-text;version=nonsense", True),
        (";;,,=;q", False),
    ],
)
def test_the_format_that_the_client_asks_for(tmp_path: Path, accept: str, openmetrics: bool) -> None:
    content, kind = metrics.exposition(a_service(tmp_path), accept)
    if openmetrics:
        assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert content.endswith(b"# EOF\n")
    else:
        assert kind == "text/plain; version=0.0.4; charset=utf-8"
        assert b"# EOF" not in content


def problems(family: Metric) -> list[str]:
    """The rules of Prometheus' own linter, on the name that a scrape shows."""
    counter = family.type == "counter"
    name = f"{family.name}_total" if counter else family.name
    suffixes = ("_total", "_count", "_sum", "_bucket", "_created")
    words = set(family.name.split("_"))
    no_base_units = {"ms", "milliseconds", "us", "microseconds", "ns", "minutes", "hours", "kb", "kib", "mb", "percent"}
    found = {
        "no help": not family.documentation,
        "a reserved suffix": not counter and name.endswith(suffixes),
        "not snake_case": not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", name),
        "no base unit": words & no_base_units,
        "its type in its name": words & {"counter", "gauge", "histogram", "summary", "metric"},
        "a reserved label": family.type == "gauge" and any({"le", "quantile"} & s.labels.keys() for s in family.samples),
        "its unit not at the end": family.unit and not family.name.endswith(f"_{family.unit}"),
        "a label not snake_case": any(not re.fullmatch("[a-z][a-z0-9_]*", label) for s in family.samples for label in s.labels),
    }
    return [f"{name}: {problem}" for problem, is_there in found.items() if is_there]


def test_names_units_and_help_satisfy_the_linter(scraped: Families) -> None:
    assert [problem for family in scraped.values() for problem in problems(family)] == []
    durations = {name: family.unit for name, family in scraped.items() if re.fullmatch("opau_.*_seconds", name)}
    assert len(durations) == 4
    assert set(durations.values()) == {"seconds"}


def test_no_series_is_there_twice(scraped: Families) -> None:
    series = [(s.name, *sorted(s.labels.items())) for family in scraped.values() for s in family.samples]
    assert len(series) == len(set(series))
