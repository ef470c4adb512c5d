"""``opau-serve --engine ray``: two replicas on a Ray cluster of their own, driven over both protocols, killed and stopped."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.serve import nets

pytestmark = [
    pytest.mark.xdist_group("ray"),  # with --dist loadgroup, one worker runs all of them on one cluster
    pytest.mark.skipif(sys.platform != "linux", reason="Ray brings HAProxy for Linux only"),
]
TOKEN = "not-much-of-a-secret"
BEARER = {"authorization": f"Bearer {TOKEN}"}
LARGEST_REQUEST = 2**20
PORTS = {
    "http": "",
    "grpc": "",
    "stats": "RAY_SERVE_HAPROXY_STATS_PORT",
    "metrics": "RAY_SERVE_HAPROXY_METRICS_PORT",
    "own_http": "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "own_grpc": "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
}
"""Of the proxies, with the variables that set them: HAProxy's for the protocols, and Ray's own behind it."""
WAIT_S = 150.0


class Cluster:
    """The command in a process; its lines go to a file."""

    def __init__(self, folder: Path, temporary: str) -> None:
        self._temporary = temporary
        self.models = {"linear": nets.linear(folder / "linear.onnx"), "gather": nets.gather(folder / "gather.onnx")}
        self.models["slow"] = nets.slow(folder / "slow.onnx")
        self._token, self._log = folder / "token", folder / "log"
        self._token.write_text(TOKEN)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        variables = {variable: str(self.ports[name]) for name, variable in PORTS.items() if variable}
        # Otherwise a token is written into the user's home, and logs stay in /tmp/ray.
        environment = {**os.environ, **variables, "RAY_AUTH_TOKEN": uuid.uuid4().hex, "RAY_TMPDIR": self._temporary}
        environment.pop("RAY_ADDRESS", None)
        options = ["--engine", "ray", "--replicas", "2", "--token-file", self._token, "--max-batch-size", "4"]
        listen = ["--http-port", str(self.ports["http"]), "--grpc-port", str(self.ports["grpc"])]
        limits = ["--max-request-bytes", str(LARGEST_REQUEST)]
        command = [sys.executable, "-m", "opau_onnx.cli.serve", *self.models.values(), *options, *listen, *limits]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, process_group=0)
        self.wait(lambda: "engine=ray" in self.log and len(self.pids()) == 2)

    def wait(self, condition: Callable[[], Any]) -> None:
        """Until it is true, or much too long."""
        until = time.monotonic() + WAIT_S
        while not condition():
            assert self._process is not None
            assert self._process.poll() is None, f"opau-serve ended:\n{self.log}"
            assert time.monotonic() < until, f"that took too long:\n{self.log}"
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def pids(self) -> set[int]:
        """Of all replicas that have told that their models are ready."""
        return {int(pid) for pid in re.findall(r"ServeReplica:opau:OpauServe pid=(\d+)\).*model ready", self.log)}

    def stop(self) -> int:
        """SIGTERM to the whole group, as ``timeout`` does it; the exit code."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        return self._process.wait(60)

    def get(self, path: str, port: str = "http") -> str:
        asked = urllib.request.Request(f"http://127.0.0.1:{self.ports[port]}{path}", headers=BEARER)
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return str(answer.read().decode())

    def client(self, protocol: Any, own: str = "") -> Any:
        """Of tritonclient; ``own="own_"``: through Ray's own proxy."""
        name = "http" if protocol is triton_http else "grpc"
        return protocol.InferenceServerClient(f"127.0.0.1:{self.ports[own + name]}")

    def replicas(self) -> set[str]:
        """Those that answer."""
        found = set()
        for _ in range(20):
            with suppress(OSError):
                found.add(json.loads(self.get("/v2/models/linear"))["parameters"]["replica"])
        return found


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as short:  # names of sockets must not be long
        made = Cluster(tmp_path_factory.mktemp("ray"), short)
        yield made
        made.stop()


@pytest.fixture
def cluster(command: Cluster) -> Cluster:
    command.start()
    return command


