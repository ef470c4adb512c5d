"""``opau-loadtest`` as a user types it: exit codes, what it prints and writes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from opau_onnx.cli.loadtest import app
from tests.loadtest.fakes import FakeGrpc, FakeHttp, threaded
from tests.loadtest.onnx_models import twice

QUICK = ("--requests", 40, "--warmup", 0, "--clients", 4, "--pool", 8)


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def once(act: str) -> Any:
    return lambda n: act if n == 30 else "correct"


def test_all_correct(tmp_path: Path) -> None:
    report = tmp_path / "found.json"
    with threaded(FakeHttp()) as server:
        done = run(server.url, "--model", "twice", *QUICK, "--rows", "1-4", "--report", report)
    assert done.exit_code == 0, done.output
    assert "fake 0, model twice version 1 (implementation kernel; provider FakeProvider)" in done.output
    assert "closed loop, 4 clients" in done.output
    assert "errors that it always makes are not detected" in done.output
    assert done.output.rstrip().endswith("all responses were correct")
    content = json.loads(report.read_text())
    assert content["format"] == "opau_onnx.loadtest/1"
    assert content["ok"] is True
    assert content["counts"] == {"correct": 40}
    assert content["requests"] == 40
    assert set(content["latency_ms"]) == {"mean", "p50", "p90", "p99", "p99.9", "max"}
    assert content["latency_ms"]["p50"] <= content["latency_ms"]["p99.9"] <= content["latency_ms"]["max"]
    assert content["model"]["parameters"]["implementation"] == "kernel"
    assert content["settings"]["rows"] == [1, 4]


def test_grpc_and_the_open_loop_with_a_file(tmp_path: Path) -> None:
    """In a process of its own: gRPC does not like event loops that come and go beside each other."""
    with threaded(FakeGrpc()) as server:
        command = [sys.executable, "-m", "opau_onnx.cli.loadtest", server.url, "--rate", "300", "--requests", "40"]
        more = ["--warmup", "0", "--expect", str(twice(tmp_path / "m.onnx")), "--arrivals", "uniform"]
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "open loop, 300 requests/s (uniform), at most 256 at once" in done.stdout
    assert "sent, since due" in done.stdout
    assert "m.onnx, run in onnxruntime here" in done.stdout


@pytest.mark.parametrize(
    ("act", "said"),
    [
        ("wrong", "incorrect: 1 (another response, or one that violates the protocol)\n  1 × request"),
        (
            "close",
            "connection lost: 1 (sent, but the connection ended before a complete response)\n  1 × connection closed without a",
        ),
        ("429", "rejected: 1 (HTTP 429 or RESOURCE_EXHAUSTED: the server is overloaded)\n  1 × you get 429"),
        ("500", "HTTP 500: 1\n  1 × you get 500"),
    ],
)
def test_errors(act: str, said: str, tmp_path: Path) -> None:
    report = tmp_path / "found.json"
    with threaded(FakeHttp(once(act))) as server:
        done = run(server.url, *QUICK, "--report", report)
    assert done.exit_code == 1, done.output
    assert said in done.output
    assert "NOT all responses were correct" in done.output
    assert json.loads(report.read_text())["ok"] is False


def test_interrupting_shows_what_was_measured(tmp_path: Path) -> None:
    report = tmp_path / "found.json"
    with threaded(FakeHttp()) as server:
        command = [sys.executable, "-m", "opau_onnx.cli.loadtest", server.url, "--seconds", "100", "--warmup", "0"]
        process = subprocess.Popen(
            [*command, "--report", str(report)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while server.seen < 500 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "stopped: interrupted" in output
    assert "all responses were correct" in output
    content = json.loads(report.read_text())
    assert content["stopped"] == "interrupted"
    assert content["counts"]["correct"] > 300


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("secret\nmore\n")
    monkeypatch.setenv("MY_TOKEN", "secret")
    report = tmp_path / "found.json"
    with threaded(FakeHttp(token="secret")) as server:
        for option in (("--token-file", tmp_path / "token"), ("--token-env", "MY_TOKEN")):
            done = run(server.url, *QUICK, *option, "--report", report)
            assert done.exit_code == 0, done.output
            assert "secret" not in done.output + report.read_text()
        done = run(server.url, *QUICK)
    assert done.exit_code == 2
    assert "requires a bearer token" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("http://127.0.0.1:1",), "http://127.0.0.1:1 cannot be reached"),
        (("127.0.0.1:8000",), "is no address of a server"),
        (("http://h", "--rows", "0"), "--rows is '0'"),
        (("http://h", "--rows", "8-1"), "--rows is '8-1'"),
        (("http://h", "--arrivals", "often"), "--arrivals is 'often'"),
        (("http://h", "--rate", "0"), "rate is 0.0; expected a number above 0"),
        (("http://h", "--input-shape", "a"), "--input-shape is 'a'"),
        (("http://h", "--input-shape", "x:1,2", "--input-shape", "3,4"), "given with names and without"),
        (("http://h", "--token-env", "NO_SUCH_VARIABLE"), "no such environment variable"),
        (("http://h", "--token-file", "none"), "--token-file none cannot be read"),
        (("http://h", "--token-file", "empty"), "is empty"),
        (("http://h", "--token-file", "empty", "--token-env", "HOME"), "exclude each other"),
        (("http://h", "--report", "nowhere/found.json"), "the folder 'nowhere' does not exist"),
        (("http://h", "--report", "."), "which is a folder"),
        (("http://h", "--ca", "none.pem"), "is not encrypted"),
    ],
)
def test_usage(arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").touch()
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert said in " ".join(done.output.split())
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['opau-loadtest', '--help']\nfrom opau_onnx.cli.loadtest import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "loaded = [m for m in ('numpy', 'onnx', 'onnxruntime', 'torch', 'grpc', 'httptools', 'msgspec') if m in sys.modules]\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
