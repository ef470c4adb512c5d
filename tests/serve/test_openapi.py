"""The server against its own description: requests made from /openapi.json, answers checked against it."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from opau_onnx.serve.http.openapi import description
from tests.serve import nets
from tests.serve.conftest import Run, Running

SCHEMA = schemathesis.openapi.from_dict(description())
OPERATIONS = {f"{found.ok().method.upper()} {found.ok().path}": found.ok() for found in SCHEMA.get_all_operations()}
CHECKS = [response_schema_conformance, content_type_conformance, status_code_conformance]


@pytest.fixture(scope="module")
def server(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder: Path = tmp_path_factory.mktemp("models")
    asleep = {"path": nets.fixed(folder / "asleep.onnx"), "load": False}
    return running({"linear": nets.linear(folder / "linear.onnx"), "asleep": asleep})


def test_the_server_tells_its_description(server: Run) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port)
    connection.request("GET", "/openapi.json")
    assert json.loads(connection.getresponse().read()) == description()
    connection.close()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_described_is_what_is_answered(operation: str, server: Run) -> None:
    statuses = set()

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(OPERATIONS[operation].as_strategy(), st.booleans())
    def examples(case: schemathesis.Case, known: bool) -> None:
        if known and "model" in (case.path_parameters or {}):
            case.path_parameters["model"] = "linear"
        response = case.call(base_url=f"http://{server.http}")
        case.validate_response(response, checks=CHECKS)
        statuses.add(response.status_code)

    examples()
    assert statuses <= {200, 400, 404, 405, 413, 503}
    assert server.service.ready or "unload" in operation