@pytest.fixture(params=[triton_http, triton_grpc], ids=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> Any:
    return request.param


def infer(protocol: Any, client: Any, model: str, array: np.ndarray, datatype: str = "FP32") -> np.ndarray:
    tensor = protocol.InferInput("i" if model == "gather" else "x", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    # A copy: tritonclient writes into it.
    return client.infer(model, [tensor], headers=dict(BEARER)).as_numpy("y")


def descendants(root: int) -> set[int]:
    """A process and those that it has started, directly or not."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
    found, before = {root}, 0
    while len(found) > before:
        before = len(found)
        found |= {pid for pid, parent in parents.items() if parent in found}
    return found


def listening(root: int) -> dict[int, bool]:
    """Ports that a process and those that it has started listen on, and whether on every interface."""
    rows = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A":
                address, port = local.split(":")
                rows[f"socket:[{inode}]"] = int(port, 16), not address.strip("0")
    found: dict[int, bool] = {}
    for pid in descendants(root):
        with suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError, KeyError):
                    port, everywhere = rows[str(descriptor.readlink())]
                    found[port] = everywhere
    return found


def test_ports_on_every_interface_are_told(cluster: Cluster) -> None:
    found = listening(cluster.pid)
    assert {cluster.ports["http"], cluster.ports["grpc"]} <= found.keys()
    (line,) = [one for one in cluster.log.splitlines() if "listens on every interface" in one]
    told = {cluster.ports[name] for name in ("stats", "metrics", "own_grpc")}
    assert all(str(port) in line for port in told)
    assert 'replicas_grpc="40000 and up"' in line
    others = {port for port, everywhere in found.items() if everywhere} - told
    replicas = {port for port in others if 40000 <= port < 41000}
    assert len(others - replicas) == len(cluster.replicas())  # the internal one of each
    assert all(not everywhere for port, everywhere in found.items() if 30000 <= port < 31000)


def test_the_proxy_is_haproxy(cluster: Cluster) -> None:
    """And it sends requests to both replicas, for both protocols."""

    def servers(protocol: str) -> int:
        rows = csv.DictReader(cluster.get("/stats;csv", "stats").removeprefix("# ").splitlines())
        replicas = [row for row in rows if row["pxname"] == f"{protocol}-opau" and row["svname"].startswith("SERVE_REPLICA")]
        return sum(row["status"].startswith("UP") for row in replicas)

    assert "proxy=HAProxy" in cluster.log
    cluster.wait(lambda: servers("http") == servers("grpc") == 2)
    cluster.wait(lambda: len(cluster.replicas()) == 2)


@pytest.mark.parametrize("own", ["", "own_"], ids=["haproxy", "own"])
def test_the_answers_are_those_of_onnxruntime(cluster: Cluster, protocol: Any, own: str) -> None:
    """Through HAProxy, and through Ray's own proxy, on which HAProxy falls back while replicas are being replaced."""
    client = cluster.client(protocol, own)
    assert client.is_server_live()
    assert client.is_server_ready()
    local = onnxruntime.InferenceSession(cluster.models["linear"])
    generator = np.random.default_rng(0)
    for rows in (1, 3, 11):
        x = generator.standard_normal((rows, 4), dtype=np.float32)
        np.testing.assert_array_equal(infer(protocol, client, "linear", x), local.run(None, {"x": x})[0])
    indices = np.array([3, 0])
    np.testing.assert_array_equal(infer(protocol, client, "gather", indices, "INT64"), [[6, 7], [0, 1]])


@pytest.mark.parametrize("own", ["", "own_"], ids=["haproxy", "own"])
def test_errors_keep_their_status(cluster: Cluster, protocol: Any, own: str) -> None:
    client = cluster.client(protocol, own)
    x, wide = np.zeros((1, 4), np.float32), np.zeros((1, 3), np.float32)
    large = np.zeros((LARGEST_REQUEST // 16 + 1, 4), np.float32)
    cases: list[tuple[str, np.ndarray, str, str, str]] = [
        ("nothing", x, "404", "StatusCode.NOT_FOUND", "unknown model 'nothing'"),
        ("linear", wide, "400", "StatusCode.INVALID_ARGUMENT", "expected \\[-1, 4\\]"),
        ("linear", large, "413", "StatusCode.RESOURCE_EXHAUSTED", "this server takes"),
        ("gather", np.array([99]), "500", "StatusCode.INTERNAL", "could not be run on this input"),
    ]
    for model, array, http, grpc, message in cases:
        with pytest.raises(InferenceServerException, match=message) as caught:
            infer(protocol, client, model, array, "INT64" if model == "gather" else "FP32")
        assert caught.value.status() == (http if protocol is triton_http else grpc)
    tensor = protocol.InferInput("x", [1, 4], "FP32")
    tensor.set_data_from_numpy(x)
    with pytest.raises(InferenceServerException, match="Bearer TOKEN") as caught:
        client.infer("linear", [tensor])
    assert caught.value.status() == ("401" if protocol is triton_http else "StatusCode.UNAUTHENTICATED")


def test_models_are_not_loaded_on_one_replica_alone(cluster: Cluster, protocol: Any) -> None:
    client = cluster.client(protocol)
    for change in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="serve deploy") as caught:
            change("linear", headers=BEARER)
        assert caught.value.status() == ("501" if protocol is triton_http else "StatusCode.UNIMPLEMENTED")
        with pytest.raises(InferenceServerException, match="unknown model 'nothing'"):
            change("nothing", headers=BEARER)
    assert client.is_model_ready("linear", headers=BEARER)


def test_streams(cluster: Cluster) -> None:
    """Answers come in the order of the requests, errors in their places."""
    answers: list[Any] = []
    done = threading.Event()

    def take(result: Any, error: Any) -> None:
        answers.append(error.message() if error else result.as_numpy("y"))
        if len(answers) == 6:
            done.set()

    client = cluster.client(triton_grpc)
    client.start_stream(take, headers=BEARER)
    for number in range(6):
        tensor = triton_grpc.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.full((1, 4), number, np.float32))
        client.async_stream_infer("nothing" if number == 2 else "linear", [tensor])
    assert done.wait(30)
    client.stop_stream()
    assert "unknown model 'nothing'" in answers.pop(2)
    np.testing.assert_array_equal(np.concatenate(answers)[:, 0], [1, 3, 7, 9, 11])


def test_metrics_tell_the_replica(cluster: Cluster) -> None:
    """Each scrape through the proxy is of one replica; its series are not taken for those of another."""
    text = cluster.get("/metrics")
    found = re.search(r'^opau_model_ready\{model="linear",replica="(\w+)"\} 1.0$', text, re.MULTILINE)
    assert found is not None
    assert found[1] in cluster.replicas()
    assert all("replica=" in line for line in text.splitlines() if line and not line.startswith("#"))


class Load(threading.Thread):
    """A client that sends rows of its own and compares the responses."""

    def __init__(self, cluster: Cluster, protocol: Any, number: int, model: str = "linear") -> None:
        super().__init__(daemon=True)
        self._cluster, self._protocol, self._model = cluster, protocol, model
        self._generator = np.random.default_rng(number)
        self.answered = self.wrong = 0
        self.errors: list[str] = []
        self.ending = threading.Event()

    def run(self) -> None:
        client = self._cluster.client(self._protocol)  # over HTTP it belongs to the thread that made it
        while not self.ending.is_set():
            shape = (int(self._generator.integers(1, 6)), 4) if self._model == "linear" else (1, 400, 4)
            x = self._generator.standard_normal(shape, dtype=np.float32)
            try:
                y = infer(self._protocol, client, self._model, x)
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                time.sleep(0.01)
            else:
                self.answered += 1
                expected = 2 * x + 1 if self._model == "linear" else x
                self.wrong += not np.allclose(y, expected, atol=1e-5)


@contextmanager
def load(cluster: Cluster, model: str, clients: int, answers: int) -> Iterator[list[Load]]:
    """Clients of both protocols; once each of them has so many answers, the test goes on."""
    made = [Load(cluster, (triton_http, triton_grpc)[number % 2], number, model) for number in range(clients)]
    for client in made:
        client.start()
    try:
        cluster.wait(lambda: all(client.answered > answers for client in made))
        yield made
    finally:
        for client in made:
            client.ending.set()
        for client in made:
            client.join(60)


def test_a_replica_is_killed_under_load(cluster: Cluster, record_property: Callable[[str, object], None]) -> None:
    """At most what it had at that moment is lost, and a new replica takes its place."""
    with load(cluster, "linear", 8, 20) as clients:
        before = cluster.replicas()
        os.kill(min(cluster.pids()), signal.SIGKILL)
        at_once = [client.answered for client in clients]
        cluster.wait(lambda: all(client.answered > count + 50 for client, count in zip(clients, at_once, strict=True)))
        cluster.wait(lambda: len(cluster.pids()) == 3 and len(cluster.replicas() - before) == 1)
    errors = [error for client in clients for error in client.errors]
    record_property("requests that failed", f"{len(errors)} of {sum(client.answered for client in clients)}")
    assert sum(client.wrong for client in clients) == 0
    assert len(errors) <= len(clients), errors
    assert len(cluster.replicas() - before) == 1


def test_sigterm_loses_no_accepted_request(cluster: Cluster) -> None:
    with load(cluster, "slow", 4, 2) as clients:
        assert cluster.stop() == 0, cluster.log
    assert sum(client.wrong for client in clients) == 0
    for client in clients:  # new requests are refused: the application is gone; in the end nobody listens
        assert re.search("404|NOT_FOUND", client.errors[0]), client.errors[0]
    for name in ("http", "grpc"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", cluster.ports[name]), 5)
