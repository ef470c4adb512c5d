"""The server on Ray without a cluster: its arguments, what a replica makes of them, its health, its gRPC calls."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from opau_onnx.errors import DeviceError, LoadError
from opau_onnx.protocol.errors import RunError, UnavailableError
from opau_onnx.serve.config import ServerSettings, Settings, check
from opau_onnx.serve.ray import engine
from opau_onnx.serve.ray.calls import Calls
from opau_onnx.serve.ray.cluster import connected
from opau_onnx.serve.ray.replica import Health, OneOfManyError, ReplicaService
from opau_onnx.serve.ray.settings import arguments, deployment_options, on_replica
from opau_onnx.serve.ray.signals import Signals
from opau_onnx.serve.rpc.control import Control
from opau_onnx.serve.rpc.gate import Gate
from opau_onnx.serve.rpc.infer import Infer
from opau_onnx.serve.rpc.methods import SERVICE, Methods
from opau_onnx.serve.security import Access
from opau_onnx.serve.service import Request
from tests.serve import nets

MODELS = {"a": "/models/a.onnx"}


def test_the_command_line_gives_strings() -> None:
    """As ``serve run`` hands them over."""
    found = arguments(
        {
            "models": '{"a": "/models/a.onnx", "b": {"path": "b.onnx", "max_batch_size": 8}}', "max_batch_size": "16",
            "batch_check": "false", "buckets": "[1, 16]", "input_shapes": '{"x": [1, 3]}', "request_timeout_s": "2.5",
            "replicas": "2", "num_gpus": "0.5",
        }
    )  # fmt: skip
    a, b = found.settings.models["a"], found.settings.models["b"]
    assert (a.max_batch_size, a.batch_check, a.buckets, a.input_shapes) == (16, False, (1, 16), {"x": (1, 3)})
    assert b.max_batch_size == 8, "a model's own table wins"
    assert b.path == str(Path("b.onnx").absolute()), "replicas run in other folders"
    assert found.settings.server.request_timeout_s == 2.5
    assert (found.ray.replicas, found.ray.num_gpus) == (2, 0.5)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({}, "models is missing"),
        ({"models": {}}, "models is missing"),
        ({"models": "a.onnx"}, "models is missing or no table"),
        ({"models": '{"a": '}, "not JSON"),
        ({"models": {"a": 3}}, "expected the path"),
        ({"models": {"a": {"max_batch_size": 3}}}, "expected the path"),
        ({"models": {"../a": "a.onnx"}}, "cannot name a model"),
        ({"models": {"a": {"path": "a.onnx", "sice": 3}}}, "unknown field `sice`"),
        ({"models": {"a": {"path": "a.onnx", "load": False}}}, "load no model later"),
        (
            {"models": MODELS, "max_batchsize": 3},
            "unknown argument 'max_batchsize'; expected models, or admin_token_file, ",
        ),
        ({"models": MODELS, "path": "a.onnx"}, "unknown argument 'path'"),
        ({"models": MODELS, "max_batch_size": "many"}, "Expected `int"),
        ({"models": MODELS, "http_port": 8000}, "Ray's proxies listen"),
        ({"models": MODELS, "tls_cert": "c.pem"}, "Ray's proxies listen"),
        ({"models": MODELS, "replicas": 2, "max_replicas": 3}, "exclude each other"),
        ({"models": MODELS, "min_replicas": 2}, "give max_replicas too"),
        ({"models": MODELS, "min_replicas": 4, "max_replicas": 3}, "more than max_replicas"),
        ({"models": MODELS, "max_replicas": 3, "target_ongoing_requests": 0}, "more than 0"),
        ({"models": MODELS, "num_cpus": -1}, "must not be negative"),
        ({"models": MODELS, "num_gpus": 1.5}, "whole GPUs"),
    ],
)
def test_wrong_arguments_are_named(args: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        arguments(args)


def test_the_queues_decide_and_not_ray() -> None:
    """Ray lets in what the queues hold and the batches run, refuses with 429 beyond, and ends replicas in time."""
    models = {"a": "a.onnx", "b": {"path": "b.onnx", "max_queue": 10, "max_batch_size": 0}}
    options = deployment_options(arguments({"models": models, "drain_timeout_s": 7.0, "replicas": 3}))
    assert options["max_ongoing_requests"] == 1024 + 32 + 10 + 1
    assert options["backpressure_config"]["status_code"] == 429
    assert options["graceful_shutdown_timeout_s"] == 7.0
    assert options["num_replicas"] == 3
    assert deployment_options(arguments({"models": models, "max_ongoing_requests": 5}))["max_ongoing_requests"] == 5


def test_scaling_aims_at_a_full_batch() -> None:
    options = deployment_options(arguments({"models": MODELS, "max_batch_size": 8, "max_replicas": 4, "num_gpus": 1}))
    expected = {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8}
    assert options["autoscaling_config"] == expected
    assert "num_replicas" not in options
    assert options["ray_actor_options"] == {"num_cpus": 1.0, "num_gpus": 1.0}


def test_a_replica_takes_what_is_reserved_for_it() -> None:
    """Not the machine's other cores, and no GPU that is another's."""
    given = check({"models": {"a": {"path": "a"}, "b": {"path": "b", "instances": 5}, "c": {"path": "c", "threads": 2}}})
    found = on_replica(given, 4.0, 0).models
    assert [found[name].instances for name in "abc"] == [4, 5, 2]
    assert {model.device for model in found.values()} == {"cpu"}
    assert on_replica(given, 0.5, 0).models["a"].instances == 1
    assert on_replica(given, 4.0, 1) == given
    with pytest.raises(DeviceError, match="set num_gpus"):
        on_replica(check({"models": {"a": {"path": "a", "device": "cuda"}}}), 1.0, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tls_cert": "c.pem", "tls_key": "k.pem"}, "TLS is not possible with --engine ray"),
        ({"http_port": 0}, "--http-port is 0"),
        ({"http_port": -1}, "--http-port is -1"),
        ({"grpc_port": 0}, "--grpc-port is 0"),
        ({"token_file": "/nowhere/token"}, "token file /nowhere/token cannot be read"),
        ({"host": "203.0.113.1"}, "cannot listen on 203.0.113.1"),
    ],
)
def test_what_ray_cannot_honour_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        engine.check(ServerSettings(**settings), probe=True)


def test_a_taken_port_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LoadError, match=f"port {port}: .*choose another with --grpc-port"):
            engine.check(ServerSettings(http_port=free_port(), grpc_port=port), probe=True)
        engine.check(ServerSettings(http_port=port), probe=False)  # on another cluster's machines


def test_a_cluster_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(LoadError, match=r"no Ray cluster answers at RAY_ADDRESS=127.0.0.1:\d+: Connection refused"):
        connected(Signals(), joined=True).__enter__()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_the_replicas_share_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "usable_cores", lambda: 4)

    def shares(device: str, replicas: int, gpus: int, *, joined: bool = False) -> tuple[float, float]:
        settings = check({"models": {"a": {"path": "a", "device": device}}, "server": {"drain_timeout_s": 3.0}})
        found = engine.shared_out(settings, replicas, {"CPU": 4.0, "GPU": float(gpus)}, joined=joined)
        assert found.settings.server.drain_timeout_s == 3.0
        return found.ray.num_cpus, found.ray.num_gpus

    assert shares("auto", 2, 0) == (2.0, 0.0)
    assert shares("auto", 3, 0) == (1.0, 0.0)
    assert shares("auto", 8, 0) == (0.5, 0.0)
    assert shares("auto", 2, 1) == (2.0, 0.5)
    assert shares("cuda", 3, 2) == (1.0, 0.5)
    assert shares("cuda", 1, 8) == (4.0, 1.0)
    assert shares("cpu", 2, 1) == (2.0, 0.0)
    assert shares("cuda", 2, 1, joined=True) == (1.0, 1.0)
    with pytest.raises(DeviceError, match="no GPU"):
        shares("cuda", 1, 0)


def test_importing_loads_no_ray() -> None:
    """Ray reads its environment when it is imported, so ours has to be set before."""
    program = "import sys, opau_onnx.serve.ray; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def service(**models: Path) -> ReplicaService:
    return ReplicaService(check({"models": {name: {"path": str(path)} for name, path in models.items()}}), {"replica": "r1"})


async def ask(found: ReplicaService, model: str, **inputs: Any) -> Any:
    arrays = {name: np.asarray(array) for name, array in inputs.items()}
    return await found.infer(Request(model, "", arrays, None, None, time.perf_counter_ns()))


def test_a_replica_says_which_it_is_and_loads_nothing_later(tmp_path: Path) -> None:
    async def run() -> None:
        found = service(a=nets.linear(tmp_path / "a.onnx"))
        await found.repository.load_all()
        assert found.repository.get("a").describe()["replica"] == "r1"
        for change in (found.repository.load, found.repository.unload):
            with pytest.raises(OneOfManyError, match="deploy anew"):
                await change("a")
        await found.shut_down()

    asyncio.run(run())


def test_only_a_model_that_fails_on_good_inputs_is_unhealthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that send what it cannot take do not end replicas."""

    def broken(inputs: Any) -> Any:
        raise RuntimeError("CUDA failure 700: an illegal memory access was encountered")

    async def run() -> None:
        found = service(gather=nets.gather(tmp_path / "gather.onnx"))
        health = Health(found.repository)
        with pytest.raises(UnavailableError, match="not loaded"):
            await health.check()
        await found.repository.load_all()
        for _ in range(2):
            with pytest.raises(RunError):
                await ask(found, "gather", i=[99])
            await health.check()
        with monkeypatch.context() as patch:
            patch.setattr(found.repository.get("gather").prepared.runners[0], "run", broken)
            await health.check()  # nobody has asked it since
            with pytest.raises(RunError):
                await ask(found, "gather", i=[1])
            for _ in range(3):  # until Ray replaces it
                with pytest.raises(RunError, match="CUDA failure 700"):
                    await health.check()
        await health.check()
        await ask(found, "gather", i=[1])
        await health.check()
        await found.shut_down()

    asyncio.run(run())


