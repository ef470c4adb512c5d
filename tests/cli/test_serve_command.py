"""``opau-serve`` as a process: what it says, how it starts, how it ends."""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from typer.testing import CliRunner

from opau_onnx.cli.serve import app
from tests.serve import nets

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}).encode()


def command(*arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "opau_onnx.cli.serve", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, **options)


class Process:
    """A server's process and the lines it wrote."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(process.stderr or ()), daemon=True)
        self.reader.start()

    def ports(self) -> dict[str, int]:
        until = time.monotonic() + 90
        while time.monotonic() < until and self.process.poll() is None:
            said = [json.loads(line) for line in self.lines if '"listening"' in line]
            if len(said) == 2:
                return {line["protocol"]: line["port"] for line in said}
            time.sleep(0.02)
        raise AssertionError(f"the server did not start: {self.lines}")

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(60)
        self.reader.join(10)
        return code


@contextmanager
def started(*arguments: Any) -> Iterator[Process]:
    line = [sys.executable, "-m", "opau_onnx.cli.serve", *map(str, arguments)]
    line += ["--http-port", "0", "--grpc-port", "0", "--log-format", "json"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        found = Process(process)
        try:
            yield found
        finally:
            process.kill()


def ask(port: int, method: str = "GET", path: str = "/v2/health/ready", body: bytes | None = None, **context: Any) -> Any:
    made = http.client.HTTPSConnection if context else http.client.HTTPConnection
    connection = made("127.0.0.1", port, timeout=30, **context)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def test_help_is_light() -> None:
    code = (
        "import sys; sys.argv = ['opau-serve', '--help']\n"
        "from opau_onnx.cli.serve import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'onnxruntime', 'numpy', 'uvicorn', 'grpc', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.rstrip().endswith("[]")
    assert "--max-batch-delay-us" in done.stdout


def test_usage_errors(tmp_path: Path) -> None:
    model = nets.linear(tmp_path / "m.onnx")
    (tmp_path / "other").mkdir()
    twin = nets.linear(tmp_path / "other" / "m.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    (tmp_path / "bad name.onnx").write_bytes(model.read_bytes())
    (tmp_path / "a.toml").write_text("[server]\nhttp_prot = 1\n")
    (tmp_path / "b.toml").write_text("[server\n")
    fixed = nets.fixed(tmp_path / "fixed.onnx")
    free = ["--http-port", "0", "--grpc-port", "0"]
    cases: list[tuple[list[Any], str]] = [
        ([], "no model to serve"),
        ([tmp_path / "nobody.onnx", *free], "nobody.onnx cannot be read: No such file"),
        ([tmp_path / "broken.onnx", *free], "broken.onnx: this is not an ONNX model"),
        ([tmp_path / "bad name.onnx"], "'bad name' cannot name a model"),
        ([model, twin], "two models are called 'm'"),
        ([fixed, "--max-batch-size", "8", *free], "the first axis of x"),
        ([model, "--device", "tpu"], "device"),
        ([model, "--device", "cuda", *free], "CUDA"),
        ([model, "--http-port", "70000"], "http_port"),
        ([model, "--library", "/nowhere.so", *free], "no .* node|no library"),
        ([model, "--tls-cert", "x.pem"], "both tls_cert and tls_key"),
        ([model, "--token-file", tmp_path / "nothing", *free], "token file"),
        ([model, "--replicas", "2"], "needs --engine ray"),
        ([model, "--engine", "slurm"], "expected local or ray"),
        ([model, "--cuda-graph", *free], "cuda_graph"),
        (["--config", tmp_path / "a.toml"], "http_prot"),
        (["--config", tmp_path / "b.toml"], "not TOML"),
        (["--config", tmp_path / "c.toml"], "cannot be read"),
    ]
    for arguments, message in cases:
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == 2, (arguments, done.output)
        assert re.search(message, done.output), (arguments, done.output)
        assert "Traceback" not in done.output


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    model = nets.linear(tmp_path / "m.onnx")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flags in (["--http-port", port, "--grpc-port", 0], ["--http-port", 0, "--grpc-port", port]):
            done = command(model, *flags)
            assert done.returncode == 2
            assert str(port) in done.stderr
            assert "Traceback" not in done.stderr


def test_from_start_to_end(tmp_path: Path) -> None:
    with started(nets.linear(tmp_path / "m.onnx"), "--max-batch-size", 16, "--library", "no") as server:
        ports = server.ports()
        assert ask(ports["http"]) == (200, {"ready": True})
        assert ask(ports["http"], "POST", "/v2/models/m/infer", BODY)[1]["outputs"][0]["data"] == [3, 5, 7, 9]
        x = triton_grpc.InferInput("x", [1, 4], "FP32")
        x.set_data_from_numpy(np.ones((1, 4), np.float32))
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{ports['grpc']}") as client:
            assert client.infer("m", [x]).as_numpy("y").tolist() == [[3, 3, 3, 3]]
        assert server.end() == 0
    said = [json.loads(line) for line in server.lines]
    ready = next(line for line in said if line["event"] == "model ready")
    assert (ready["provider"], ready["implementation"], ready["max_batch_size"]) == ("CPUExecutionProvider", "none", 16)
    assert said[-1]["event"] == "stopped"


def test_it_listens_on_this_machine_only(tmp_path: Path) -> None:
    with started(nets.linear(tmp_path / "m.onnx")) as server:
        ports = server.ports()
        tables = [Path(f"/proc/{server.process.pid}/net/{table}").read_text() for table in ("tcp", "tcp6")]
        listening = [line.split()[1] for table in tables for line in table.splitlines() if " 0A " in line]
        for port in ports.values():
            assert [address for address in listening if address.endswith(f":{port:04X}")] in (
                [f"0100007F:{port:04X}"],
                [f"0000000000000000FFFF00000100007F:{port:04X}"],  # the same address, as IPv6 writes it
            )


def test_a_configuration_file(tmp_path: Path) -> None:
    nets.linear(tmp_path / "m.onnx", slope=5)
    nets.pair(tmp_path / "p.onnx")
    (tmp_path / "serve.toml").write_text(
        '[server]\nrequest_timeout_s = 5\n[models.five]\npath = "m.onnx"\nmax_batch_size = 4\nversion = "2026"\n'
        '[models.pair]\npath = "p.onnx"\ninput_shapes = { b = [1, 3] }\nload = false\n'
    )
    with started("--config", tmp_path / "serve.toml") as server:
        port = server.ports()["http"]
        assert ask(port, "POST", "/v2/models/five/versions/2026/infer", BODY)[1]["outputs"][0]["data"] == [6, 11, 16, 21]
        assert ask(port, "GET", "/v2/models/five")[1]["parameters"]["max_batch_size"] == 4
        index = {m["name"]: m["state"] for m in ask(port, "POST", "/v2/repository/index")[1]}
        assert index == {"five": "READY", "pair": "UNAVAILABLE"}


def test_sigterm_under_load_loses_nothing(tmp_path: Path) -> None:
    """Clients over HTTP and gRPC that ask again and again: what the server accepted is answered."""
    model = nets.slow(tmp_path / "slow.onnx", 300)
    values = np.random.default_rng(0).standard_normal((1, 400, 4)).astype(np.float32)
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 400, 4], "datatype": "FP32", "data": values.ravel().tolist()}]})
    problems: list[Any] = []
    answered = {"http": 0, "grpc": 0}

    def over_http(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        closing = False
        try:
            while not closing:
                connection.request("POST", "/v2/models/slow/infer", body)
                answer = connection.getresponse()
                data = json.loads(answer.read())["outputs"][0]["data"]
                np.testing.assert_allclose(data, values.ravel(), rtol=1e-5)
                answered["http"] += 1
                closing = answer.getheader("connection") == "close"
        except Exception as error:
            problems.append(error)
        finally:
            connection.close()

    def over_grpc(port: int) -> None:
        x = triton_grpc.InferInput("x", [1, 400, 4], "FP32")
        x.set_data_from_numpy(values)
        with triton_grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            while True:
                try:
                    result = client.infer("slow", [x])
                except triton_grpc.InferenceServerException as error:
                    if "UNAVAILABLE" not in str(error.status()):  # refused, which is not lost
                        problems.append(error)
                    return
                np.testing.assert_allclose(result.as_numpy("y"), values, rtol=1e-5)
                answered["grpc"] += 1

    with started(model, "--max-batch-size", 4) as server:
        ports = server.ports()
        threads = [threading.Thread(target=over_http, args=(ports["http"],)) for _ in range(8)]
        threads += [threading.Thread(target=over_grpc, args=(ports["grpc"],)) for _ in range(8)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 30
        while min(answered.values()) < 10 and time.monotonic() < until:
            time.sleep(0.05)
        assert server.end() == 0
        for thread in threads:
            thread.join(30)
    assert problems == []
    assert min(answered.values()) >= 10


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1, signed by itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "opau test")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1)).add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    cert, private = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert, private


def test_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    with started(nets.linear(tmp_path / "m.onnx"), "--tls-cert", cert, "--tls-key", key) as server:
        ports = server.ports()
        context = ssl.create_default_context(cafile=str(cert))
        assert ask(ports["http"], "POST", "/v2/models/m/infer", BODY, context=context)[1]["outputs"][0]["data"] == [3, 5, 7, 9]
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(ports["http"], context=ssl.create_default_context())
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(ports["http"])
        assert server.end() == 0


def test_sigint_ends_it_too(tmp_path: Path) -> None:
    with started(nets.linear(tmp_path / "m.onnx")) as server:
        server.ports()
        assert server.end(signal.SIGINT) == 0


def test_nothing_is_left_when_it_is_stopped_while_it_loads(tmp_path: Path) -> None:
    with started(nets.slow(tmp_path / "slow.onnx", 1500)) as server:
        until = time.monotonic() + 60
        while not any("no CUDA" in line for line in server.lines) and time.monotonic() < until:
            time.sleep(0.005)
        assert server.end() == 0
    assert not any("Traceback" in line for line in server.lines)
