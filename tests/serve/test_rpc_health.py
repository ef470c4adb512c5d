"""gRPC's health protocol, by the published client classes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.serve import nets
from tests.serve.conftest import Running

SERVICE = "inference.GRPCInferenceService"
Request, Status = health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse


def health(channel: Any) -> Any:
    return health_pb2_grpc.HealthStub(channel)  # type: ignore[no-untyped-call]


def test_check_needs_no_token_and_knows_two_names(running: Running, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret")
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, token_file=str(tmp_path / "token"))
    with grpc.insecure_channel(server.grpc) as channel:
        for name in ("", SERVICE):
            assert health(channel).Check(Request(service=name), timeout=20).status == Status.SERVING
        with pytest.raises(grpc.RpcError, match="unknown service 'm'") as found:
            health(channel).Check(Request(service="m"), timeout=20)
        assert found.value.code() == grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
        call = channel.unary_unary("/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.RpcError) as found:
            call(b"\xff", timeout=20)
        assert found.value.code() == grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
    server.stop()


def test_check_follows_readiness(running: Running, tmp_path: Path) -> None:
    server = running({"m": nets.linear(tmp_path / "m.onnx")})
    with grpc.insecure_channel(server.grpc) as channel:
        server.service.draining = True
        assert health(channel).Check(Request(), timeout=20).status == Status.NOT_SERVING
        server.service.draining = False
        assert health(channel).Check(Request(), timeout=20).status == Status.SERVING
    server.stop()


def test_watch_tells_changes_and_the_end(running: Running, tmp_path: Path) -> None:
    """It holds up no stop: a watch lasts as long as its client likes."""
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, drain_timeout_s=30.0)
    with grpc.insecure_channel(server.grpc) as channel:
        watch, unknown = (health(channel).Watch(Request(service=name)) for name in (SERVICE, "none"))
        assert next(watch).status == Status.SERVING
        assert next(unknown).status == Status.SERVICE_UNKNOWN
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert [one.status for one in watch] == [Status.NOT_SERVING]
        stopping.join(10)
        assert not stopping.is_alive()