class RayContext:
    """What our calls use of Ray's ``RayServegRPCContext``."""

    def __init__(self, **metadata: str) -> None:
        self.metadata = list(metadata.items())
        self.code: Any = None
        self.details = ""
        self.trailing: Any = None

    def invocation_metadata(self) -> Any:
        return self.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailing = metadata


def calls(found: ReplicaService, limit: int = 1000) -> Calls:
    gate = Gate()
    return Calls(Methods(gate, Infer(found, gate), Control(found), Access(found.settings.server)), limit)


def request(model: str = "a") -> bytes:
    made = pb.ModelInferRequest(model_name=model, raw_input_contents=[np.ones(4, np.float32).tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    return made.SerializeToString()


def test_calls_end_with_a_status_instead_of_an_exception(tmp_path: Path) -> None:
    async def run() -> None:
        found = service(a=nets.linear(tmp_path / "a.onnx"))
        await found.repository.load_all()
        answering = calls(found)
        infer, ready, trace = (SERVICE.methods_by_name[name] for name in ("ModelInfer", "ModelReady", "TraceSetting"))

        context = RayContext()
        answer = await answering.unary(infer, request(), context)
        np.testing.assert_array_equal(np.frombuffer(answer.raw_output_contents[0], np.float32), [3, 3, 3, 3])
        assert context.code is None

        await answering.unary(ready, pb.ModelReadyRequest(name="a").SerializeToString(), context := RayContext())
        assert ("opau-provider", "CPUExecutionProvider") in context.trailing

        cases: list[tuple[Any, Any, str, str]] = [
            (infer, request("b"), "NOT_FOUND", "unknown model 'b'"),
            (infer, b"\xff", "INVALID_ARGUMENT", "inference.ModelInferRequest"),
            (infer, bytes(1001), "RESOURCE_EXHAUSTED", "1001 bytes; this server takes 1000"),
            (trace, b"", "UNIMPLEMENTED", "TraceSetting is not served"),
            (infer, pb.ModelInferRequest(), "INTERNAL", "must be opau_onnx.serve.ray.add_servicer"),
        ]
        for method, message, code, details in cases:
            answer = await answering.unary(method, message, context := RayContext())
            assert answer == getattr(pb, method.output_type.name)()
            assert context.code is grpc.StatusCode[code]
            assert details in context.details
        await found.shut_down()

    asyncio.run(run())


def test_a_stream_ends_with_what_is_too_large(tmp_path: Path) -> None:
    async def messages() -> Any:
        yield request()
        yield bytes(1001)

    async def run() -> None:
        found = service(a=nets.linear(tmp_path / "a.onnx"))
        await found.repository.load_all()
        context = RayContext()
        stream = calls(found).stream(SERVICE.methods_by_name["ModelStreamInfer"], messages(), context)
        answers = [answer async for answer in stream]
        assert [answer.error_message for answer in answers] == [""]
        assert context.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        await found.shut_down()

    asyncio.run(run())


def test_a_stream_that_is_left_asks_for_nothing_more(tmp_path: Path) -> None:
    async def run() -> None:
        found = service(a=nets.linear(tmp_path / "a.onnx"))
        await found.repository.load_all()
        sent = 0

        async def messages() -> Any:
            nonlocal sent
            while True:
                sent += 1
                yield request()
                await asyncio.sleep(0)

        stream = calls(found).stream(SERVICE.methods_by_name["ModelStreamInfer"], messages(), RayContext())
        await anext(stream)
        await stream.aclose()
        await asyncio.sleep(0.01)
        before = sent
        await asyncio.sleep(0.05)
        assert sent == before
        await found.shut_down()

    asyncio.run(run())


def test_settings_survive_the_way_to_the_replica() -> None:
    """They travel as plain data."""
    import msgspec

    found = arguments({"models": MODELS, "input_shapes": {"x": [1, 3]}, "buckets": [1, 4]}).settings
    assert check(msgspec.to_builtins(found)) == found
    assert isinstance(found, Settings)
